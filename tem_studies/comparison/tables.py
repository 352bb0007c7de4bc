"""The tables of a comparison's report, which report.py lists, and its text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tem_studies.comparison.plan import TOLERANCE, Row
from tem_studies.comparison.report import Line, Report
from tem_studies.comparison.statistics import LEAST_SEEDS, rank_correlation
from tem_studies.workloads.metric_words import said

Rows = list[dict[str, Any]]


def comparison(report: Report) -> Rows:
    """The lines of comparison.csv."""
    rows = []
    for line in report.lines:
        row, quality = line.row, line.values("quality")
        spread = quality.std(ddof=1) if len(quality) > 1 else math.nan
        rows.append(
            {
                **_key(row),
                "strength": row.strength,
                "seeds": len(line.runs),
                "diverged": len(line.runs) - len(line.finished),
                f"test_{report.quality.name}": _mean(quality),
                "deviation": spread,
                "least": min(quality, default=math.nan),
                "greatest": max(quality, default=math.nan),
                f"validation_{report.quality.name}": _mean(line.values("validation")),
                "bytes_per_worker": _mean(line.values("sent")),
                "volume_over_budget": line.volume,
                "other_volume": _mark(line),
                "total_error": _mean(line.values("total_error")),
            }
        )
    return rows


def differences(report: Report) -> Rows:
    """The lines of differences.csv: method minus other, at the same kind of rate."""
    rows = []
    for kind in report.kinds:
        for budget in report.budgets:
            lines = report.of(kind, budget)
            for one in lines:
                for other in lines:
                    if one is other:
                        continue
                    found = report.difference(one, other)
                    higher = report.quality.is_higher_better
                    rows.append(
                        {
                            "kind": kind,
                            "budget": budget,
                            "method": one.row.method,
                            "minus": other.row.method,
                            **dataclasses.asdict(found),
                            "margin": report.margin,
                            "verdict": found.verdict(report.margin, higher),
                            "other_volume": _mark(one) or _mark(other),
                        }
                    )
    return rows


def correlations(report: Report) -> Rows:
    """Spearman's ρ of total error and quality over runs, per budget and over all."""
    rows = []
    for kind in report.kinds:
        for budget in (*report.comparison.budgets, "all"):
            found = rank_correlation(*error_and_quality(report, kind, budget))
            rows.append({"kind": kind, "budget": budget, **dataclasses.asdict(found)})
    return rows


def error_and_quality(
    report: Report, kind: str, budget: float | str
) -> tuple[list[float], list[float], list[str]]:
    """Total error, quality and method of all runs that sent less than everything."""
    runs = [
        (run.total_error, float(run.quality or 0), line.row.method)
        for line in report.lines
        if line.row.kind == kind
        and line.row.budget is not None
        and budget in ("all", line.row.budget)
        for run in line.finished
    ]
    return tuple(map(list, zip(*runs, strict=True))) if runs else ([], [], [])


def text(report: Report) -> str:
    """What is printed: quality with spread, volume, difference to the baseline."""
    name, baseline = said(report.quality.name), report.comparison.baseline
    lines = [
        f"test {name}, mean ± deviation over seeds; minus {baseline}: 95 % interval"
    ]
    if report.comparison.nseeds < LEAST_SEEDS:
        lines[0] += f", not of fewer than {LEAST_SEEDS} seeds, which leaves all open"
    verdicts: set[str] = set()
    is_marked = False
    for kind in report.kinds:
        for budget in report.budgets:
            found = report.of(kind, budget)
            base = [line for line in found if line.row.method == baseline]
            lines.append(f"{report.title(kind, budget)}:")
            for line in found:
                values = line.values("quality")
                spread = values.std(ddof=1) if len(values) > 1 else math.nan
                words = f"  {line.row.method:<20}{_mean(values):.4f} ± {spread:.4f}"
                words += f"  rate {line.row.rate:<8g}"
                if line.row.budget is not None:
                    words += f"  volume {100 * line.volume:.1f} %"
                    words += " (not equal)" if line.is_marked else ""
                    is_marked = is_marked or line.is_marked
                elif line.has_own_volume and budget is not None:
                    share = report.share_of(line, budget)
                    words += f"  volume {100 * share:.1f} % (its own)"
                if base and line is not base[0]:
                    d = report.difference(line, base[0])
                    higher = report.quality.is_higher_better
                    words += f"  {d.mean:+.4f}"
                    if math.isfinite(d.low):
                        words += f" [{d.low:+.4f}, {d.high:+.4f}]"
                    verdict = d.verdict(report.margin, higher)
                    verdicts.add(verdict)
                    words += f" {verdict}"
                diverged = len(line.runs) - len(line.finished)
                words += f"  {diverged} diverged" if diverged else ""
                lines.append(words)
    for row in correlations(report):
        if math.isfinite(row["value"]):
            budget = row["budget"]
            title = report.title(row["kind"], None)
            words = (
                f"total error and {name}, budget {budget}, {title}: "
                f"Spearman {row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] "
                f"over {row['runs']} runs"
            )
            if math.isfinite(row["group_low"]):
                words += f", drawn by methods [{row['group_low']:+.2f}, "
                words += f"{row['group_high']:+.2f}]"
            lines.append(words)
    if "open" in verdicts:
        lines.append(
            "open: these seeds show neither a difference of more than the margin "
            f"{report.margin:.3g} nor that there is none; fewer than {LEAST_SEEDS} "
            "seeds never do. Pass more --nseeds to the same --study_dir."
        )
    if is_marked:
        lines.append(
            f"not equal: the reported seeds sent over {100 * TOLERANCE:g} % more or "
            "less than the budget, which the pilot's seed met. Longer runs differ less."
        )
    return "\n".join(lines)


def _mark(line: Line) -> str:
    """What its volume is, where it is not the budget's."""
    if line.has_own_volume:
        return "own"
    return "true" if line.is_marked else ""


def _key(row: Row) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "budget": row.budget,
        "method": row.method,
        "learning_rate": row.rate,
    }


def runs(report: Report) -> Rows:
    """The lines of runs.csv."""
    return [
        {
            **_key(line.row),
            "seed": run.seed,
            f"test_{report.quality.name}": run.quality,
            f"validation_{report.quality.name}": run.validation,
            "bytes_per_worker": run.sent,
            "total_error": run.total_error,
        }
        for line in report.lines
        for run in line.runs
    ]


def tuning(report: Report) -> Rows:
    """The lines of tuning.csv."""
    rows = []
    for method, budget, rate, gain, ratio in sorted(
        report.tuning, key=lambda t: (t[0], t[1] or 0, t[2])
    ):
        value = None if gain is None else report.quality.gain(gain)
        rows.append(
            {
                "method": method,
                "budget": budget,
                "learning_rate": rate,
                f"validation_{report.quality.name}": value,
                "volume_over_budget": ratio,
            }
        )
    return rows


def curves(report: Report) -> Rows:
    """The lines of curves.csv."""
    rows = []
    for line in report.lines:
        runs = [r for r in line.finished if len(r.step) == len(line.finished[0].step)]
        for i, step in enumerate(runs[0].step if runs else ()):
            row: dict[str, Any] = {**_key(line.row), "step": int(step)}
            for name in ("entries", "error"):
                values = [getattr(run, name)[i] for run in runs]
                row[name] = float(np.mean(values))
                row[f"{name}_least"] = float(min(values))
                row[f"{name}_greatest"] = float(max(values))
            rows.append(row)
    return rows


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


# Name of the file -> its lines.
TABLES: dict[str, Callable[[Report], Rows]] = {
    "comparison": comparison,
    "runs": runs,
    "differences": differences,
    "tuning": tuning,
    "correlations": correlations,
    "curves": curves,
}
