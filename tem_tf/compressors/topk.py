"""Compressors that send the entries of greatest magnitude, k of them at step t.

k follows from a density, constant or scheduled, from a list, or from the gradient's
norm over time (ACCORDION). Of equal magnitudes the lower index is sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tem_tf.compressors.contract import Heard, Sparsifier
from tem_tf.compressors.rules import Largest, share_of_block
from tem_tf.compressors.schedules import (
    Schedule,
    Strength,
    check_density,
    is_integer,
    is_number,
)
from tem_tf.fixed_sums import fixed_sum
from tem_tf.layout import Segments, total_size


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class TopK(Sparsifier):
    """Sends the k entries of greatest magnitude; of equals, those of lower index.

    Zeros are never sent, so that an embedding's density, a share of all its entries as
    published, is not spent on rows that no example touched.

    Args:
        density: Float in (0, 1], or a `Schedule` of the step.
            k = max(1, floor(density·n)) entries are sent. Higher => more entries sent.
            Give `density`, `k` or `per_block`.
        k: Int >= 1. Number of entries (all, where there are fewer).
        per_block: Int >= 1. Number of entries of every `block` that lie side by side in
            a variable; of fewer at its end their share, at least one. No block is left
            out, however small its entries are, and nothing is compared beyond it.
        block: Int >= `per_block`, default 4096.
        scope: "layer": `density` or `k` holds for each variable by itself. "model":
            for the whole gradient.

    Raises:
        ValueError: an argument is out of range.

    References:
        Sahu et al., NeurIPS 2021, arXiv 2108.00951, section 6 compares with both
        scopes; blocks as in Sarfi et al., SparseLoCo, arXiv 2508.15706 (64 of 4,096).
    """

    density: Strength | None = None
    k: int | None = None
    scope: Literal["layer", "model"] = "layer"
    per_block: int | None = None
    block: int = 4096

    def __post_init__(self):
        given = [self.density, self.k, self.per_block]
        if sum(one is not None for one in given) != 1:
            raise ValueError(
                "Exactly one of `density`, `k` and `per_block` must be given. "
                f"Received: density={self.density!r}, k={self.k!r}, "
                f"per_block={self.per_block!r}"
            )
        if self.per_block is not None:
            self._check_blocks()
        if self.density is not None:
            check_density(self.density)
        if self.k is not None and (not is_integer(self.k) or self.k < 1):
            raise ValueError(f"`k` must be an integer >= 1. Received: k={self.k!r}")
        if self.scope not in ("layer", "model"):
            raise ValueError(
                f'`scope` must be "layer" or "model". Received: scope={self.scope!r}'
            )

    def _check_blocks(self) -> None:
        for name in ("per_block", "block"):
            value = getattr(self, name)
            if not is_integer(value) or value < 1:
                raise ValueError(
                    f"`{name}` must be an integer >= 1. Received: {name}={value!r}"
                )
        if (self.per_block or 0) > self.block or self.scope != "layer":
            raise ValueError(
                "`per_block` must be at most `block`, and blocks are of variables, "
                f'`scope` "layer". Received: per_block={self.per_block}, '
                f"block={self.block}, scope={self.scope!r}"
            )

    @property
    def in_kernels(self) -> bool:
        """As in `Sparsifier`."""
        return self.per_block is None

    def rule(self, state, corrected, step, segments):
        if self.per_block is not None:
            return Largest([self.per_block] * len(segments), block=self.block)
        sizes = [segment.size for segment in segments]
        if self.scope == "model":
            sizes = [total_size(segments)]
        return Largest([self.count(size, step) for size in sizes])

    def count(self, size: int, step: tf.Tensor) -> int | tf.Tensor:
        """k for a variable, or a whole gradient, of `size` entries."""
        if self.per_block is not None:
            whole, rest = divmod(size, self.block)
            share = share_of_block(self.per_block, rest, self.block) if rest else 0
            return whole * self.per_block + share
        if self.density is None:
            return min(self.k or 0, size)
        return kept(self.density, size, step)


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class TopKSchedule(Sparsifier):
    """Sends the k_t largest entries of the whole gradient at step t, from a list.

    With the k_t that a hard threshold used (mean over workers), it is the control that
    tells what a threshold gains by *what* it selects from what it gains by *when* it
    sends much.

    Args:
        counts: Integers >= 0, one for each step. The last holds from there on. A k_t
            above the gradient's size sends all of it.

    Raises:
        ValueError: `counts` is empty or holds something else.

    Example:

    >>> from tem_tf.layout import make_segments
    >>> replay, segments = TopKSchedule([2, 0, 1]), make_segments(["v"], [(3,)])
    >>> p = [tf.constant([0.5, -2.0, 1.0])]
    >>> messages = [replay.compress((), p, t, segments).message for t in range(5)]
    >>> [int(message.to_sparse().entries()) for message in messages]
    [2, 0, 1, 1, 1]
    """

    counts: tuple[int, ...]

    def __post_init__(self):
        counts = self.counts
        if isinstance(counts, (Sequence, np.ndarray)) and not isinstance(counts, str):
            counts = tuple(counts)
        if (
            not isinstance(counts, tuple)
            or not counts
            or not all(is_integer(count) and 0 <= count < 2**31 for count in counts)
        ):
            received = repr(self.counts)
            raise ValueError(
                "`counts` must be integers in [0, 2**31), one for each step. "
                f"Received: counts={received[:60]}{'…' if len(received) > 60 else ''}"
            )
        object.__setattr__(self, "counts", tuple(map(int, counts)))  # It is frozen.

    def rule(self, state, corrected, step, segments):
        return Largest([self.count(total_size(segments), step)])

    def count(self, size: int, step: tf.Tensor) -> tf.Tensor:
        """k_t for a gradient of `size` entries."""
        position = tf.minimum(tf.cast(step, tf.int32), len(self.counts) - 1)
        # Not a slice: for each index of one XLA would compile anew.
        return tf.minimum(tf.gather(tf.constant(self.counts, tf.int32), position), size)


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class Accordion(Sparsifier):
    """Top-k of each variable at one of two densities, decided anew now and then.

    Every `interval_steps` steps (0, I, 2I, …) each variable's aggregated gradient, as
    decoded, is looked at, after the exchange. From the next step on the variable has
    the high density if that was step 0, if the learning rate was lowered since the
    last decision, or if the norm changed by more than `change` of what it was at the
    last decision; else the low one. Step 0 itself has the high density. All workers
    see the same aggregate, so they decide alike; nothing more is sent.

    Args:
        low_density: Float in (0, 1]. k = max(1, floor(density·n)) of each variable.
        high_density: Float in (0, 1], at least `low_density`.
        interval_steps: Int >= 1, default 1000. Steps between two decisions. The study
            decides every 10 epochs: pass 10 times the steps of an epoch.
        learning_rate_decays: Steps > 0 from which on the learning rate is lower.
            Default: none. With keras.optimizers.schedules.PiecewiseConstantDecay these
            are its boundaries plus one.
        change: Float > 0, default 0.5. Relative change of the norm that counts as
            much. Higher => fewer entries sent.

    Raises:
        ValueError: an argument is out of range.

    References:
        Agarwal et al., MLSys 2021, arXiv 2010.16248, algorithm 1, as used by Sahu et
        al., NeurIPS 2021, arXiv 2108.00951 (0.1 % and 1 %; change 0.5). There the
        local gradient of one worker decides, before its step, for all.
    """

    low_density: float
    high_density: float
    interval_steps: int = 1000
    learning_rate_decays: tuple[int, ...] = ()
    change: float = 0.5

    def __post_init__(self):
        for name in ("low_density", "high_density"):
            density = getattr(self, name)
            if isinstance(density, Schedule):
                raise ValueError(
                    f"`{name}` must be a number: which of both holds is decided in "
                    f"training. Received: {name}={density!r}"
                )
            check_density(density, name)
        if self.high_density < self.low_density:
            raise ValueError(
                "`high_density` must be at least `low_density`. Received: "
                f"low_density={self.low_density}, high_density={self.high_density}"
            )
        if not is_integer(self.interval_steps) or self.interval_steps < 1:
            raise ValueError(
                "`interval_steps` must be an integer >= 1. "
                f"Received: interval_steps={self.interval_steps!r}"
            )
        decays = self.learning_rate_decays
        if not isinstance(decays, (tuple, list)) or not all(
            is_integer(step) and step > 0 for step in decays
        ):
            raise ValueError(
                "`learning_rate_decays` must be a tuple of integers > 0. "
                f"Received: learning_rate_decays={decays!r}"
            )
        object.__setattr__(self, "learning_rate_decays", tuple(map(int, decays)))
        if not is_number(self.change) or not 0 < self.change < float("inf"):
            raise ValueError(
                "`change` must be a finite number > 0. "
                f"Received: change={self.change!r}"
            )

    def init(self, segments):
        """`high`: bool (variables,). `norms` of the last decision: float32, as many."""
        high = tf.ones([len(segments)], tf.bool)
        return {"high": high, "norms": tf.zeros([len(segments)])}

    def rule(self, state, corrected, step, segments):
        # With static bounds, so that each simulated worker may have its own k.
        most = [kept(self.high_density, segment.size) for segment in segments]
        return Largest(self.counts(state, segments), most)

    def counts(self, state: Any, segments: Segments) -> list[tf.Tensor]:
        """k of each variable."""
        densities = self.high_density, self.low_density
        return [
            tf.where(high, *(kept(density, segment.size) for density in densities))
            for high, segment in zip(
                tf.unstack(state["high"], num=len(segments)), segments, strict=True
            )
        ]

    def observe(self, state, heard, step, segments):
        step = tf.cast(step, tf.int64)
        return tf.cond(
            step % self.interval_steps == 0,
            lambda: self._decide(state, heard, step, segments),
            lambda: state,
        )

    def _decide(
        self, state: Any, heard: Heard, step: tf.Tensor, segments: Segments
    ) -> Any:
        norms = [tf.sqrt(fixed_sum(tf.square(vector))) for vector in heard.total]
        norms = tf.cast(tf.stack(norms), tf.float32) if norms else state["norms"]
        before = state["norms"]
        changed = tf.abs(norms - before) > self.change * before
        decays = self.learning_rate_decays
        decays = tf.constant(decays, tf.int64, [len(decays)])
        lowered = tf.reduce_any(
            (decays <= step) & (decays > step - self.interval_steps)
        )
        return {"high": changed | lowered | (step == 0), "norms": norms}


def kept(
    density: Strength, size: int, step: tf.Tensor | None = None
) -> int | tf.Tensor:
    """k = max(1, floor(density·n + 1e-9)); the 1e-9 so that 0.29·100 keeps 29.

    An integer, or an int32 scalar if `density` is a schedule.
    """
    if not size:
        return 0
    if isinstance(density, Schedule):
        share = density(step)
        return tf.maximum(1, tf.cast(tf.floor(share * size + 1e-9), tf.int32))
    return max(1, int(density * size + 1e-9))
