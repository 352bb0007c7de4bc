"""Python functions of the native ops; each needs what `native.library()` returned.

With gradient g, residual m and p = g + m, a selection takes entries S of p and leaves
m = p outside S and 0 in it, in one pass over the gradients as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import tensorflow as tf


class Selected(NamedTuple):
    """What a selection returns. Residuals have changed in place.

    Attributes:
        values: float32 (k,). The selected entries of the corrected gradients.
        indices: int32 (k,). Their positions in the packed vector, ascending unless
            they were given.
        block: float32 (m,). The small gradients end to end.
        nonfinite: int32 scalar. 1 if any gradient had NaN or Inf, else 0. Then either
            nothing was changed and there are no entries, or the gradients counted as
            zero.
        stats: float64 (S, 6), a row for each gradient, columns as in
            `metrics.COLUMNS`. Sums are made of float32 sums over some thousand
            entries: for people to read.
    """

    values: tf.Tensor
    indices: tf.Tensor
    block: tf.Tensor
    nonfinite: tf.Tensor
    stats: tf.Tensor


def select_threshold(
    library: ModuleType,
    gradients: Sequence[tf.Tensor],
    small: Sequence[tf.Tensor],
    residuals: Sequence[tf.Tensor],
    threshold: tf.Tensor | float,
    *,
    zero_nonfinite: bool,
    threads: int = 0,
) -> Selected:
    """Selects |p| >= threshold.

    Args:
        library: What `native.library()` returned.
        gradients: At least one, float32, any shapes.
        small: float32; they are sent whole and have no residual.
        residuals: Handles of distinct float32 variables, one for each of `gradients`.
        threshold: λ >= 0.
        zero_nonfinite: Whether gradients that are not finite count as zero. Else
            nothing is changed.
        threads: How many at most; 0 for all that TensorFlow has.
    """
    return Selected(
        *library.tem_tf_select_threshold(
            gradients=list(gradients),
            small=list(small),
            residuals=list(residuals),
            threshold=threshold,
            zero_nonfinite=zero_nonfinite,
            threads=threads,
        )
    )


def select_topk(
    library: ModuleType,
    gradients: Sequence[tf.Tensor],
    small: Sequence[tf.Tensor],
    residuals: Sequence[tf.Tensor],
    counts: Sequence[int | tf.Tensor],
    *,
    zero_nonfinite: bool,
    threads: int = 0,
) -> Selected:
    """Selects the k largest |p|; of equals those of lower position, of zeros none.

    Args:
        library: As in `select_threshold`.
        gradients: As there.
        small: As there.
        residuals: As there.
        counts: k for all gradients together, or one k for each.
        zero_nonfinite: As there.
        threads: As there.
    """
    return Selected(
        *library.tem_tf_select_top_k(
            gradients=list(gradients),
            small=list(small),
            residuals=list(residuals),
            counts=tf.cast(tf.stack(counts), tf.int64),
            zero_nonfinite=zero_nonfinite,
            threads=threads,
        )
    )


def select_given(
    library: ModuleType,
    gradients: Sequence[tf.Tensor],
    small: Sequence[tf.Tensor],
    residuals: Sequence[tf.Tensor],
    given: tf.Tensor,
    *,
    zero_nonfinite: bool,
    threads: int = 0,
) -> Selected:
    """Selects the entries at given positions, and keeps their order.

    Args:
        library: As in `select_threshold`.
        gradients: As there.
        small: As there.
        residuals: As there.
        given: int32 (k,). Distinct positions in the packed vector.
        zero_nonfinite: As there. Where nothing is changed, k values of zero.
        threads: As there.
    """
    return Selected(
        *library.tem_tf_select_given(
            gradients=list(gradients),
            small=list(small),
            residuals=list(residuals),
            given=given,
            zero_nonfinite=zero_nonfinite,
            threads=threads,
        )
    )


def sum_messages(
    library: ModuleType,
    values: Sequence[tf.Tensor],
    indices: Sequence[tf.Tensor],
    like: Sequence[tf.Tensor],
    *,
    threads: int = 0,
) -> list[tf.Tensor]:
    """Adds messages up, in order, each entry in its variable's place.

    Args:
        library: As in `select_threshold`.
        values: One float32 (k_r,) for each message, at least one.
        indices: One int32 (k_r,) for each message: positions in the packed vector.
        like: At least one float32 tensor. Their shapes are the variables'; their
            buffers become the result's where nobody else needs them.
        threads: As there.

    Returns:
        float32 tensors of the shapes of `like`.
    """
    return library.tem_tf_sum_messages(
        values=list(values), indices=list(indices), like=list(like), threads=threads
    )
