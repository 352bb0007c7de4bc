"""A wrapper that changes nothing is the plain Keras optimizer, bit for bit.

`Identity` leaves the gradients to Keras. A tiny threshold sends them all through
compression, memory and exchange: with one or two replicas the sums are the same.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tests.training import (
    WRAPPERS,
    X,
    Y,
    assert_same,
    fit,
    identity,
    make_model,
    make_strategy,
    tiny_threshold,
    values,
)

SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam


def _every_optimizer():
    """Those of Keras that update variables themselves, with its defaults."""
    wrappers = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
    made = {
        "SGD_momentum": lambda: SGD(0.1, momentum=0.9),
        "SGD_nesterov": lambda: SGD(0.1, momentum=0.9, nesterov=True),
        "Adam_amsgrad": lambda: Adam(0.1, amsgrad=True),
    }
    for name, member in vars(keras.optimizers).items():
        optimizer = isinstance(member, type) and issubclass(
            member, keras.optimizers.Optimizer
        )
        if optimizer and name not in wrappers:
            made[name] = member
    return made


EVERY_OPTIMIZER = _every_optimizer()


def test_the_list_of_optimizers_has_those_that_are_known():
    # Those of Keras 3.11; ScheduleFreeAdamW came with 3.14.
    known = (
        "SGD Adam AdamW Adagrad Adadelta Adamax Nadam RMSprop Ftrl Lion Lamb "
        "Adafactor Muon"
    )
    assert set(known.split()) <= set(EVERY_OPTIMIZER)


def decaying():
    return keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.5)


# Several at a time, because tracing a graph takes long. The bounds bind: the first
# gradients have a norm of about 1.
OPTIONS = {
    "schedule_clipnorm_ema": lambda: SGD(
        decaying(), momentum=0.9, clipnorm=0.1, use_ema=True, ema_momentum=0.5
    ),
    "clipvalue_weight_decay": lambda: Adam(0.1, clipvalue=0.05, weight_decay=0.1),
}
# Under a strategy Keras itself fails with these in `fit`: `merge_call` in `tf.cond`.
OPTIONS_ALONE = {
    "ema_overwrite_global_clipnorm": lambda: Adam(
        0.1, use_ema=True, ema_overwrite_frequency=2, global_clipnorm=0.1
    ),
    "accumulation_loss_scale_factor": lambda: SGD(
        0.5, gradient_accumulation_steps=2, loss_scale_factor=8.0
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("SGD", "Adam") else pytest.mark.slow)
        for name in EVERY_OPTIMIZER
    ],
)
def test_every_optimizer_in_fit_is_unchanged(name):
    def train(wrap):
        model = make_model(wrap(EVERY_OPTIMIZER[name]()), run_eagerly=True)
        return fit(model, batch_size=4)

    expected = train(lambda inner: inner)
    for wrap in WRAPPERS.values():
        assert_same(train(wrap), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS | OPTIONS_ALONE)
def test_options_in_a_graph_are_unchanged(name):
    make = (OPTIONS | OPTIONS_ALONE)[name]
    expected = fit(make_model(make()))
    for wrap in WRAPPERS.values():
        assert_same(fit(make_model(wrap(make()))), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_options_on_two_replicas_are_unchanged(name):
    make, strategy = OPTIONS[name], make_strategy(2)
    expected = fit(make_model(make, strategy))
    for wrap in WRAPPERS.values():
        assert_same(fit(make_model(lambda wrap=wrap: wrap(make()), strategy)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_OPTIMIZER)
def test_every_optimizer_on_two_replicas_is_unchanged(name):
    strategy = make_strategy(2)
    gradients = np.random.default_rng(0).normal(size=(3, 2, 3, 2)).astype("float32")

    def train(wrap):
        with strategy.scope():
            optimizer = wrap(EVERY_OPTIMIZER[name]())
            weights = keras.Variable(np.ones((3, 2), "float32"), name="kernel")
            optimizer.build([weights])

        def step(row):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([row[replica]], [weights])

        for row in gradients:
            strategy.run(step, args=(row,))
        return values([weights, *optimizer.variables])

    expected = train(lambda inner: inner)
    for wrap in WRAPPERS.values():
        for value, other in zip(train(wrap), expected, strict=True):
            np.testing.assert_array_equal(value, other)


def test_several_steps_per_execution_are_the_same_steps():
    expected = fit(make_model(Adam(0.1)))
    model = fit(make_model(tiny_threshold(Adam(0.1)), steps_per_execution=2))
    assert_same(model, expected)
    assert model.optimizer.communication_summary()["steps"] == 4


def test_train_on_batch_on_two_replicas_is_unchanged():
    def train(wrap):
        model = make_model(lambda: wrap(Adam(0.1)), make_strategy(2))
        for _ in range(2):
            model.train_on_batch(X, Y)
        return model

    expected = train(lambda inner: inner)
    for wrap in WRAPPERS.values():
        assert_same(train(wrap), expected)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float64"])
def test_other_dtypes_are_unchanged(policy):
    def train(wrap):
        return fit(make_model(wrap(Adam(0.1)), run_eagerly=True))

    keras.config.set_dtype_policy(policy)
    try:
        expected, same = train(lambda inner: inner), train(identity)
        sparse = train(tiny_threshold)
    finally:
        keras.config.set_dtype_policy("float32")
    assert_same(same, expected)
    if policy == "float64":  # Values travel as float32, of 2**-24 relative rounding.
        for value, other in zip(
            values(sparse.weights), values(expected.weights), strict=True
        ):
            assert value.dtype == np.float64
            np.testing.assert_allclose(value, other, rtol=0, atol=1e-6)
    else:
        assert_same(sparse, expected)


@pytest.mark.slow
def test_embeddings_in_fit_are_unchanged():
    words = np.array([[1, 1, 2], [0, 1, 1]])  # Word 1 twice in each sentence.

    def train(optimizer):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Embedding(4, 2),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        )
        model.compile(optimizer, "mse", run_eagerly=True)
        model.fit(words, Y[:2], epochs=2, shuffle=False, verbose=0)
        return model

    clipped = {"clipnorm": 0.5}
    assert_same(train(identity(Adam(0.1, **clipped))), train(Adam(0.1, **clipped)))
    # Keras adds the rows of a word one by one to its variables, we add them first.
    sparse = values(train(tiny_threshold(SGD(0.1))).weights)
    for value, other in zip(sparse, values(train(SGD(0.1)).weights), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-7)


def test_a_real_threshold_does_change_something():
    """So that the equalities above could fail."""
    expected = fit(make_model(SGD(0.1)))
    coarse = tem_tf.SparsifiedOptimizer(SGD(0.1), tem_tf.HardThreshold(0.2))
    model = fit(make_model(coarse))
    with pytest.raises(AssertionError, match="not equal"):
        assert_same(model, expected)
