"""Several wrapped optimizers in one network, in one process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import several_optimizers

TRAININGS = [
    several_optimizers.train_gan,
    pytest.param(
        several_optimizers.train_by_multi_optimizer,
        marks=pytest.mark.skipif(
            not hasattr(keras.optimizers, "MultiOptimizer"),
            reason="it came with Keras 3.15",
        ),
    ),
]


@pytest.mark.parametrize("train", TRAININGS)
def test_several_optimizers_without_loss_are_plain_keras_bit_for_bit(train):
    plain, wrapped = (
        train(tf.distribute.get_strategy(), wrapping)
        for wrapping in ("plain", "lossless")
    )
    assert wrapped["history"] == plain["history"]
    assert wrapped["iterations"] == plain["iterations"] == [8, 8]
    for key in ("weights", "slots"):
        for ours, theirs in zip(wrapped[key], plain[key], strict=True):
            np.testing.assert_array_equal(ours, theirs)
