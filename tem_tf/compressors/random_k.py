"""Compressors that send random entries, the same on all workers."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.compressors.contract import Sparsifier
from tem_tf.compressors.permutation import permuted
from tem_tf.compressors.rules import At
from tem_tf.compressors.schedules import (
    Schedule,
    Strength,
    check_density,
    is_integer,
)
from tem_tf.compressors.topk import kept
from tem_tf.layout import total_size


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class RandomK(Sparsifier):
    """Sends k random entries, the same on all workers, so that no indices travel.

    The draw depends on `seed` and the step alone. Values are not rescaled: with error
    feedback what is not drawn stays in the residual.

    Args:
        density: Float in (0, 1], or a `Schedule` of the step.
            k = max(1, floor(density·n)) entries of the whole gradient are sent.
            Higher => more entries sent.
        seed: Int >= 0.

    References:
        Stich et al., NeurIPS 2018, arXiv 1809.07599, definition 2.2.
    """

    density: Strength
    seed: int = 0

    def __post_init__(self):
        check_density(self.density)
        if not is_integer(self.seed) or not 0 <= self.seed < 2**31:
            raise ValueError(
                f"`seed` must be an integer in [0, 2**31). Received: seed={self.seed!r}"
            )

    def rule(self, state, corrected, step, segments):
        size = total_size(segments)
        if isinstance(self.density, Schedule) and _internals.in_xla():
            # As many as there can be at any step, of which so many are meant.
            greatest = max(map(float, self.density.extremes()))
            drawn = self._first(size, step, kept(greatest, size))
            return At(drawn, tf.convert_to_tensor(kept(self.density, size, step)))
        return At(self.draw(size, step))

    def draw(self, size: int, step: tf.Tensor) -> tf.Tensor:
        """Returns k distinct positions in [0, size): int32 (k,)."""
        return self._first(size, step, kept(self.density, size, step))

    def _first(self, size: int, step: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
        """A pseudo-random permutation of [0, size), evaluated at 0..count-1."""
        if size == 0:
            return tf.zeros([0], tf.int32)
        return permuted(tf.range(count), self.seed, step, size - 1)
