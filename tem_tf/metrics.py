"""What the communication of a run cost and held back, in a vector per replica."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

# Totals over the steps of a run, then values of the last step. Bytes and entries are
# those that this replica contributed; error, residual and gradient are in units of
# its own gradient. float64 counts exactly to 2**53.
_TOTALS = (
    "steps",
    "entries",
    "payload_bytes",
    "padded_bytes",
    "dense_bytes",
    "total_error",
    "nonfinite_gradients",
)
_LAST = ("error", "residual_squared", "residual_max", "gradient_squared")
_WORD_BYTES = 4


def zeros() -> tf.Tensor:
    """The vector before the first step."""
    return tf.zeros([len(_TOTALS) + len(_LAST)], tf.float64)


def add_step(
    vector: tf.Tensor,
    *,
    entries: tf.Tensor,
    payload_words: tf.Tensor,
    dense_words: tf.Tensor,
    padded_words: tf.Tensor | int = 0,
    error: tf.Tensor | float = 0.0,
    gradient_norm: tf.Tensor | float = 0.0,
    nonfinite: tf.Tensor | int = 0,
    residual: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the vector with one more step in it.

    Args:
        vector: What `zeros` or the last call returned.
        entries: Number of entries sent.
        payload_words: 32-bit words sent, padding excluded.
        dense_words: Words that the whole gradient would take.
        padded_words: Words of padding.
        error: ‖e‖², the squared norm of what was not sent.
        gradient_norm: Norm of the local gradient, before clipping.
        nonfinite: Number of replicas whose gradient was not finite.
        residual: What error feedback keeps, any shape.
    """
    squared, largest = 0.0, 0.0
    if residual is not None and residual.shape.num_elements() != 0:
        squared = tf.reduce_sum(tf.square(residual))
        largest = tf.reduce_max(tf.abs(residual))
    step = [
        1,
        entries,
        _WORD_BYTES * tf.cast(payload_words, tf.float64),
        _WORD_BYTES * tf.cast(padded_words, tf.float64),
        _WORD_BYTES * tf.cast(dense_words, tf.float64),
        error,
        nonfinite,
        error,
        squared,
        largest,
        tf.square(gradient_norm),
    ]
    keep = tf.constant([1.0] * len(_TOTALS) + [0.0] * len(_LAST), tf.float64)
    return vector * keep + tf.stack([tf.cast(x, tf.float64) for x in step])


def summarise(rows: np.ndarray) -> dict[str, float]:
    """Joins the vectors of all replicas, (replicas, metrics), into one summary.

    Returns:
        `replicas`; `steps`; over steps and replicas together `entries_sent`,
        `payload_bytes` (without padding), `padded_bytes` (the padding alone),
        `dense_bytes` (4 bytes per entry of the gradient); `density`, entries sent by
        entries of the gradient; `total_error`, the sum over steps of the mean over
        replicas of ‖e‖²; of the last step `compression_error` (mean ‖e‖²),
        `residual_norm` (root of the mean squared norm), `residual_max` and
        `gradient_norm` (root of the mean squared norm); and `nonfinite_gradients`.
    """
    column = dict(zip(_TOTALS + _LAST, rows.T, strict=True))
    dense_bytes = column["dense_bytes"].sum()
    return {
        "replicas": len(rows),
        "steps": int(column["steps"][0]),
        "entries_sent": int(column["entries"].sum()),
        "density": float(_WORD_BYTES * column["entries"].sum() / max(dense_bytes, 1.0)),
        "payload_bytes": int(column["payload_bytes"].sum()),
        "padded_bytes": int(column["padded_bytes"].sum()),
        "dense_bytes": int(dense_bytes),
        "total_error": float(column["total_error"].mean()),
        "compression_error": float(column["error"].mean()),
        "residual_norm": math.sqrt(column["residual_squared"].mean()),
        "residual_max": float(column["residual_max"].max()),
        "gradient_norm": math.sqrt(column["gradient_squared"].mean()),
        "nonfinite_gradients": int(column["nonfinite_gradients"].max()),
    }
