"""Batch norm and forks, whose gradients have one order of addition."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tem_studies.workloads.weighted_layers import BatchNorm, forked

INPUTS = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(np.float32)


def stepped(kind, trainable=True):
    """Outputs in training, gradients, statistics after it, outputs in evaluation."""
    layer = kind(momentum=0.9, epsilon=1e-5)
    layer.build(INPUTS.shape)
    layer.trainable = trainable
    inputs = tf.constant(INPUTS)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(outputs**3)
    watched = [inputs, *(v.value for v in layer.trainable_variables)]
    return {
        "outputs": [outputs],
        "gradients": tape.gradient(loss, watched),
        "statistics": [layer.moving_mean.numpy(), layer.moving_variance.numpy()],
        "evaluated": [layer(inputs, training=False)],
    }


@pytest.mark.parametrize("trainable", [True, False], ids=["trains", "frozen"])
def test_batch_norm_is_that_of_keras(trainable):
    ours = stepped(BatchNorm, trainable)
    theirs = stepped(keras.layers.BatchNormalization, trainable)
    for name, values in theirs.items():
        # Its gradient adds up three terms in another order: a few roundings.
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if name == "gradients" else {"rtol": 0}
        for a, b in zip(ours[name], values, strict=True):
            np.testing.assert_allclose(a, b, err_msg=name, **tolerance)


def test_both_of_a_fork_are_the_tensor_and_its_gradient_is_their_sum():
    x = keras.Input((3,))
    first, second = forked(x)
    model = keras.Model(x, [2 * first, 5 * second])
    values = tf.constant([[1.0, -2.0, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(values)
        first, second = model(values)
        loss = tf.reduce_sum(first) + tf.reduce_sum(second)
    np.testing.assert_array_equal(first * 5, second * 2)
    np.testing.assert_array_equal(tape.gradient(loss, values), [[7, 7, 7]])
