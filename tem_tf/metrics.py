"""What the communication of a run cost and held back, of the model and per variable.

Each replica sums up a vector of its own over the steps (bytes, steps), and a table
with one row for each variable and these columns:

    entries sent, ‖e‖², ‖m‖², max|m|, ‖g‖², ‖p‖²

with gradient g, corrected gradient p, e = p − decoded, and the new residual m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tem_tf.compressors import Asked, Broadcast, Gather, Sum
from tem_tf.layout import Segments, each, unpack
from tem_tf.sparse_gradient import MaskedGradient, SparseGradient

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
    "overflow_steps",
    "skipped_steps",
)
_LAST = (
    "error",
    "residual_squared",
    "residual_max",
    "gradient_squared",
    "corrected_squared",
)
_WORD_BYTES = 4

COLUMNS = (
    "entries",
    "error",
    "residual_squared",
    "residual_max",
    "gradient_squared",
    "corrected_squared",
)
_MAX = COLUMNS.index("residual_max")


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
    nonfinite: tf.Tensor | int = 0,
    overflows: tf.Tensor | int = 0,
    skipped: tf.Tensor | int = 0,
    table: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the vector with one more step in it.

    Args:
        vector: What `zeros` or the last call returned.
        entries: Number of entries sent.
        payload_words: 32-bit words sent, padding excluded.
        dense_words: Words that the whole gradient would take.
        padded_words: Words of padding.
        nonfinite: Number of replicas whose gradient was not finite.
        overflows: 1 if a payload did not fit into the step's collective, else 0.
        skipped: 1 if nothing was updated, since a gradient was not finite, else 0.
        table: float64 (S, 6). The step's table; without it there is no error.
    """
    error = squared = largest = gradient = corrected = 0.0
    if table is not None:
        sums = tf.unstack(tf.reduce_sum(table, axis=0))
        _, error, squared, _, gradient, corrected = sums
        largest = tf.maximum(tf.reduce_max(table[:, _MAX]), 0.0)
    step = [
        1,
        entries,
        _WORD_BYTES * tf.cast(payload_words, tf.float64),
        _WORD_BYTES * tf.cast(padded_words, tf.float64),
        _WORD_BYTES * tf.cast(dense_words, tf.float64),
        error,
        nonfinite,
        overflows,
        skipped,
        error,
        squared,
        largest,
        gradient,
        corrected,
    ]
    keep = tf.constant([1.0] * len(_TOTALS) + [0.0] * len(_LAST), tf.float64)
    return vector * keep + tf.stack([tf.cast(x, tf.float64) for x in step])


def step_table(
    entries: tf.Tensor,
    gradient: Sequence[tf.Tensor],
    corrected: Sequence[tf.Tensor],
    own: Sequence[tf.Tensor],
    residual: Sequence[tf.Tensor] | None,
) -> tf.Tensor:
    """The table of one step, in the units of the vectors: float64 (S, 6).

    Args:
        entries: float64 (S,). What was sent of each variable.
        gradient: Vectors of real numbers, one for each variable.
        corrected: Likewise.
        own: Likewise. What was sent, as the others decode it.
        residual: Likewise, or None. What is kept for the next step.
    """
    if not gradient:
        return tf.zeros([0, len(COLUMNS)], tf.float64)

    def reduced(function: Any, vectors: Sequence[tf.Tensor] | None) -> list[tf.Tensor]:
        if vectors is None:
            return [tf.zeros([], tf.float64)] * len(gradient)
        return [tf.cast(function(vector), tf.float64) for vector in vectors]

    def largest(vector: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(tf.abs(vector)) if vector.shape[0] else tf.zeros([])

    # `l2_loss` halves the sum of squares, reads once and copies nothing.
    halves = tf.nn.l2_loss
    error = each(tf.subtract, corrected, own)
    rows = [
        *reduced(halves, error),
        *reduced(halves, residual),
        *reduced(largest, residual),
        *reduced(halves, gradient),
        *reduced(halves, corrected),
    ]
    rows = tf.reshape(tf.stack(rows), [-1, len(gradient)])
    rows *= tf.constant([[2.0], [2.0], [1.0], [2.0], [2.0]], tf.float64)
    return tf.transpose(tf.concat([entries[tf.newaxis], rows], axis=0))


def whole_table(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """The table of variables of which everything is sent: float64 (S, 6)."""
    sizes = [math.prod(gradient.shape) for gradient in gradients]
    vectors = [tf.reshape(gradient, [-1]) for gradient in gradients]
    real = [
        tf.concat([tf.math.real(vector), tf.math.imag(vector)], axis=0)
        if vector.dtype.is_complex
        else vector
        if vector.dtype.is_floating
        else tf.cast(vector, tf.float64)
        for vector in vectors
    ]
    return step_table(tf.constant(sizes, tf.float64), real, real, real, None)


def entries_of(said: Sequence[Asked], segments: Segments) -> tf.Tensor:
    """Entries that a replica has sent of each variable: float64 (S,).

    Of messages without positions, and of sums of other things, the number is shared out
    by the variables' sizes.
    """
    if not segments:
        return tf.zeros([0], tf.float64)
    sizes = [segment.size for segment in segments]
    counts = tf.zeros([len(sizes)], tf.float64)
    total = tf.zeros([], tf.float64)
    for asked in said:
        entries = asked.message if isinstance(asked, Gather) else None
        if isinstance(entries, SparseGradient) and entries.whole:
            counts += tf.constant(sizes, tf.float64)
        elif isinstance(entries, SparseGradient):
            ends = tf.constant([s.offset + s.size for s in segments])
            owner = tf.searchsorted(ends, entries.indices, side="right")
            found = tf.math.bincount(owner, minlength=len(sizes), maxlength=len(sizes))
            counts += tf.cast(found, tf.float64)
        elif isinstance(entries, MaskedGradient):
            parts = unpack(tf.cast(entries.mask, tf.int32), segments)
            counts += tf.cast(tf.stack([tf.reduce_sum(p) for p in parts]), tf.float64)
        elif isinstance(asked, Gather):
            total += tf.cast(asked.message.entries(), tf.float64)
        elif isinstance(asked, Sum | Broadcast):
            total += sum(math.prod(v.shape) for v in asked.values)
    shares = tf.constant(sizes, tf.float64) / max(sum(sizes), 1)
    return counts + total * shares


def in_own_units(table: tf.Tensor, unit: float, clipped: tf.Tensor) -> tf.Tensor:
    """Divides a table by what the gradient was multiplied by.

    Args:
        table: float64 (S, 6).
        unit: What Keras multiplied all with.
        clipped: float32 scalar. What clipping multiplied the gradient with; the norm
            of the gradient is that before clipping.
    """
    squared = 1 / unit**2
    before = squared / tf.square(tf.cast(clipped, tf.float64))
    factors = [1.0, squared, squared, 1 / unit, before, squared]
    return table * tf.stack([tf.cast(x, tf.float64) for x in factors])


def zero_tables(rows: int) -> tf.Tensor:
    """Sums over steps and the last step's table, before the first: (2, rows, 6)."""
    return tf.zeros([2, rows, len(COLUMNS)], tf.float64)


def add_table(tables: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Adds a step's table; of max|m| the greatest of all steps is kept."""
    is_max = tf.one_hot(_MAX, len(COLUMNS), on_value=True, off_value=False)
    totals = tf.where(is_max, tf.maximum(tables[0], table), tables[0] + table)
    return tf.stack([totals, table])


# What `running_totals` returns, in its order.
RUNNING = ("entries", "payload_bytes", "total_error")


def running_totals(vector: tf.Tensor) -> tf.Tensor:
    """Entries and bytes (without padding) sent, and ‖e‖² summed, over the steps so far.

    Returns:
        float64 (3,), of this replica, in the order of `RUNNING`.
    """
    return tf.stack([vector[_TOTALS.index(name)] for name in RUNNING])


def summarise(rows: np.ndarray) -> dict[str, float]:
    """Joins the vectors of all replicas, (replicas, metrics), into one summary.

    Returns:
        `replicas`; `steps`; over steps and replicas together `entries_sent`,
        `payload_bytes` (without padding), `padded_bytes` (the padding alone),
        `dense_bytes` (4 bytes per entry of the gradient); `density`, entries sent by
        entries of the gradient; `total_error`, the sum over steps of the mean over
        replicas of ‖e‖²; of the last step `compression_error` (mean ‖e‖²),
        `relative_error` (mean ‖e‖² by mean ‖p‖²), `residual_norm` (root of the mean
        squared norm), `residual_max` and `gradient_norm` (root of the mean squared
        norm); `nonfinite_gradients`; `overflow_steps`, those that needed a second
        collective; and `skipped_steps`, which exchanged and updated nothing.
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
        "relative_error": _share(
            column["error"].mean(), column["corrected_squared"].mean()
        ),
        "residual_norm": math.sqrt(column["residual_squared"].mean()),
        "residual_max": float(column["residual_max"].max()),
        "gradient_norm": math.sqrt(column["gradient_squared"].mean()),
        "nonfinite_gradients": int(column["nonfinite_gradients"].max()),
        "overflow_steps": int(column["overflow_steps"].max()),
        "skipped_steps": int(column["skipped_steps"].max()),
    }


def summarise_variables(
    tables: np.ndarray, names: list[str], sizes: list[int], steps: float
) -> dict[str, dict[str, float]]:
    """Joins the tables of all replicas, (replicas, 2, rows, 6), row by row.

    Returns:
        For each variable, by its name: `entries`, those of the gradients of all
        replicas at one step; `entries_sent` over steps and replicas together;
        `density` and `last_density`, entries sent by entries, of all steps and of the
        last; `total_error`, as in `summarise`; of the last step `compression_error`
        (mean over replicas of ‖e‖²), `relative_error` (‖e‖²/‖p‖², means over
        replicas), `residual_norm`, `residual_max`, `gradient_norm`; and of all steps
        `total_corrected`, as `total_error` of ‖p‖², `mean_relative_error` (the one by
        the other), `mean_residual_norm` and
        `mean_gradient_norm` (roots of mean squares), `greatest_residual`.
    """
    mean, greatest = tables.mean(axis=0), tables.max(axis=0)
    summaries = {}
    for row, (name, size) in enumerate(zip(names, sizes, strict=True)):
        total = dict(zip(COLUMNS, mean[0, row], strict=True))
        last = dict(zip(COLUMNS, mean[1, row], strict=True))
        summaries[name] = {
            "entries": size * len(tables),
            "entries_sent": int(tables[:, 0, row, 0].sum()),
            "density": float(total["entries"] / max(size * steps, 1)),
            "last_density": float(last["entries"] / max(size, 1)),
            "total_error": float(total["error"]),
            "total_corrected": float(total["corrected_squared"]),
            "compression_error": float(last["error"]),
            "relative_error": _share(last["error"], last["corrected_squared"]),
            "mean_relative_error": _share(total["error"], total["corrected_squared"]),
            "residual_norm": math.sqrt(last["residual_squared"]),
            "mean_residual_norm": math.sqrt(total["residual_squared"] / max(steps, 1)),
            "residual_max": float(greatest[1, row, _MAX]),
            "greatest_residual": float(greatest[0, row, _MAX]),
            "gradient_norm": math.sqrt(last["gradient_squared"]),
            "mean_gradient_norm": math.sqrt(total["gradient_squared"] / max(steps, 1)),
        }
    return summaries


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0
