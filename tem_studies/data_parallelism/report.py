"""The report of studies from their files: table (CSV), fits, figures, TensorBoard.

Cells that differ in batch size (and in how often and how long it is looked for the
goal) alone are a series: one trend, one curve.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tem_studies.data_parallelism.directory import StudyDirectory, studies_in
from tem_studies.data_parallelism.fit import (
    STATUSES,
    CellResult,
    Fit,
    best_interval,
    fit_trend,
)
from tem_studies.refusal import Refusal
from tem_studies.workloads.study_files import alone_in, write_json
from tem_studies.written_files import write_table

# A check interval that is more of K* than this is said beside it. Our choice.
COARSE = 0.1
TABLE_NAME, FITS_NAME = "steps_to_result.csv", "fits.json"

# What may differ within a series. A check interval is the resolution of K*, which goes
# with the batch size; it is in the table.
_WITHIN_SERIES = (
    "batch_size",
    "check_interval",
    "check_interval_arrival",
    "train_iterations",
)


@dataclasses.dataclass(frozen=True)
class StudyFiles:
    """All files of one study directory.

    Attributes:
        path: The directory.
        configuration: What defines its trials.
        results: Every finished run by its name.
        trials: Those that count as trials, by their names.
        cell: What they found.
    """

    path: Path
    configuration: dict[str, Any]
    results: dict[str, dict[str, Any]]
    trials: dict[str, dict[str, Any]]
    cell: CellResult

    @property
    def winner(self) -> dict[str, Any] | None:
        """The result of the trial with K* steps."""
        if self.cell.winner is None:
            return None
        return list(self.trials.values())[self.cell.winner]


@dataclasses.dataclass(frozen=True)
class Series:
    """Studies that differ in batch size, by rising batch size.

    Attributes:
        label: In what it differs from the other series of the report.
        fit: Their trend, or None.
    """

    label: str
    studies: tuple[StudyFiles, ...]
    fit: Fit | None


def read(paths: Sequence[Path]) -> list[Series]:
    """Reads studies and groups them.

    Args:
        paths: Study directories, or parents of some.

    Raises:
        Refusal: there is none, one has no finished trial, or a file is damaged.
    """
    studies = []
    for path in paths:
        studies += [study for one in studies_in(path) if (study := _read_study(one))]
    if not studies:
        raise Refusal(
            f"The studies in {', '.join(map(str, paths))} have no finished trial yet."
        )
    groups: dict[str, list[StudyFiles]] = {}
    for study in studies:
        # A setting without a value is as one that an older version did not have.
        shared = {
            k: v
            for k, v in study.configuration.items()
            if k not in _WITHIN_SERIES and v is not None
        }
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(study)
    settings = [json.loads(key) for key in groups]
    series = []
    for shared, members in zip(settings, groups.values(), strict=True):
        members.sort(key=lambda study: study.cell.batch_size)
        batches = [study.cell.batch_size for study in members]
        if len(set(batches)) < len(batches):
            raise Refusal(
                f"{members[0].path} and others are studies of the same configuration. "
                "Name each configuration once."
            )
        fit = fit_trend([study.cell for study in members])
        series.append(Series(_label(shared, settings), tuple(members), fit))
    return sorted(series, key=lambda one: one.label)


def make(paths: Sequence[Path], place: Path) -> str:
    """Makes the report of studies in the directory `place`; returns it as text.

    Raises:
        Refusal: as `read`; `place` cannot be written to.
    """
    # matplotlib is needed here alone, and its import takes a second.
    from tem_studies.data_parallelism import figures, tensorboard

    series = read(paths)
    rows = table(series)
    with alone_in(place):
        write_table(place / TABLE_NAME, rows)
        fits = {s.label: s.fit and dataclasses.asdict(s.fit) for s in series}
        write_json(place / FITS_NAME, fits)
        images = figures.draw(series, place)
        tensorboard.write(series, images, place / "tensorboard")
    return _text(rows, series)


def table(series: Sequence[Series]) -> list[dict[str, Any]]:
    """One row for each cell. Empty: there is none; "inf": not bounded."""
    points = [
        study.configuration["mparams_kind"] for s in series for study in s.studies
    ]
    kinds = list(dict.fromkeys(kind for point in points for kind in point))
    rows = []
    for one in series:
        for study in one.studies:
            cell, winner = study.cell, study.winner
            low, high = best_interval(cell)
            row = {
                "series": one.label,
                "batch_size": cell.batch_size,
                "target_sparsity": f"{study.configuration['target_sparsity']:g}",
                "goal_error": study.configuration["goal_error"],
                "trials": len(cell.steps),
                **{status: cell.count(status) for status in STATUSES},
                "steps_to_result": cell.best if winner else "",
                "low": low,
                "high": high,
                "censored": cell.censored,
                "reruns": len(cell.rerun_steps),
                "rerun_median": "" if cell.rerun_median is None else cell.rerun_median,
            }
            for kind in kinds:
                value = winner["metaparameters"].get(kind, "") if winner else ""
                row[kind] = f"{value:.6g}" if value != "" else ""
            row["check_interval"] = study.configuration["check_interval_arrival"]
            row["seconds"] = round(
                sum(sum(r["seconds"].values()) for r in study.results.values())
            )
            rows.append(row)
    return rows


def _read_study(path: Path) -> StudyFiles | None:
    directory = StudyDirectory(path)
    configuration, found = directory.configuration(), directory.trials()
    if not found:
        return None
    trials = list(found.values())
    cell = CellResult(
        batch_size=configuration["batch_size"],
        steps=tuple(_steps(r) for r in trials),
        metaparameters=tuple(r["metaparameters"] for r in trials),
        statuses=tuple(r["status"] for r in trials),
        limits=tuple(
            configuration["train_iterations"]
            if r["stopped_beyond"] is None
            else r["steps"]
            for r in trials
        ),
    )
    results = directory.results()
    if cell.winner is not None:
        won = trials[cell.winner]
        steps = tuple(
            _steps(r)
            for r in results.values()
            if r["trial"] == won["trial"] and r["seed"] != won["seed"]
        )
        cell = dataclasses.replace(cell, rerun_steps=steps)
    return StudyFiles(path, configuration, results, found, cell)


def _steps(result: dict[str, Any]) -> float:
    return result["steps_to_result"] if result["status"] == "complete" else math.inf


def _label(shared: dict[str, Any], all_shared: Sequence[dict[str, Any]]) -> str:
    """The settings in which a series differs from others; sparsity in any case."""
    parts = []
    for name, value in shared.items():
        differs = any(other.get(name) != value for other in all_shared)
        if name == "target_sparsity":
            parts.insert(0, f"sparsity {value:g}")
        elif differs:
            parts.append(value if name == "optimizer" else f"{name} {value}")
    return ", ".join(map(str, parts))


def _text(rows: Sequence[dict[str, Any]], series: Sequence[Series]) -> str:
    lines = []
    for row in rows:
        counts = ", ".join(f"{row[status]} {status}" for status in STATUSES)
        found = row["steps_to_result"]
        best = f"{found:g} steps" if found != "" else f"none of {row['trials']}"
        note = f" (censored: {row['censored']})" if row["censored"] else ""
        interval = row["check_interval"]
        if found != "" and interval > COARSE * found:
            note += f" (looked for every {interval} steps: no finer is known)"
        lines.append(
            f"{row['series']}, batch {row['batch_size']}: K* {best}{note}; {counts}"
        )
    for one in series:
        if one.fit:
            fit = one.fit
            low, high = fit.c1_interval
            lines.append(
                f"{one.label}: K* = {fit.c1:.4g} [{low:.4g}, {high:.4g}] / B + "
                f"{fit.c2:.4g} [{fit.c2_interval[0]:.4g}, {fit.c2_interval[1]:.4g}], "
                f"R² {fit.r_squared:.3f}"
            )
    if any(row["censored"] for row in rows):
        lines.append(
            "censored: other metaparameters or more steps may do better, so that K* is "
            "a bound and no point of the trend. Pass more --nruns or "
            "--train_iterations, or a --goal_error that is reached."
        )
    return "\n".join(lines)
