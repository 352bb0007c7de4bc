"""The networks have the studies' sizes and initialisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_studies.workloads import architectures


@pytest.mark.parametrize(
    ("arch", "shape", "parameters"),
    [
        ("simple-cnn", (28, 28, 1), 62_346),  # DPS
        ("resnet-8", (32, 32, 3), 75_050),  # DPS
        ("simple-cnn", (32, 32, 3), 62_346 + 5 * 5 * 2 * 32 + 10 * 64 * (25 - 16)),
        ("resnet-8", (28, 28, 1), 75_050 - 3 * 3 * 2 * 16),
    ],
)
def test_number_of_parameters(arch, shape, parameters):
    model = architectures.build(arch, shape, seed=0)
    assert model.count_params() == parameters
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize(
    ("arch", "classes", "parameters"),
    [
        # TEM's; batch norm's moving statistics are not trained, so not among them.
        ("resnet-18", 10, 11_173_962),
        ("resnet-18", 100, 11_220_132),
        ("senet-18", 10, 11_260_354),
        ("senet-18", 100, 11_306_524),
        ("googlenet", 10, 6_166_250),
        ("googlenet", 100, 6_258_500),
    ],
)
def test_number_of_trained_parameters(arch, classes, parameters):
    model = architectures.build(arch, (32, 32, 3), seed=0, classes=classes)
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == parameters
    assert model.output_shape == (None, classes)


class Weights:
    """The weights of a deep network in the order in which its layers were made."""

    def __init__(self, model):
        by_path = {v.path: tf.constant(v.numpy()) for v in model.trainable_variables}

        count = sum("convolution" in path and "kernel" in path for path in by_path)
        self.kernels = iter(
            [by_path.pop(f"convolution_{i + 1}/kernel") for i in range(count)]
        )
        self.biases = iter(
            [
                by_path.pop(f"convolution_{i + 1}/bias")
                for i in range(count)
                if f"convolution_{i + 1}/bias" in by_path
            ]
        )
        count = sum("gamma" in path for path in by_path)
        self.norms = iter(
            [
                (
                    by_path.pop(f"batch_norm_{i}/gamma"),
                    by_path.pop(f"batch_norm_{i}/beta"),
                )
                for i in range(1, count + 1)
            ]
        )
        self.dense = by_path.pop("dense/kernel"), by_path.pop("dense/bias")
        assert not by_path

    def convolution(self, x, stride=1):
        return tf.nn.conv2d(x, next(self.kernels), stride, "SAME")

    def norm(self, x):
        """A batch norm at its initial moving statistics."""
        gamma, beta = next(self.norms)
        return x / np.sqrt(1 + 1e-5) * gamma + beta

    def logits(self, x):
        kernel, bias = self.dense
        for rest in (self.kernels, self.biases, self.norms):
            assert next(rest, None) is None
        return tf.reduce_mean(x, [1, 2]) @ kernel + bias


def deep_resnet(x, w):
    """ResNet-18 from its description."""
    x = tf.nn.relu(w.norm(w.convolution(x)))
    for stage, channels in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            shortcut = x
            if stride == 2:
                shortcut = w.norm(w.convolution(x, stride))
            x = tf.nn.relu(w.norm(w.convolution(x, stride)))
            assert x.shape[-1] == channels
            x = tf.nn.relu(w.norm(w.convolution(x)) + shortcut)
    return w.logits(x)


def deep_senet(x, w):
    """SENet-18 from its description."""
    x = tf.nn.relu(w.norm(w.convolution(x)))
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            activated = tf.nn.relu(w.norm(x))
            shortcut = w.convolution(activated, stride) if stride == 2 else x
            x = tf.nn.relu(w.norm(w.convolution(activated, stride)))
            x = w.convolution(x)
            squeezed = tf.reduce_mean(x, [1, 2], keepdims=True)
            squeezed = tf.nn.relu(w.convolution(squeezed) + next(w.biases))
            assert squeezed.shape[-1] == x.shape[-1] // 16
            x = x * tf.sigmoid(w.convolution(squeezed) + next(w.biases)) + shortcut
    return w.logits(x)


def deep_googlenet(x, w):
    """GoogLeNet from its description."""

    def unit(x):
        return tf.nn.relu(w.norm(w.convolution(x) + next(w.biases)))

    x = unit(x)
    for module in range(1, 10):
        branches = [unit(x), unit(unit(x)), unit(unit(unit(x)))]
        branches.append(unit(tf.nn.max_pool(x, 3, 1, "SAME")))
        x = tf.concat(branches, -1)
        if module in (2, 7):
            x = tf.nn.max_pool(x, 3, 2, "SAME")
    assert x.shape[-1] == 1024
    return w.logits(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "network"),
    [
        ("resnet-18", deep_resnet),
        ("senet-18", deep_senet),
        ("googlenet", deep_googlenet),
    ],
)
def test_deep_network_computes_what_is_described(arch, network):
    model = architectures.build(arch, (16, 16, 3), seed=0)
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:  # biases and scales that show
        noise = generator.normal(0, 0.02, variable.shape)
        variable.assign(variable + noise.astype(np.float32))
    images = generator.normal(size=(2, 16, 16, 3)).astype(np.float32)
    want = network(images, Weights(model))
    # float32 through some twenty layers.
    np.testing.assert_allclose(model(images), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arch", "least"),
    [("simple-cnn", 16), ("resnet-8", 4), ("resnet-18", 8), ("googlenet", 4)],
)
def test_too_small_images_are_refused(arch, least):
    architectures.build(arch, (least, least, 1), seed=0)
    with pytest.raises(Refusal, match=f"at least {least} x {least} pixels"):
        architectures.build(arch, (least, least - 1, 1), seed=0)


def test_unknown_architecture_is_refused():
    with pytest.raises(Refusal, match="`arch` must be one of .*arch='vgg'"):
        architectures.build("vgg", (28, 28, 1), seed=0)


def test_initialisation_is_scaled_by_fan_in_and_biases_are_zero():
    model = architectures.build("resnet-8", (32, 32, 3), seed=1)
    for variable in model.trainable_variables:
        values = variable.numpy()
        if values.ndim == 1:
            assert not values.any()
            continue
        fan_in = np.prod(values.shape[:-1])
        # n samples: the deviation is known to about 1/sqrt(2n), the mean to 1/sqrt(n);
        # five of these.
        n = values.size
        assert values.std() * np.sqrt(fan_in) == pytest.approx(
            1, abs=5 / np.sqrt(2 * n)
        )
        assert abs(values.mean()) * np.sqrt(fan_in) < 5 / np.sqrt(n)
        # Truncated at two deviations of a normal that is 1/0.87962566 as wide.
        assert abs(values).max() * np.sqrt(fan_in) < 2 / 0.87962566 + 1e-6


def test_same_seed_draws_the_same_weights_and_layers_differ():
    first, second, other = (
        architectures.build("simple-cnn", (28, 28, 1), seed).get_weights()
        for seed in (3, 3, 4)
    )
    for a, b, c in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.ndim == 1 or (a != c).any()
    assert first[0].ravel()[0] * 5 != pytest.approx(first[2].ravel()[0] * 40)


def test_variable_paths_do_not_depend_on_what_was_built_before():
    paths = [
        [v.path for v in architectures.build("resnet-8", (32, 32, 3), 0).variables]
        for _ in range(2)
    ]
    assert paths[0] == paths[1]
    assert paths[0][0] == "convolution_1/kernel"


def test_resnet_8_computes_what_the_authors_wrote():
    model = architectures.build("resnet-8", (32, 32, 3), seed=0)
    for variable in model.trainable_variables:  # biases that show
        variable.assign(variable + 0.01)
    w = iter(tf.constant(weight) for weight in model.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)

    def convolution(x, stride=1):
        return tf.nn.conv2d(x, next(w), stride, "SAME") + next(w)

    x = convolution(images)
    for stride in (1, 2, 2):
        shortcut, activated = x, tf.nn.relu(x)
        if stride == 2:
            shortcut = tf.nn.avg_pool(activated, 2, 2, "SAME")
            shortcut = tf.concat([shortcut, tf.zeros_like(shortcut)], -1)
        x = tf.nn.relu(convolution(activated, stride))
        x = convolution(x) + shortcut
    logits = tf.reduce_mean(tf.nn.relu(x), [1, 2]) @ next(w) + next(w)
    np.testing.assert_allclose(model(images), logits, rtol=1e-4, atol=1e-5)


# Keras 3.15 asks numpy 2 for an array in the old way.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("arch", ["simple-cnn", "resnet-8", "senet-18"])
def test_model_can_be_saved_and_loaded(arch, tmp_path):
    model = architectures.build(arch, (28, 28, 1), seed=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.ones((1, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(model(images), loaded(images))
