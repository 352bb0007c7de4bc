"""Sums whose order of addition is the same with any number of threads.

TensorFlow cuts a long vector into as many pieces as there are threads, so that the last
bit of its sum hangs on their number. Rows of a fixed length are each added up by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

_ROW = 1024  # Our choice; so few numbers are never shared out.
_COLUMNS = 64


def fixed_norm(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The Euclidean norm of vectors of static length together: float32 scalar.

    Every addition has its place, so that other code can give the same bits.
    """
    squares = [_by_columns(tf.square(vector)) for vector in vectors]
    return tf.sqrt(_by_columns(tf.stack(squares)))


def _by_columns(numbers: tf.Tensor) -> tf.Tensor:
    """The sum of a vector, by rows, then of what they sum up to, and so on.

    A row is a matrix: its columns are added up from above, then by halves, those that
    lie half a line apart, then a quarter, and so on.
    """
    size = numbers.shape[0]
    if size == 0:
        return tf.zeros([], numbers.dtype)
    first = True
    while first or size > 1:
        first, rows = False, -(-size // _ROW)
        numbers = tf.pad(numbers, [[0, rows * _ROW - size]])
        lines = tf.reshape(numbers, [rows, _ROW // _COLUMNS, _COLUMNS])
        columns, half = lines[:, 0], _COLUMNS // 2
        for line in range(1, lines.shape[1]):
            columns += lines[:, line]
        while half:
            columns, half = columns[:, :half] + columns[:, half:], half // 2
        numbers, size = columns[:, 0], rows
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
