"""Steps to the result K* of a cell, and its trend K* = c₁ / B + c₂ over batch sizes.

K* is the least K over trials, so its spread comes from bootstrapping that minimum:
trials are drawn with replacement. No draw is below K*, so this spread is one-sided. A
cell is censored if its winner is the smallest or largest value tried of a metaparameter
(a wider range may hold a better one) or fewer than three trials are complete. The fit
minimises squared differences of log K*; from a censored cell only those by which the
trend lies on the wrong side count: above K* where trials are complete, below the steps
that all of them were given where none is. If fewer than two cells are not censored, all
in which a trial is complete are taken as they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_COMPLETE = 3
# Our choice: 95 % intervals from a thousand draws move by a few percent of themselves.
DRAWS = 1000
STATUSES = ("complete", "incomplete", "infeasible")


@dataclasses.dataclass(frozen=True)
class CellResult:
    """What the trials of one cell found.

    Attributes:
        batch_size: B.
        steps: Steps to the result of each trial; inf where it is not complete.
        metaparameters: Of each trial.
        statuses: Of each trial.
        limits: Steps that each trial was given: `train_iterations`, or fewer where the
            early stop ended it.
        rerun_steps: Steps to the result of the winner with other seeds; inf as above.
    """

    batch_size: int
    steps: tuple[float, ...]
    metaparameters: tuple[dict[str, float], ...]
    statuses: tuple[str, ...]
    limits: tuple[int, ...]
    rerun_steps: tuple[float, ...] = ()

    @property
    def best(self) -> float:
        """K*, or inf."""
        return min(self.steps, default=math.inf)

    @property
    def winner(self) -> int | None:
        """Index of the first trial with K* steps."""
        return self.steps.index(self.best) if math.isfinite(self.best) else None

    def resampled(self, generator: np.random.Generator) -> tuple[float, float]:
        """K* of as many trials, drawn with replacement, and the least of their limits.

        If K* is inf, it is known to be above that limit and no more.
        """
        drawn = generator.integers(len(self.steps), size=len(self.steps))
        return min(self.steps[i] for i in drawn), min(self.limits[i] for i in drawn)

    def count(self, status: str) -> int:
        """Number of trials with that status."""
        return self.statuses.count(status)

    @property
    def censored(self) -> str:
        """Why K* is no point of the trend, or "" if it is one."""
        if self.winner is None:
            return "no complete trial"
        reasons = []
        if self.count("complete") < LEAST_COMPLETE:
            reasons.append(f"{self.count('complete')} complete")
        for name, value in self.metaparameters[self.winner].items():
            tried = [point[name] for point in self.metaparameters]
            if min(tried) < max(tried) and value in (min(tried), max(tried)):
                reasons.append(f"{name} on the edge")
        return "; ".join(reasons)

    @property
    def rerun_median(self) -> float | None:
        """Median steps to the result over the seeds of the reruns."""
        if not self.rerun_steps:
            return None
        ordered = sorted(self.rerun_steps)
        # Of two inf and a number numpy would make nan.
        low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
        return (low + high) / 2


@dataclasses.dataclass(frozen=True)
class Fit:
    """The trend of one series of cells.

    Attributes:
        c1: In steps · examples. c2: In steps.
        c1_interval, c2_interval: 95 %, from the bootstrap over trials.
        r_squared: Of log K*, over the cells that are not censored; NaN below three.
    """

    c1: float
    c2: float
    c1_interval: tuple[float, float]
    c2_interval: tuple[float, float]
    r_squared: float

    def steps(self, batch_size: float | np.ndarray) -> float | np.ndarray:
        """K* by the trend."""
        return self.c1 / batch_size + self.c2


def best_interval(cell: CellResult, seed: int = 0) -> tuple[float, float]:
    """95 % of K*, from the bootstrap over trials; inf where it is not bounded."""
    generator = np.random.default_rng(seed)
    return _interval([cell.resampled(generator)[0] for _ in range(DRAWS)])


def fit_trend(cells: Sequence[CellResult], seed: int = 0) -> Fit | None:
    """Fits K* = c₁ / B + c₂ to cells of different batch sizes.

    Args:
        cells: At least two of them with a complete trial, else there is no fit.
        seed: Of the bootstrap.

    Returns:
        The fit, or None.
    """
    found = [cell for cell in cells if cell.winner is not None]
    if len({cell.batch_size for cell in found}) < 2:
        return None
    batches = np.array([cell.batch_size for cell in cells], float)
    limits = np.array([min(cell.limits) for cell in cells], float)
    bests = np.array([cell.best for cell in cells])
    is_point = np.array([not cell.censored for cell in cells])
    if is_point.sum() < 2:  # Then there is no trend but through all that was found.
        is_point = np.isfinite(bests)
    c1, c2 = _least_squares(batches, bests, limits, is_point)

    generator = np.random.default_rng(seed)
    drawn_fits = []
    for _ in range(DRAWS):
        drawn, limits = np.transpose([cell.resampled(generator) for cell in cells])
        if np.isfinite(drawn).sum() >= 2:
            point = is_point & np.isfinite(drawn)
            if point.sum() < 2:
                point = np.isfinite(drawn)
            drawn_fits.append(_least_squares(batches, drawn, limits, point))
    c1_interval, c2_interval = (_interval(x) for x in np.transpose(drawn_fits))

    observed = np.log(bests[is_point])
    predicted = np.log(c1 / batches[is_point] + c2)
    spread = np.sum((observed - observed.mean()) ** 2)
    r_squared = math.nan
    if is_point.sum() > 2 and spread > 0:
        r_squared = float(1 - np.sum((observed - predicted) ** 2) / spread)
    return Fit(c1, c2, c1_interval, c2_interval, r_squared)


def _least_squares(
    batches: np.ndarray,
    bests: np.ndarray,
    limits: np.ndarray,
    is_point: np.ndarray,
) -> tuple[float, float]:
    """c₁, c₂ >= 0 with the least sum of squares in log K*, one-sided where censored."""
    from scipy.optimize import least_squares

    found = np.isfinite(bests)
    observed = np.log(np.where(found, bests, limits))

    def residuals(logs: np.ndarray) -> np.ndarray:
        difference = np.logaddexp(logs[0] - np.log(batches), logs[1]) - observed
        one_sided = np.where(
            found, np.maximum(difference, 0), np.minimum(difference, 0)
        )
        return np.where(is_point, difference, one_sided)

    # Where both terms count: the slope in the logarithm of nearly 0 is 0.
    logs = np.log([np.max((bests * batches)[found]), np.min(bests)])
    # exp(±30) of a start is as good as 0 or infinity.
    solution = least_squares(residuals, logs, bounds=(logs - 30, logs + 30)).x
    return float(np.exp(solution[0])), float(np.exp(solution[1]))


def _interval(values: Any) -> tuple[float, float]:
    """The middle 95 % of the values; inf counts as the largest."""
    ordered = np.sort(np.asarray(values, float))
    last = len(ordered) - 1
    return (
        float(ordered[math.floor(0.025 * last)]),
        float(ordered[math.ceil(0.975 * last)]),
    )
