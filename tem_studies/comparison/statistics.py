"""Paired differences with bootstrap intervals, and rank correlation.

Runs of one seed share initial weights and the order of examples, so methods are
compared seed by seed: the mean of x_s - y_s over seeds s, and its 95 % interval from
drawing seeds with replacement. With five seeds such an interval is too narrow (about
85 % instead of 95 %), so Student's interval of the same differences stands beside it.

Runs of one method are alike. Of seven methods with five runs each, made up so that
nothing relates total error and quality, the interval of the rank correlation from
drawing runs leaves out 0 in half of all cases; from drawing methods, in a tenth.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

DRAWS = 10_000
LEAST_SEEDS = 5  # fewer carry no claim (see the README)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean difference over paired seeds.

    Attributes:
        seeds: Number of pairs.
        mean: Of the differences.
        low, high: Its 95 % bootstrap interval; NaN of fewer than `LEAST_SEEDS`.
        student_low, student_high: 95 % by Student's t; likewise.
    """

    seeds: int
    mean: float
    low: float
    high: float
    student_low: float
    student_high: float

    def verdict(self, margin: float, is_higher_better: bool) -> str:
        """What the bootstrap interval says against a margin > 0.

        Returns:
            "better" or "worse" if the whole interval is on that side of 0 and the mean
            is beyond the margin; "equal" if the interval is within the margin; else
            "open", as with fewer than five seeds.
        """
        if self.seeds < LEAST_SEEDS or not math.isfinite(self.mean):
            return "open"
        if max(abs(self.low), abs(self.high)) < margin:
            return "equal"
        if self.low * self.high > 0 and abs(self.mean) >= margin:
            return "better" if (self.mean > 0) == is_higher_better else "worse"
        return "open"


def paired(x: Sequence[float], y: Sequence[float], seed: int = 0) -> Difference:
    """The difference x - y of paired values."""
    from scipy import stats

    differences = np.asarray(x, float) - np.asarray(y, float)
    count = len(differences)
    if count == 0:
        return Difference(0, *(math.nan,) * 5)
    mean = float(differences.mean())
    if count < LEAST_SEEDS:  # Of two or three numbers it would be their range.
        return Difference(count, mean, *(math.nan,) * 4)
    generator = np.random.default_rng(seed)
    drawn = differences[generator.integers(0, count, (DRAWS, count))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    error = differences.std(ddof=1) / math.sqrt(count)
    half = float(stats.t.ppf(0.975, count - 1) * error)
    return Difference(count, mean, float(low), float(high), mean - half, mean + half)


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation.

    Attributes:
        runs: Number of runs.
        value: Spearman's ρ.
        low, high: Its 95 % bootstrap interval from drawing runs.
        group_low, group_high: The same from drawing whole groups of runs; NaN of
            fewer than three.
    """

    runs: int
    value: float
    low: float
    high: float
    group_low: float
    group_high: float


def rank_correlation(
    x: Sequence[float],
    y: Sequence[float],
    groups: Sequence[Any],
    seed: int = 0,
    draws: int = 2000,
) -> Correlation:
    """Spearman's ρ; NaN where there are fewer than three runs or no differences.

    Args:
        x: A value of each run.
        y: Another one.
        groups: What each run shares with others, as its method. Where runs of a group
            are alike, they are less evidence than as many independent ones, and the
            interval from drawing runs is too narrow.
        seed: Of the draws.
        draws: Their number.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)

    def interval(numbers: np.ndarray) -> tuple[float, float]:
        """From drawing the groups that runs have as numbers."""
        size = numbers.max() + 1
        if size < 3:  # Drawn again and again they say nothing of others.
            return math.nan, math.nan
        chosen = np.random.default_rng(seed).integers(0, size, (draws, size))
        times = np.zeros((draws, size))
        np.add.at(times, (np.arange(draws)[:, np.newaxis], chosen), 1)
        drawn = _spearman(x, y, times[:, numbers])
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        return float(low), float(high)

    (value,) = _spearman(x, y, np.ones((1, len(x))))
    if len(x) < 3 or math.isnan(value):
        return Correlation(len(x), *(math.nan,) * 5)
    _, numbers = np.unique(groups, return_inverse=True)
    by_runs, by_groups = interval(np.arange(len(x))), interval(numbers)
    return Correlation(len(x), float(value), *by_runs, *by_groups)


def _spearman(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Spearman's ρ of runs that were drawn several times: (draws,).

    Args:
        x: float64 (n,).
        y: float64 (n,).
        times: float64 (draws, n). How often each run was drawn.
    """

    def ranks(z: np.ndarray) -> np.ndarray:
        """Less their mean; equals share theirs: (draws, n)."""
        column = z[:, np.newaxis]
        found = times @ ((z < column) + 0.5 * (z == column)).T
        mean = (times * found).sum(axis=1) / times.sum(axis=1)
        return found - mean[:, np.newaxis]

    with np.errstate(invalid="ignore"):  # NaN where all ranks are equal
        a, b = ranks(x), ranks(y)
        square = (times * a * a).sum(axis=1) * (times * b * b).sum(axis=1)
        return (times * a * b).sum(axis=1) / np.sqrt(square)
