"""The studies' update equations against their transcription in numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.optimizers import (
    OPTIMIZERS,
    MatrixAdamW,
    Momentum,
    WarmUp,
    make_learning_rate,
    make_optimizer,
    make_step_decay,
)

RATES = [0.5, 0.4, 0.1, 0.1, 0.3]
GRADIENTS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
START = np.float32([1.0, -2.0, 3.0, 0.5])
from tests.training import make_strategy


@keras.saving.register_keras_serializable(package="tests")
class Rates(keras.optimizers.schedules.LearningRateSchedule):
    """The rates above, one per step."""

    def __call__(self, step):
        return keras.ops.take(np.float32(RATES), step)

    def get_config(self):
        return {}


def run(optimizer, gradients=GRADIENTS):
    """Weights after the gradients have been applied one after the other."""
    weights = keras.Variable(START)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weights])
    return weights.numpy()


def transcribed(momentum=0.0, nesterov=False, weight_decay=0.0):
    """TF 1's MomentumOptimizer, coupled weight decay before it."""
    w, v = START.astype(np.float64), np.zeros(4)
    for rate, g in zip(RATES, GRADIENTS, strict=True):
        g = g + weight_decay * w
        v = momentum * v + g
        w = w - rate * (g + momentum * v if nesterov else v)
    return w


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", transcribed()),
        ("momentum", transcribed(0.9)),
        ("nesterov", transcribed(0.9, nesterov=True)),
    ],
)
def test_named_optimizer_follows_its_equation(name, expected):
    # float32 against float64: a few roundings of values below 10.
    np.testing.assert_allclose(run(OPTIMIZERS[name](Rates(), 0.9)), expected, atol=5e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_coupled_weight_decay_comes_before_the_velocity(momentum):
    optimizer = Momentum(Rates(), momentum, coupled_weight_decay=0.1)
    expected = transcribed(momentum, weight_decay=0.1)
    np.testing.assert_allclose(run(optimizer), expected, atol=5e-6)


def test_batch_norm_has_no_weight_decay():
    settings = Configuration(optimizer="momentum", weight_decay=0.1)
    optimizer = OPTIMIZERS["momentum"](Rates(), 0.9, settings)
    weights = [keras.Variable(START, name=name) for name in ("kernel", "gamma", "beta")]
    for gradient in GRADIENTS:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)] * 3, weights)
    kernel, gamma, beta = (variable.numpy() for variable in weights)
    decayed, plain = transcribed(0.9, weight_decay=0.1), transcribed(0.9)
    np.testing.assert_allclose(kernel, decayed, atol=5e-6)
    np.testing.assert_allclose(gamma, plain, atol=5e-6)
    np.testing.assert_array_equal(gamma, beta)


def test_plain_sgd_takes_weight_decay_too():
    settings = Configuration(weight_decay=0.1)
    optimizer = OPTIMIZERS["sgd"](Rates(), 0.9, settings)
    np.testing.assert_allclose(run(optimizer), transcribed(0, False, 0.1), atol=5e-6)


def test_adam_takes_its_settings():
    settings = Configuration(optimizer="adam", beta_1=0.25, beta_2=0.5, epsilon=1e-8)
    config = OPTIMIZERS["adam"](0.0045, 0.9, settings).get_config()
    assert (config["beta_1"], config["beta_2"], config["epsilon"]) == (0.25, 0.5, 1e-8)


def test_differs_from_keras_under_a_changing_rate_only():
    # By hand: rates 1 then 0.5, gradient 1, momentum 0.5, two steps from 0.
    # Studies: v = 1, 1.5; w = -1, -1.75. Keras: v = -1, -1; w = -1, -2.
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
    ones = np.ones((2, 4), np.float32)
    studies, theirs = Momentum(rate, 0.5), keras.optimizers.SGD(rate, 0.5)
    np.testing.assert_array_equal(run(studies, ones), START - 1.75)
    np.testing.assert_array_equal(run(theirs, ones), START - 2)
    same = [Momentum(0.5, 0.5), keras.optimizers.SGD(0.5, 0.5)]
    np.testing.assert_array_equal(*(run(optimizer, ones) for optimizer in same))


def test_adam_is_kerass_own():
    assert type(OPTIMIZERS["adam"](0.1, 0.9)) is keras.optimizers.Adam


def test_adamw_decays_matrices_alone():
    settings = Configuration(
        optimizer="adamw", weight_decay=0.1, beta_1=0.5, beta_2=0.9, epsilon=1e-3
    )
    optimizer = OPTIMIZERS["adamw"](0.2, 0.9, settings)
    matrix = keras.Variable(START[:, np.newaxis])
    vector = keras.Variable(START)
    for gradient in GRADIENTS:
        optimizer.apply([gradient[:, np.newaxis], gradient], [matrix, vector])

    def transcription(weight_decay):
        """Loshchilov and Hutter's AdamW, ε beside the uncorrected root as in Keras."""
        w, m, v = START.astype(np.float64), 0.0, 0.0
        for t, g in enumerate(GRADIENTS, start=1):
            m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g**2
            w = w - 0.2 * weight_decay * w
            rate = 0.2 * np.sqrt(1 - 0.9**t) / (1 - 0.5**t)
            w = w - rate * m / (np.sqrt(v) + 1e-3)
        return w

    # float32 against float64: a few roundings of values below 10.
    np.testing.assert_allclose(matrix.numpy()[:, 0], transcription(0.1), atol=5e-6)
    np.testing.assert_allclose(vector.numpy(), transcription(0.0), atol=5e-6)


def test_adamw_survives_serialisation():
    optimizer = MatrixAdamW(Rates(), 0.1, 0.8, 0.9, 1e-3)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is MatrixAdamW
    assert copy.get_config() == optimizer.get_config()
    np.testing.assert_array_equal(run(copy), run(optimizer))


def test_momentum_survives_serialisation():
    optimizer = Momentum(Rates(), 0.8, nesterov=True, coupled_weight_decay=0.01)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, Momentum)
    assert copy.get_config() == optimizer.get_config()
    np.testing.assert_array_equal(run(copy), run(optimizer))


def test_momentum_0_needs_no_velocity():
    optimizer = Momentum(0.1, 0.0)
    optimizer.build([keras.Variable(START)])
    assert optimizer.velocities == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\). Received: momentum=1.0."),
        ({"coupled_weight_decay": -1}, "`coupled_weight_decay` must be at least 0."),
        ({"coupled_weight_decay": float("nan")}, "Received: .*=nan"),
    ],
)
def test_wrong_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Momentum(0.1, **arguments)


def test_linear_decay_falls_to_the_factor_and_stays_there():
    rate = make_learning_rate(0.4, "linear", 10, 0.25)
    got = [float(rate(step)) for step in (0, 5, 10, 11, 1000)]
    np.testing.assert_allclose(got, [0.4, 0.25, 0.1, 0.1, 0.1], rtol=1e-6)


def test_cosine_decay_falls_along_half_a_cosine():
    rate = make_learning_rate(0.4, "cosine", 10, 0.25)
    got = [float(rate(step)) for step in (0, 5, 10, 11, 1000)]
    np.testing.assert_allclose(got, [0.4, 0.25, 0.1, 0.1, 0.1], rtol=1e-6)


def test_warm_up_of_the_cosine_is_nanogpts():
    rate = make_learning_rate(1e-3, "cosine", 2000, 0.1, warmup_steps=100)

    def transcribed(step):
        if step < 100:
            return 1e-3 * (step + 1) / 101
        share = min((step - 100) / 1900, 1)
        return 1e-4 + 0.5 * (1 + np.cos(np.pi * share)) * 9e-4

    steps = (0, 1, 50, 99, 100, 101, 700, 1999, 2000, 3000)
    got = [float(rate(step)) for step in steps]
    np.testing.assert_allclose(got, [transcribed(s) for s in steps], rtol=1e-5)
    configuration = Configuration(
        learning_rate=1e-3,
        decay_type="cosine",
        decay_steps=2000,
        end_learning_rate_factor=0.1,
        learning_rate_warmup_steps=100,
    )
    optimizer = make_optimizer(configuration)
    optimizer.build([keras.Variable(START)])
    optimizer.iterations.assign(700)
    assert float(optimizer.learning_rate) == pytest.approx(transcribed(700))


def test_step_decay_takes_a_tenth_from_each_step_on():
    rate = make_step_decay(2.0, [10, 20])
    got = [float(rate(step)) for step in (0, 9, 10, 19, 20, 99)]
    np.testing.assert_allclose(got, [2, 2, 0.2, 0.2, 0.02, 0.02], rtol=1e-6)


@pytest.mark.parametrize("base", [0.1, make_step_decay(0.1, [7])])
def test_warm_up_rises_to_the_factor_and_stays_there(base):
    rate = WarmUp(base, steps=5, factor=16.0)
    late = 0.1 if base == 0.1 else 0.01
    want = [0.1, 0.1 * (1 + 15 * 2 / 5), 1.6, 1.6, 16 * late]
    steps = (0, 2, 5, 6, 7)
    for schedule in (rate, WarmUp.from_config(rate.get_config())):
        got = [float(schedule(step)) for step in steps]
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_epochs_of_the_schedule_are_counted_in_steps():
    configuration = Configuration(
        learning_rate=0.1,
        decay_type="step",
        decay_epochs=(150, 250),
        learning_rate_warmup_epochs=5,
        learning_rate_warmup_factor=16.0,
    )
    optimizer = make_optimizer(configuration, steps_per_epoch=20)
    optimizer.build([keras.Variable(START)])
    for step, want in ((0, 0.1), (100, 1.6), (2999, 1.6), (3000, 0.16), (5000, 0.016)):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(want)


def test_constant_rate_is_a_number():
    assert make_learning_rate(0.4, "constant", 10, 0.25) == 0.4


def test_optimizer_is_what_the_configuration_says():
    configuration = Configuration(
        optimizer="momentum",
        momentum=0.8,
        decay_type="linear",
        compressor="topk",
        density=0.25,
        topk_scope="model",
        error_feedback=False,
        dense_below=10,
        warmup_steps=3,
        local_clipnorm=0.4,
    )
    config = make_optimizer(configuration).get_config()
    inner = make_optimizer(configuration).inner_optimizer
    assert inner.momentum == 0.8
    assert isinstance(inner.get_config()["learning_rate"]["config"]["decay_steps"], int)
    compressor = keras.saving.deserialize_keras_object(config["compressor"])
    assert compressor == tem_tf.TopK(density=0.25, scope="model")
    wanted = {"memory": None, "dense_below": 10, "warmup_steps": 3}
    assert wanted.items() <= config.items()
    assert config["local_clipnorm"] == 0.4


def test_workers_may_take_steps_by_themselves():
    configuration = Configuration(
        optimizer="adamw", local_steps=7, outer_momentum=0.0, local_clipnorm=0.4
    )
    optimizer = make_optimizer(configuration)
    assert isinstance(optimizer, tem_tf.LocalUpdates)
    assert optimizer.local_steps == 7
    # Their own gradients are undivided.
    assert optimizer.inner_optimizer.global_clipnorm == 0.4
    outer = optimizer.outer_optimizer
    assert (float(outer.learning_rate), outer.momentum) == (np.float32(0.9), 0.0)
    assert not outer.nesterov


def test_adamw_may_send_its_momentum():
    configuration = Configuration(
        optimizer="adamw",
        target_sparsity=0.0,
        decay_type="linear",
        weight_decay=0.1,
        beta_2=0.99,
        freeze_step=7,
        compressor="all",
        value_dtype="int2",
        local_clipnorm=0.4,
    )
    strategy = make_strategy(2)
    with strategy.scope():
        optimizer = make_optimizer(configuration)
        matrix = keras.Variable(np.ones((2, 3), np.float32))
        vector = keras.Variable(np.ones(3, np.float32))
        optimizer.build([matrix, vector])
    assert isinstance(optimizer, tem_tf.CompressedAdamW)
    config = optimizer.get_config()
    wanted = {"freeze_step": 7, "beta_2": 0.99, "value_dtype": "int2"}
    assert wanted.items() <= config.items()
    assert config["learning_rate"]["class_name"] == "PolynomialDecay"
    assert config["global_clipnorm"] == 0.2  # Of the gradient that Keras has halved.
    strategy.run(
        lambda: optimizer.apply([tf.zeros((2, 3)), tf.zeros(3)], [matrix, vector])
    )
    assert matrix.numpy()[0, 0] < 1 and vector.numpy()[0] == 1  # What decays.


def test_random_k_draws_by_the_runs_seed():
    configuration = Configuration(compressor="random_k", density=0.1, seed=5)
    config = make_optimizer(configuration).get_config()
    compressor = keras.saving.deserialize_keras_object(config["compressor"])
    assert compressor == tem_tf.RandomK(density=0.1, seed=5)
