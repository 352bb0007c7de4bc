"""Sums of a fixed order."""

import numpy as np
import pytest
import tensorflow as tf

from tem_tf.fixed_sums import fixed_norm, fixed_sum


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


@pytest.mark.parametrize("sizes", [[1], [0, 3], [1023, 1024, 1025], [1024 * 1025 + 3]])
def test_of_small_integers_the_norm_is_exact(sizes):
    rng = np.random.default_rng(0)
    vectors = [rng.integers(-2, 3, size=n).astype(np.float32) for n in sizes]
    found = fixed_norm([tf.constant(vector) for vector in vectors])
    assert found.shape == [] and found.dtype == tf.float32
    squares = sum(int(vector @ vector) for vector in vectors)
    assert found.numpy() == np.sqrt(np.float32(squares))


@pytest.mark.parametrize("graph", [False, True])
def test_the_norms_order_is_by_halves(graph):
    """Of a row first the entries half a row apart, in float32."""
    vector = np.random.default_rng(0).normal(size=1024 + 700).astype(np.float32)
    rows = []
    for row in (vector[:1024], np.pad(vector[1024:], [0, 324])):
        numbers = np.square(row)
        while numbers.size > 1:
            half = numbers.size // 2
            numbers = numbers[:half] + numbers[half:]
        rows.append(numbers[0])
    norm = tf.function(fixed_norm) if graph else fixed_norm
    assert norm([tf.constant(vector)]).numpy() == np.sqrt(rows[0] + rows[1])
