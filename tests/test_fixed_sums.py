"""Sums of a fixed order."""

import numpy as np
import pytest
import tensorflow as tf

from tem_tf.fixed_sums import fixed_sum


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000, 1024 * 1025 + 3])
def test_of_integers_the_sum_is_exact(size, dtype):
    vector = np.random.default_rng(0).integers(-8, 9, size=size).astype(dtype)
    total = fixed_sum(tf.constant(vector))
    assert total.dtype == tf.as_dtype(dtype)
    assert total.shape == []
    assert float(total) == vector.sum()


def test_the_order_is_that_of_rows():
    """Of rows, then of what they sum up to, then of the rest."""
    vector = np.random.default_rng(0).normal(size=3 * 1024 + 5).astype(np.float32)
    rows = [float(fixed_sum(tf.constant(row))) for row in np.split(vector[:-5], 3)]
    whole = fixed_sum(tf.constant(rows)) + tf.reduce_sum(vector[-5:])
    assert float(fixed_sum(tf.constant(vector))) == float(whole)
