"""Strengths of compressors that follow the step: s(t), a number for each step t.

A schedule is frozen and serialisable as compressors are, and the same on all workers
since the step is. It stands where a compressor takes a number:

    TopK(density=Ramp(0.25, 0.001, steps=400))                  DGC's ramp-up
    TopK(density=Piecewise((100,), (1.0, 0.01)))                dense at first
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The contract: a positive number for each step."""

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns s(t), a float64 scalar, for an int64 scalar t >= 0."""
        raise NotImplementedError(f"{type(self).__name__} must implement `__call__`.")

    def extremes(self) -> tuple[float, ...]:
        """Numbers between the least and greatest of which all of s(t) lie."""
        raise NotImplementedError(f"{type(self).__name__} must implement `extremes`.")

    def scaled(self, factor: float) -> Schedule:
        """Returns the schedule of factor·s(t)."""
        raise NotImplementedError(f"{type(self).__name__} must implement `scaled`.")

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> Schedule:
        return cls(**config)


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class Piecewise(Schedule):
    """Constant from one boundary to the next: values[i] before step boundaries[i].

    Args:
        boundaries: Integers > 0, rising. Steps from which on the next value holds.
        values: Floats, one more than `boundaries`.

    Example:

    >>> schedule = Piecewise(boundaries=(2,), values=(1.0, 0.1))
    >>> [float(schedule(tf.constant(t, tf.int64))) for t in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self):
        boundaries = _tuple_of("boundaries", self.boundaries, _is_step)
        values = _tuple_of("values", self.values, _is_positive)
        if any(a >= b for a, b in itertools.pairwise((0, *boundaries))):
            raise ValueError(
                "`boundaries` must be steps > 0 that rise. "
                f"Received: boundaries={boundaries!r}"
            )
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                "`values` must be one more than `boundaries`: the first holds before "
                f"the first boundary. Received: values={values!r}, "
                f"boundaries={boundaries!r}"
            )
        object.__setattr__(self, "boundaries", boundaries)  # It is frozen.
        object.__setattr__(self, "values", values)

    def __call__(self, step):
        passed = tf.constant(self.boundaries, tf.int64, [len(self.boundaries)])
        index = tf.math.count_nonzero(tf.cast(step, tf.int64) >= passed)
        # Not a slice: for each index of one XLA would compile anew.
        return tf.gather(tf.constant(self.values, tf.float64), index)

    def extremes(self):
        return self.values

    def scaled(self, factor):
        values = tuple(value * factor for value in self.values)
        return dataclasses.replace(self, values=values)


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class Ramp(Schedule):
    """From `start` to `end` by the same factor each step, then constant.

    s(t) = start·(end/start)^min(t/steps, 1).

    Args:
        start: Float > 0. At step 0.
        end: Float > 0. From step `steps` on.
        steps: Int >= 1.

    References:
        Lin et al., ICLR 2018, arXiv 1712.01887, section 3.3, ramp up so, one rung an
        epoch (densities 25 %, 6.25 %, 1.5625 %, 0.4 %, 0.1 %); between its rungs a
        ramp is smooth.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self):
        for name in ("start", "end"):
            value = getattr(self, name)
            if not _is_positive(value):
                raise ValueError(
                    f"`{name}` must be a finite number > 0. Received: {name}={value!r}"
                )
            object.__setattr__(self, name, float(value))  # It is frozen.
        if not _is_step(self.steps) or self.steps < 1:
            raise ValueError(
                f"`steps` must be an integer >= 1. Received: steps={self.steps!r}"
            )
        object.__setattr__(self, "steps", int(self.steps))

    def __call__(self, step):
        share = tf.minimum(tf.cast(step, tf.float64) / self.steps, 1.0)
        ramp = self.start * tf.exp(share * math.log(self.end / self.start))
        end = tf.constant(self.end, tf.float64)  # To the last digit.
        return tf.where(share < 1, ramp, end)

    def extremes(self):
        return self.start, self.end

    def scaled(self, factor):
        return dataclasses.replace(
            self, start=self.start * factor, end=self.end * factor
        )


Strength = float | Schedule


def strength_at(strength: Strength, step: tf.Tensor) -> tf.Tensor:
    """The strength at a step: float64 scalar."""
    if isinstance(strength, Schedule):
        return strength(step)
    return tf.constant(strength, tf.float64)


def check_strength(
    name: str, strength: Any, rule: str, holds: Callable[[Any], bool], advice: str
) -> Strength:
    """Returns a strength as a float or a schedule.

    Raises:
        ValueError: it is neither, or not within `rule`.
    """
    is_schedule = isinstance(strength, Schedule)
    values = strength.extremes() if is_schedule else (strength,)
    if not all(is_number(value) and holds(value) for value in values):
        also = " Every value of a schedule must be." if is_schedule else ""
        raise ValueError(
            f"`{name}` must be {rule}. Received: {name}={strength!r}. {advice}{also}"
        )
    return strength if is_schedule else float(strength)


def check_density(density: Any, name: str = "density") -> Strength:
    """Returns a density as a float or a schedule.

    Raises:
        ValueError: it is not in (0, 1].
    """
    return check_strength(
        name,
        density,
        "in (0, 1]",
        lambda x: 0 < x <= 1,
        "Pass a fraction: 10 % is 0.1.",
    )


def is_number(value: Any) -> bool:
    """Whether it is a real number, of Python or numpy."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Whether it is an integer, of Python or numpy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_step(value: Any) -> bool:
    return is_integer(value) and value >= 0


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf


def _tuple_of(name: str, values: Any, holds: Callable[[Any], bool]) -> tuple:
    if not isinstance(values, (tuple, list)) or not all(map(holds, values)):
        kind = "steps (integers)" if name == "boundaries" else "finite numbers > 0"
        raise ValueError(
            f"`{name}` must be a tuple of {kind}. Received: {name}={values!r}"
        )
    return tuple(int(v) if name == "boundaries" else float(v) for v in values)
