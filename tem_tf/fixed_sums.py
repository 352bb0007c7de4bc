"""Sums whose order of addition is the same with any number of threads.

TensorFlow cuts a long vector into as many pieces as there are threads, so that the last
bit of its sum hangs on their number. Rows of a fixed length are each added up by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

_ROW = 1024  # Our choice; so few numbers are never shared out.


def fixed_norm(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The Euclidean norm of vectors of static length together: float32 scalar.

    Rows are added up by halves: entries that lie half a row apart, then those sums that
    lie a quarter apart, and so on. So other code can give the same bits, and the graph
    optimizer makes no AddN, whose order is another, of a chain of additions.
    """
    squares = [_by_halves(tf.square(vector)) for vector in vectors]
    return tf.sqrt(_by_halves(tf.stack(squares)))


def _by_halves(numbers: tf.Tensor) -> tf.Tensor:
    """The sum of a vector, by rows, then of what they sum up to, and so on."""
    size = numbers.shape[0]
    if size == 0:
        return tf.zeros([], numbers.dtype)
    while True:
        rows = -(-size // _ROW)
        numbers = tf.pad(numbers, [[0, rows * _ROW - size]])
        numbers, half = tf.reshape(numbers, [rows, _ROW]), _ROW // 2
        while half:
            numbers, half = numbers[:, :half] + numbers[:, half:], half // 2
        numbers, size = numbers[:, 0], rows
        if size == 1:
            return numbers[0]


def fixed_sum(vector: tf.Tensor) -> tf.Tensor:
    """The sum of a vector of static length: a scalar of its dtype."""
    size = vector.shape[0]
    rows = size // _ROW
    if not rows:
        return tf.reduce_sum(vector)
    whole = tf.reduce_sum(tf.reshape(vector[: rows * _ROW], [rows, _ROW]), axis=1)
    parts = [fixed_sum(whole), tf.reduce_sum(vector[rows * _ROW :])]
    return tf.add(*parts) if size % _ROW else parts[0]
