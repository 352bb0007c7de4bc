"""The report of a comparison from its files: tables (CSV), figures, TensorBoard.

comparison.csv     one line per method, budget and kind of rate
runs.csv           one line per reported run
differences.csv    every method against every other, seed by seed
tuning.csv         every learning rate that was tried
correlations.csv   total error against quality
curves.csv         k_t and ‖e‖² over time, mean, least and greatest over seeds
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tem_studies.comparison.configuration import Comparison
from tem_studies.comparison.directory import RUNS_NAME, ComparisonDirectory
from tem_studies.comparison.methods import has_own_volume, method_of
from tem_studies.comparison.plan import TOLERANCE, Plan, Row
from tem_studies.comparison.quality import Quality, quality_of
from tem_studies.comparison.statistics import Difference, paired
from tem_studies.comparison.study import outcomes
from tem_studies.refusal import Refusal
from tem_studies.workloads.results import read_steps
from tem_studies.workloads.study_files import alone_in
from tem_studies.written_files import write_table

CURVE_POINTS = 200  # of a curve in figures and tables; each is a mean over its steps


@dataclasses.dataclass(frozen=True)
class Run:
    """One reported run.

    Attributes:
        seed: Its seed.
        quality: Of the test split; None: diverged.
        validation: At the last check.
        sent: Bytes of one worker, padding apart.
        total_error: Σ ‖e‖².
        history: (bytes of one worker, validation quality or NaN) at each check.
        step: Of the curves (points,): the last step of each stretch, from 1.
        entries, error: Means of k_t and ‖e‖² over each stretch of steps.
    """

    seed: int
    quality: float | None
    validation: float | None
    sent: float
    total_error: float
    history: tuple[tuple[float, float], ...]
    step: np.ndarray
    entries: np.ndarray
    error: np.ndarray


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the plan with its finished runs.

    Attributes:
        row: What was run.
        runs: Those that are finished.
        has_own_volume: Whether it is shown beside budgets without a setting by which it
            could meet one.
    """

    row: Row
    runs: tuple[Run, ...]
    has_own_volume: bool = False

    @property
    def label(self) -> str:
        """Of the method."""
        return method_of(self.row.method).label

    @property
    def finished(self) -> list[Run]:
        """Those that did not diverge."""
        return [run for run in self.runs if run.quality is not None]

    @property
    def volume(self) -> float:
        """Bytes sent over bytes allowed, mean over finished runs; NaN without any.

        A run that diverged ended early, and what it sent is no volume of a whole run.
        """
        if self.row.budget_bytes is None or not self.finished:
            return math.nan
        return float(self.values("sent").mean()) / self.row.budget_bytes

    @property
    def is_marked(self) -> bool:
        """Whether its volume is not the budget's."""
        return self.has_own_volume or abs(self.volume - 1) > TOLERANCE

    def values(self, name: str) -> np.ndarray:
        """One value of each finished run."""
        return np.array([getattr(run, name) for run in self.finished], float)


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that tables and figures show."""

    comparison: Comparison
    quality: Quality
    margin: float
    lines: tuple[Line, ...]
    tuning: tuple[tuple[str, float | None, float, float | None, float], ...]

    def of(self, kind: str, budget: float | None) -> list[Line]:
        """Lines of one kind of rate at one budget, dense ones included."""
        return [
            line
            for line in self.lines
            if line.row.kind == kind and line.row.budget in (None, budget)
        ]

    @property
    def budgets(self) -> tuple[float | None, ...]:
        """Those that were asked for; None alone where no method has one."""
        return self.comparison.budgets or (None,)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of rate: tuned ones alone where there is but one rate."""
        return ("tuned", "common") if len(self.comparison.rates) > 1 else ("tuned",)

    def title(self, kind: str, budget: float | None) -> str:
        """What a panel or table of one kind of rate and one budget shows."""
        common = f"{self.comparison.run.learning_rate:g}"
        rates = "tuned rates" if kind == "tuned" else f"common rate {common}"
        if len(self.kinds) == 1:
            rates = f"learning rate {common}"
        return rates if budget is None else f"budget {100 * budget:g} %, {rates}"

    def share_of(self, line: Line, budget: float) -> float:
        """What a line sent, as a share of a budget's bytes; NaN if none met it."""
        allowed = [
            other.row.budget_bytes for other in self.lines if other.row.budget == budget
        ]
        sent = line.values("sent")
        return float(sent.mean()) / allowed[0] if allowed and len(sent) else math.nan

    def difference(self, one: Line, other: Line) -> Difference:
        """Of the quality on the test split, over the seeds that both finished."""
        pairs = self.pairs(one, other)
        return paired([x for x, _ in pairs], [y for _, y in pairs])

    def pairs(self, one: Line, other: Line) -> list[tuple[float, float]]:
        """Both qualities on the test split, of the seeds that both finished."""
        theirs = {run.seed: run.quality for run in other.finished}
        return [
            (run.quality, theirs[run.seed])
            for run in one.finished
            if run.seed in theirs
        ]


def read(comparison: Comparison) -> Report:
    """Reads the finished runs of a comparison.

    Raises:
        Refusal: no reported run is finished, or a file is damaged.
    """
    directory = ComparisonDirectory(comparison.path)
    results = directory.results()
    plan = Plan(comparison, outcomes(directory))
    lines = []
    for row in plan.rows:
        runs = [
            _read_run(directory.path / RUNS_NAME / task.name, results[task.name])
            for task in row.tasks
            if task.name in results
        ]
        if runs:
            is_own = bool(comparison.budgets) and has_own_volume(row.method)
            lines.append(Line(row, tuple(runs), is_own))
    if not lines:
        raise Refusal(f"{comparison.path} has no finished run to report yet.")
    quality = quality_of(next(r for r in results.values() if r["history"]))
    margin = quality.margin if comparison.margin is None else comparison.margin
    if quality.is_relative:
        base = [line for line in lines if line.row.method == comparison.baseline]
        values = (base or lines)[0].values("quality")
        margin *= float(values.mean()) if len(values) else math.nan
    return Report(comparison, quality, margin, tuple(lines), tuple(plan.tuning))


def make(comparison: Comparison, place: Path) -> str:
    """Makes the report in the directory `place`; returns its table as text.

    Raises:
        Refusal: as `read`; `place` cannot be written to.
    """
    # matplotlib is needed here alone, and its import takes a second.
    from tem_studies.comparison import figures, tables, tensorboard

    report = read(comparison)
    with alone_in(place):
        for name, rows in tables.TABLES.items():
            _write(place / f"{name}.csv", rows(report))
        images = figures.draw(report, place)
        tensorboard.write(report, images, place / "tensorboard")
    return tables.text(report)


def _read_run(folder: Path, result: dict[str, Any]) -> Run:
    quality = quality_of(result) if result["history"] else None
    replicas, communication = result["replicas"], result["communication"] or {}
    steps = read_steps(folder)
    count = len(steps["entries"])
    edges = np.unique(np.linspace(0, count, min(count, CURVE_POINTS) + 1).astype(int))
    history = ()
    if quality is not None:
        values = [r[f"validation_{quality.name}"] for r in result["history"]]
        sent = [r["payload_bytes"] / replicas for r in result["history"]]
        # JSON has null for what is not finite.
        values = [math.nan if value is None else value for value in values]
        history = tuple(zip(sent, values, strict=True))
    return Run(
        seed=result["seed"],
        quality=quality.test(result) if quality else None,
        validation=quality.validation(result) if quality else None,
        sent=communication.get("payload_bytes", math.nan) / replicas,
        total_error=communication.get("total_error", math.nan),
        history=history,
        step=edges[1:],
        entries=_means(steps["entries"], edges),
        error=_means(steps["error"], edges),
    )


def _means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The mean of each stretch, exact for its sum."""
    if not len(values):
        return values
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_table(path, [{k: _shown(v) for k, v in row.items()} for row in rows])


def _shown(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
