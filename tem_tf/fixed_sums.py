"""Sums whose order of addition is the same with any number of threads.

TensorFlow cuts a long vector into as many pieces as there are threads, so that the last
bit of its sum hangs on their number. Rows of a fixed length are each added up by one.
"""

from __future__ import annotations

import tensorflow as tf

_ROW = 1024  # Our choice; so few numbers are never shared out.


def fixed_sum(vector: tf.Tensor) -> tf.Tensor:
    """The sum of a vector of static length: a scalar of its dtype."""
    size = vector.shape[0]
    rows = size // _ROW
    if not rows:
        return tf.reduce_sum(vector)
    whole = tf.reduce_sum(tf.reshape(vector[: rows * _ROW], [rows, _ROW]), axis=1)
    parts = [fixed_sum(whole), tf.reduce_sum(vector[rows * _ROW :])]
    return tf.add(*parts) if size % _ROW else parts[0]
