"""The networks have the studies' sizes and initialisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tem_tf.workloads import architectures


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


@pytest.mark.parametrize(("arch", "least"), [("simple-cnn", 16), ("resnet-8", 4)])
def test_too_small_images_are_refused(arch, least):
    architectures.build(arch, (least, least, 1), seed=0)
    with pytest.raises(ValueError, match=f"at least {least} x {least} pixels"):
        architectures.build(arch, (least, least - 1, 1), seed=0)


def test_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="`arch` must be one of .*arch='vgg'"):
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
@pytest.mark.parametrize("arch", architectures.ARCHITECTURES)
def test_model_can_be_saved_and_loaded(arch, tmp_path):
    model = architectures.build(arch, (28, 28, 1), seed=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.ones((1, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(model(images), loaded(images))
