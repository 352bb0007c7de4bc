"""Compressors that send the entries above a magnitude: |p| >= λ."""

from __future__ import annotations

import dataclasses
import math

import keras
import tensorflow as tf

from tem_tf.compressors.contract import Compressor
from tem_tf.compressors.schedules import (
    Schedule,
    Strength,
    check_density,
    check_strength,
    is_integer,
    strength_at,
)


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class HardThreshold(Compressor):
    """Sends the entries with |p| >= λ, one λ for the whole model and training.

    Args:
        threshold: Float > 0. λ, in units of one worker's own mean-loss gradient,
            whatever the number of workers. Higher => fewer entries sent. Typical:
            1e-3 to 1e-1; start at the magnitude that the largest 1 % of a worker's
            gradient entries reach. Or a `Schedule` of the step.

    Raises:
        ValueError: `threshold` is not a finite number > 0.

    Example:

    >>> p = tf.constant([0.5, -2.0, 1.0])
    >>> message, _ = HardThreshold(1.0).compress((), p, 0, ())
    >>> message.indices.numpy()
    array([1, 2], dtype=int32)

    References:
        Sahu et al., NeurIPS 2021, arXiv 2108.00951, section 4: among all sparsifiers
        with a budget for a whole training it has the least total error.
    """

    threshold: Strength

    def __post_init__(self):
        threshold = check_strength(
            "threshold",
            self.threshold,
            "a finite number > 0",
            lambda x: 0 < x < math.inf,
            "It is an absolute gradient magnitude, in units of one worker's own "
            "gradient.",
        )
        object.__setattr__(self, "threshold", threshold)  # It is frozen.

    @classmethod
    def from_density(cls, density: float, size: int) -> HardThreshold:
        """λ = 1/(2√k) for an expected k = density·size, as in the study's code.

        It assumes gradients of about unit norm and knows nothing of the training, so
        it does not guarantee k: with norm G the entries sent in steady state go as
        (G/λ)², so a gradient of norm 0.1 sends about a hundredth. For a budget that is
        met use `AdaptiveThreshold`; for a comparison, a λ from a pilot run.

        Args:
            density: Float in (0, 1].
            size: Int >= 1. Number of entries of the gradient.

        Example:

        >>> HardThreshold.from_density(0.001, size=11_173_962)
        HardThreshold(threshold=0.00473...)
        """
        if isinstance(density, Schedule):
            raise ValueError(
                "`density` of `from_density` must be a number, not a schedule. "
                f"Received: density={density!r}"
            )
        check_density(density)
        if not is_integer(size) or size < 1:
            raise ValueError(f"`size` must be an integer >= 1. Received: size={size!r}")
        return cls(1 / (2 * math.sqrt(density * size)))

    def select(self, vector, segments, step, state):
        threshold = tf.cast(strength_at(self.threshold, step), vector.dtype)
        return tf.abs(vector) >= threshold, state

    def scaled(self, factor):
        if isinstance(self.threshold, Schedule):
            return HardThreshold(self.threshold.scaled(factor))
        return HardThreshold(self.threshold * factor)
