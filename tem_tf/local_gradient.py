"""What is done to a replica's own gradient before anything is remembered or sent.

A gradient comes in two parts, a vector that is compressed and a block that is not.
"""

from __future__ import annotations

import tensorflow as tf


def zero_unless_finite(
    vector: tf.Tensor, block: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Zeros in the place of a gradient that is not finite, and 1 if it was not.

    Comes before anything else: NaN would stay in the residual for ever.
    """
    finite = tf.reduce_all(tf.math.is_finite(vector)) & tf.reduce_all(
        tf.math.is_finite(block)
    )
    vector, block = tf.cond(
        finite,
        lambda: (vector, block),
        lambda: (tf.zeros_like(vector), tf.zeros_like(block)),
    )
    return vector, block, 1 - tf.cast(finite, tf.int32)


def clip(
    vector: tf.Tensor, block: tf.Tensor, limit: float | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Clips both parts together to a norm; also returns what it multiplied by."""
    if limit is None:
        return vector, block, tf.ones([])
    norm = tf.sqrt(tf.reduce_sum(tf.square(vector)) + tf.reduce_sum(tf.square(block)))
    factor = limit / tf.maximum(norm, limit)
    return vector * factor, block * factor, factor
