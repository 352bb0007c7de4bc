"""How the error of a gradient that is not finite is told from every other."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import nonfinite


def applied(compressor, strategy=None):
    """A function that takes steps with NaN as the gradient."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        variable = keras.Variable(np.zeros(3, np.float32))
        optimizer = tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(1.0), compressor)
        optimizer.build([variable])

    def step():
        gradient = tf.constant([1.0, np.nan, 2.0])
        optimizer.apply([gradient], [variable])

    return lambda: strategy.run(step)


def in_a_loop(step):
    """A graph that takes steps in a loop, as the studies' trainer does."""

    @tf.function
    def run(steps):
        for _ in tf.range(steps):
            step()

    return lambda: run(tf.constant(3))


def in_scopes(step):
    """A graph with names around the step."""

    @tf.function
    def run():
        with tf.name_scope("outer"), tf.name_scope("inner"):
            step()

    return run


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    "wrapped", [tf.function, in_a_loop, in_scopes], ids=["graph", "loop", "scopes"]
)
@pytest.mark.parametrize(
    "compressor", [tem_tf.HardThreshold(0.5), tem_tf.TopK(0.5)], ids=repr
)
def test_a_step_with_a_nan_is_known(compressor, wrapped, replicas):
    devices = [f"CPU:{i}" for i in range(replicas)]
    strategy = tf.distribute.MirroredStrategy(devices) if replicas > 1 else None
    step = wrapped(applied(compressor, strategy))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        step()
    assert nonfinite.is_nonfinite_error(caught.value)


def test_a_step_without_a_graph_is_known():
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        applied(tem_tf.HardThreshold(0.5))()
    assert nonfinite.is_nonfinite_error(caught.value)


def test_another_assertion_with_the_same_words_is_not():
    @tf.function
    def fail():
        words = f"{nonfinite.NOT_FINITE}. {nonfinite.OPERATION}/Assert"
        check = tf.debugging.Assert(tf.random.uniform([]) > 2.0, [words])
        with tf.control_dependencies([check]):
            return tf.constant(1)

    with pytest.raises(
        tf.errors.InvalidArgumentError, match=nonfinite.NOT_FINITE
    ) as got:
        fail()
    assert not nonfinite.is_nonfinite_error(got.value)


def test_other_types_are_not():
    assert not nonfinite.is_nonfinite_error(ValueError(nonfinite.NOT_FINITE))
    inner = tf.errors.InvalidArgumentError(None, None, f"{nonfinite.NOT_FINITE}.")
    assert not nonfinite.is_nonfinite_error(inner)
