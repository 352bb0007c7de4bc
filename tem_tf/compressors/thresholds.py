"""Compressors that send the entries above a magnitude: |p| >= λ."""

from __future__ import annotations

import dataclasses
import math

import keras
import tensorflow as tf

from tem_tf.compressors.contract import Sparsifier, Vectors
from tem_tf.compressors.rules import AtLeast
from tem_tf.compressors.schedules import (
    Schedule,
    Strength,
    check_density,
    check_strength,
    is_integer,
    is_number,
    strength_at,
)
from tem_tf.fixed_sums import fixed_sum
from tem_tf.layout import pack, total_size


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class HardThreshold(Sparsifier):
    """Sends the entries with |p| >= λ, one λ for the whole model and training.

    Args:
        threshold: Float > 0. λ, in units of one worker's own mean-loss gradient,
            whatever the number of workers. Higher => fewer entries sent. Typical:
            1e-3 to 1e-1; start at the magnitude that the largest 1 % of a worker's
            gradient entries reach. Or a `Schedule` of the step.

    Raises:
        ValueError: `threshold` is not a finite number > 0.

    Example:

    >>> p = [tf.constant([0.5, -2.0, 1.0])]
    >>> asked = HardThreshold(1.0).compress((), p, 0, ())
    >>> asked.message.to_sparse().indices.numpy()
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

    def rule(self, state, corrected, step, segments):
        return AtLeast(strength_at(self.threshold, step))

    def scaled(self, factor):
        threshold = self.threshold
        is_schedule = isinstance(threshold, Schedule)
        scaled = threshold.scaled(factor) if is_schedule else threshold * factor
        return dataclasses.replace(self, threshold=scaled)


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class AdaptiveThreshold(Sparsifier):
    """A hard threshold whose λ is steered so that a whole run meets a budget.

    The budget is density·n·steps entries per replica (mean over replicas), what a user
    can name; λ moves slowly, so that, as with a constant λ, much is sent when
    gradients are large and little when they are small. All replicas steer by the same
    numbers and hold the same λ.

    1. With G_t the root mean square over replicas of the norms of their gradients and
       k = density·n: were each entry noise around 0, it would reach λ every (λ/σ)²
       steps, so λ = G/√k would send k per step. λ starts at 0.7 G_0/√k. Step 0 itself
       is sent before G_0 is known, with each replica's own norm.
    2. Counts go as G_t/λ where gradients drift (as (G_t/λ)² where they are noise; the
       lesser is taken, else λ would move too little to meet the budget). What the rest
       of the run asks for, the sum of the coming G, is a power law through the past:
       I_T = I_t (T/t)^β, I_t the sum so far and β = (its recent growth per step)·t/I_t,
       so that a fall in the past is expected to go on. The factor between G_t/λ and
       the counts is measured.
    3. log λ moves by 1/h of its distance to the λ that would use up the rest of the
       budget, h = max(10, min(t, T-t)/4): slower where the run is long, faster at its
       end, so that the budget is met.

    Where gradients vanish long before the end no λ is known in time; then the budget
    is not used up, or is at the end, for entries that are worth little. After `steps`
    steps λ stays. Steps of a dense warm-up (`warmup_steps`) are part of the budget.

    Args:
        density: Float in (0, 1]. Entries to send by entries of all gradients, of the
            whole run. Higher => more entries sent.
        steps: Int >= 1. Steps of the run.
        unit: Float > 0, default 1. What gradients were multiplied by; `scaled` sets it.

    Raises:
        ValueError: an argument is out of range.
    """

    density: float
    steps: int
    unit: float = 1.0

    def __post_init__(self):
        if isinstance(self.density, Schedule):
            raise ValueError(
                "`density` must be a number, that of the whole run. "
                f"Received: density={self.density!r}"
            )
        object.__setattr__(self, "density", check_density(self.density))
        if not is_integer(self.steps) or self.steps < 1:
            raise ValueError(
                f"`steps` must be an integer >= 1. Received: steps={self.steps!r}"
            )
        if not is_number(self.unit) or not 0 < self.unit < math.inf:
            raise ValueError(
                f"`unit` must be a finite number > 0. Received: unit={self.unit!r}"
            )

    def init(self, segments):
        """float64 scalars: `threshold` (0: not known), and sums over the steps."""
        names = ("threshold", "sent", "sum", "recent", "counted", "expected")
        return {name: tf.zeros([], tf.float64) for name in names}

    def share(self, state, gradient, step, segments):
        square = fixed_sum(tf.square(pack(gradient)))[tf.newaxis]
        return tf.cast(square, tf.float32)

    def rule(self, state, corrected, step, segments):
        known = self.unit * state["threshold"]
        return AtLeast(
            tf.cond(known > 0, lambda: known, lambda: self._first(corrected))
        )

    def _first(self, corrected: Vectors) -> tf.Tensor:
        """λ of the first step, for this replica's corrected gradient: float64."""
        vector = pack(corrected)
        count = max(self.density * vector.shape[0], 1.0)
        own = _START * tf.sqrt(fixed_sum(tf.square(vector)) / count)
        # Not 0, where all entries are: nothing is sent then.
        return tf.cast(tf.maximum(own, _TINY), tf.float64)

    def observe(self, state, heard, step, segments):
        count = max(self.density * total_size(segments), 1.0)
        time = tf.cast(step, tf.float64) + 1
        entries = tf.cast(heard.entries, tf.float64) / heard.replicas
        square = tf.cast(heard.shared[0], tf.float64) / heard.replicas
        scale = tf.sqrt(square / count) / self.unit  # G/√k.

        is_first = tf.equal(state["threshold"], 0)
        threshold = tf.where(is_first, _START * scale, state["threshold"])
        safe = tf.maximum(threshold, _TINY)
        total = state["sum"] + scale
        recent = tf.where(is_first, scale, state["recent"])
        horizon = tf.maximum(tf.minimum(time, _PRIOR), _RECENT * time)
        recent += (scale - recent) / horizon
        sent = state["sent"] + entries
        # Before the first step _PRIOR steps are imagined that went as λ promises.
        left = tf.maximum(self.steps - time, 1.0)
        fading = 1 - 1 / tf.maximum(tf.minimum(time, left) / 2, _PRIOR)
        counted, expected = (
            fading * tf.where(is_first, tf.cast(_PRIOR * count, tf.float64), state[key])
            for key in ("counted", "expected")
        )
        # A step of a dense warm-up uses up budget and tells nothing of λ.
        by_threshold = entries < total_size(segments)
        weight = tf.cast(by_threshold, tf.float64)
        counted += weight * entries
        expected += weight * count * scale / safe

        power = tf.clip_by_value(recent * time / tf.maximum(total, _TINY), *_POWERS)
        coming = total * (((left + time) / time) ** power - 1)
        # Where too much was sent already, λ rises as if a hundredth were left.
        rest = tf.maximum(count * self.steps - sent, 0.01 * count * left)
        target = counted / tf.maximum(expected, _TINY) * count * coming / rest
        distance = tf.math.log(tf.maximum(target, _TINY)) - tf.math.log(safe)
        slowness = tf.maximum(tf.minimum(time, left) / 4, _LEAST_SLOWNESS)
        change = tf.clip_by_value(distance / slowness, -_FASTEST, _FASTEST)
        goes_on = (time < self.steps) & (threshold > 0) & by_threshold
        return {
            "threshold": tf.where(goes_on, threshold * tf.exp(change), threshold),
            "sent": sent,
            "sum": total,
            "recent": recent,
            "counted": counted,
            "expected": expected,
        }

    def scaled(self, factor):
        return dataclasses.replace(self, unit=self.unit * factor)


# Our choices for `AdaptiveThreshold`, made on a small network (digits, 2,410 weights,
# 4 workers, 500 and 2,000 steps, densities of 1 % and 10 %, labels clean or 30 % of
# them random) and on made-up noise of falling size.
_START = 0.7  # Against the first gradient being among the largest.
_PRIOR = 20.0  # Steps: means over fewer are noise.
_RECENT = 0.1  # Of the steps so far are recent.
_POWERS = (0.05, 2.0)  # No faster fall or rise is expected.
_LEAST_SLOWNESS = 10.0  # Steps.
_FASTEST = 0.1  # Change of log λ in one step.
_TINY = 1e-30
