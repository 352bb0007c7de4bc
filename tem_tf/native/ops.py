"""Python functions of the native ops; each needs what `native.library()` returned.

With gradient g, which c clips, and what is kept of it, a selection takes entries S of
the corrected gradient p, in one pass over the gradients as they come:

    "feedback"    p = cg + fm           m ← p outside S, 0 in it
    "momentum"    p = m + (cg + fu)     u ← p - m;  m likewise
    "estimate"    p = cg - m            m as it is

`settle` then says what has become of S once its values have been rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import tensorflow as tf


class Kept(NamedTuple):
    """What is kept of gradients from step to step, and what it is for.

    Attributes:
        variables: Handles of distinct float32 variables, m, one for each gradient.
        velocity: Likewise u; none but for "momentum".
        memory: "feedback", "momentum" or "estimate", see above.
        factor: f.
    """

    variables: Sequence[tf.Tensor]
    velocity: Sequence[tf.Tensor] = ()
    memory: str = "feedback"
    factor: float = 1.0


class Selected(NamedTuple):
    """What a selection returns. What is kept has changed.

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
        clip: float32 scalar. c.
    """

    values: tf.Tensor
    indices: tf.Tensor
    block: tf.Tensor
    nonfinite: tf.Tensor
    stats: tf.Tensor
    clip: tf.Tensor


def select_threshold(
    library: ModuleType,
    gradients: Sequence[tf.Tensor],
    small: Sequence[tf.Tensor],
    kept: Kept,
    threshold: tf.Tensor | float,
    *,
    zero_nonfinite: bool,
    largest_norm: float = math.inf,
    threads: int = 0,
) -> Selected:
    """Selects |p| >= threshold.

    Args:
        library: What `native.library()` returned.
        gradients: At least one, float32, any shapes.
        small: float32; they are sent whole, and nothing is kept of them.
        kept: Of `gradients`.
        threshold: λ >= 0.
        zero_nonfinite: Whether gradients that are not finite count as zero. Else
            nothing is changed.
        largest_norm: Bound of the norm of all gradients together, the small ones too,
            by `fixed_sums.fixed_norm`.
        threads: How many at most; 0 for all that TensorFlow has.
    """
    return Selected(
        *library.tem_tf_select_threshold(
            gradients=list(gradients),
            small=list(small),
            kept=list(kept.variables),
            velocity=list(kept.velocity),
            memory=kept.memory,
            factor=kept.factor,
            threshold=threshold,
            zero_nonfinite=zero_nonfinite,
            largest_norm=largest_norm,
            threads=threads,
        )
    )


def select_topk(
    library: ModuleType,
    gradients: Sequence[tf.Tensor],
    small: Sequence[tf.Tensor],
    kept: Kept,
    counts: Sequence[int | tf.Tensor],
    *,
    zero_nonfinite: bool,
    largest_norm: float = math.inf,
    threads: int = 0,
) -> Selected:
    """Selects the k largest |p|; of equals those of lower position, of zeros none.

    Args:
        library: As in `select_threshold`.
        gradients: As there.
        small: As there.
        kept: As there.
        counts: k for all gradients together, or one k for each.
        zero_nonfinite: As there.
        largest_norm: As there.
        threads: As there.
    """
    return Selected(
        *library.tem_tf_select_top_k(
            gradients=list(gradients),
            small=list(small),
            kept=list(kept.variables),
            velocity=list(kept.velocity),
            memory=kept.memory,
            factor=kept.factor,
            counts=tf.cast(tf.stack(counts), tf.int64),
            zero_nonfinite=zero_nonfinite,
            largest_norm=largest_norm,
            threads=threads,
        )
    )


def select_given(
    library: ModuleType,
    gradients: Sequence[tf.Tensor],
    small: Sequence[tf.Tensor],
    kept: Kept,
    given: tf.Tensor,
    *,
    zero_nonfinite: bool,
    largest_norm: float = math.inf,
    threads: int = 0,
) -> Selected:
    """Selects the entries at given positions, and keeps their order.

    Args:
        library: As in `select_threshold`.
        gradients: As there.
        small: As there.
        kept: As there.
        given: int32 (k,). Distinct positions in the packed vector.
        zero_nonfinite: As there. Where nothing is changed, k values of zero.
        largest_norm: As there.
        threads: As there.
    """
    return Selected(
        *library.tem_tf_select_given(
            gradients=list(gradients),
            small=list(small),
            kept=list(kept.variables),
            velocity=list(kept.velocity),
            memory=kept.memory,
            factor=kept.factor,
            given=given,
            zero_nonfinite=zero_nonfinite,
            largest_norm=largest_norm,
            threads=threads,
        )
    )


def settle(
    library: ModuleType,
    kept: Kept,
    values: tf.Tensor,
    rounded: tf.Tensor,
    indices: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes what is kept of selected entries, of which others decode s.

        "feedback", "momentum"    m = p - s
        "estimate"                m ← m + s

    Velocities, where they are given, become 0 where s is not.

    Args:
        library: As in `select_threshold`.
        kept: As there.
        values: float32 (k,). The selected p.
        rounded: float32 (k,). s.
        indices: int32 (k,). Their distinct positions in the packed vector.

    Returns:
        Of each gradient, float64 (S,): the sum of squares of p - s, and the greatest
        magnitude.
    """
    left = library.tem_tf_settle(
        kept=list(kept.variables),
        velocity=list(kept.velocity),
        memory=kept.memory,
        values=values,
        rounded=rounded,
        indices=indices,
    )
    return left[:, 0], left[:, 1]


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
