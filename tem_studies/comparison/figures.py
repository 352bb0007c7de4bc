"""The figures of a comparison (matplotlib, PNG and SVG).

quality       quality against bytes sent, each seed a dot, mean and least to greatest
trajectories  the same along training
entries       k_t over time, mean and least to greatest over seeds; logarithmic
error         ‖e‖² over time
total_error   its sum, per method
differences   to the baseline, 95 % intervals, with the margin
prediction    total error against quality of every run
tuning        validation quality against the learning rate
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from tem_studies.comparison.statistics import LEAST_SEEDS, rank_correlation
from tem_studies.comparison.tables import error_and_quality
from tem_studies.workloads.figure_files import save_figures

matplotlib.use("Agg")  # Files alone: there may be no screen.
# The names inside an SVG file, else drawn at random.
matplotlib.rcParams["svg.hashsalt"] = "tem_tf"

from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tem_studies.comparison.report import Line, Report

_WIDTH, _HEIGHT = 6.0, 4.4  # inches of a panel
_MARKERS = "osD^vP*XhdH"
_LINES = ("-", "--", "-.", ":")
_ASIDE = 1.05  # by so much from method to method


def draw(report: Report, place: Path) -> list[Path]:
    """Draws what the data allows; returns the PNG files.

    Args:
        report: As `report.read` returns it.
        place: An existing directory. Figures of an earlier report are replaced.
    """
    makers: dict[str, Callable[[Report], Figure | None]] = {
        "quality": _quality,
        "trajectories": _trajectories,
        "entries": lambda r: _over_time(r, "entries", "entries sent per worker, k_t"),
        "error": lambda r: _over_time(r, "error", "‖e‖², mean over workers"),
        "total_error": _total_error,
        "differences": _differences,
        "prediction": _prediction,
        "tuning": _tuning,
    }
    return save_figures(makers, report, place)


def _quality(report: Report) -> Figure:
    figure, grid = _panels(report, budgets=False)
    for kind, _, axes in grid:
        for line in [line for line in report.lines if line.row.kind == kind]:
            sent, quality = line.values("sent"), line.values("quality")
            if not len(quality):
                continue
            style = _style(report, line)
            # Equal volumes would lie on top of one another.
            i = report.comparison.methods.index(line.row.method)
            sent = sent * _ASIDE ** (i - len(report.comparison.methods) / 2)
            axes.plot(sent, quality, ls="", ms=3, alpha=0.5, **style)
            mean = quality.mean()
            reach = [[mean - quality.min()], [quality.max() - mean]]
            axes.errorbar(
                sent.mean(),
                mean,
                reach,
                ms=8,
                capsize=3,
                mfc="none" if line.is_marked else style["color"],
                label=line.label,
                **style,
            )
        axes.set(xscale="log", xlabel="bytes sent per worker in the whole run")
        axes.set_ylabel(f"test {report.quality.name}")
        axes.set_title(report.title(kind, None), fontsize="medium")
    note = "hollow: volume not within 2 % of the budget; moved sideways by method"
    _legend(figure, grid, note=note)
    return figure


def _trajectories(report: Report) -> Figure | None:
    figure, grid = _panels(report)
    for kind, budget, axes in grid:
        for line in report.of(kind, budget):
            histories = [np.array(run.history) for run in line.finished if run.history]
            histories = [h for h in histories if len(h) == len(histories[0])]
            if not histories:
                continue
            sent, quality = np.mean(histories, axis=0).T
            style = _style(report, line)
            axes.plot(sent, quality, ms=3, lw=1, label=line.label, **style)
        axes.set(xscale="log", xlabel="bytes sent per worker so far")
        axes.set_ylabel(f"validation {report.quality.name}")
        axes.set_title(report.title(kind, budget), fontsize="medium")
    _legend(figure, grid)
    return figure


def _over_time(report: Report, name: str, label: str) -> Figure | None:
    figure, grid = _panels(report)
    for kind, budget, axes in grid:
        for line in report.of(kind, budget):
            runs = line.finished
            runs = [run for run in runs if len(run.step) == len(runs[0].step)]
            values = np.array([getattr(run, name) for run in runs])
            if not len(runs) or not values.any():
                continue
            curves = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
            # What is 0 has no place on a logarithmic axis.
            mean, *reach = (np.where(c > 0, c, np.nan) for c in curves)
            style = _style(report, line)
            del style["marker"]
            i = report.comparison.methods.index(line.row.method)
            axes.plot(
                runs[0].step,
                mean,
                lw=1.5,
                ls=_LINES[i % len(_LINES)],
                label=line.label,
                **style,
            )
            axes.fill_between(
                runs[0].step,
                *reach,
                color=style["color"],
                alpha=0.15,
                lw=0,
            )
        axes.set(yscale="log", xlabel="step", ylabel=label)
        axes.set_title(report.title(kind, budget), fontsize="medium")
    _legend(figure, grid)
    return figure


def _total_error(report: Report) -> Figure | None:
    def draw_line(axes: Axes, line: Line, height: int, budget: float | None) -> bool:
        del budget
        values = line.values("total_error")
        if line.row.budget is None or not len(values):
            return False
        style = _style(report, line)
        axes.plot(values, [height] * len(values), ls="", ms=4, alpha=0.5, **style)
        axes.plot(values.mean(), height, ls="", ms=9, **style)
        return True

    figure = _by_method(report, draw_line, "total error: Σ ‖e‖², mean over workers")
    if figure:
        for axes in figure.axes:
            axes.set_xlim(0, 1.05 * axes.get_xlim()[1])
            # 250000 beside 300000 would touch it.
            axes.ticklabel_format(axis="x", scilimits=(-3, 3))
    return figure


def _differences(report: Report) -> Figure | None:
    def draw_line(axes: Axes, line: Line, height: int, budget: float | None) -> bool:
        base = [
            other
            for other in report.of(line.row.kind, budget)
            if other.row.method == report.comparison.baseline
        ]
        if line.row.method == report.comparison.baseline or not base:
            return False
        found = report.difference(line, base[0])
        if not found.seeds:
            return False
        style = _style(report, line)
        reach = None
        if np.isfinite(found.low):
            reach = [[found.mean - found.low], [found.high - found.mean]]
        else:  # Too few seeds for an interval: each of them.
            each = [x - y for x, y in report.pairs(line, base[0])]
            axes.plot(each, [height] * len(each), "|", ms=12, color=style["color"])
        axes.errorbar(
            found.mean,
            height,
            xerr=reach,
            ms=7,
            capsize=4,
            mfc="none" if line.is_marked else style["color"],
            **style,
        )
        return True

    label = f"test {report.quality.name} minus that of {report.comparison.baseline}"
    figure = _by_method(report, draw_line, label)
    if figure:
        for axes in figure.axes:
            axes.axvspan(-report.margin, report.margin, color="0.9", zorder=0)
            axes.axvline(0, color="grey", lw=1, zorder=0)
        seeds = report.comparison.nseeds
        shown = "95 % bootstrap intervals over" if seeds >= LEAST_SEEDS else "each of"
        figure.suptitle(
            f"{shown} {seeds} paired seeds; grey: the margin",
            fontsize="medium",
        )
    return figure


def _prediction(report: Report) -> Figure | None:
    figure, grid = _panels(report, budgets=False)
    drawn = False
    for kind, _, axes in grid:
        for line in [line for line in report.lines if line.row.kind == kind]:
            if line.row.budget is None or not line.finished:
                continue
            drawn = True
            error, quality = line.values("total_error"), line.values("quality")
            is_first = line.row.budget == report.budgets[0]
            style = _style(report, line)
            axes.plot(
                error,
                quality,
                ls="",
                ms=6,
                mfc=style["color"] if is_first else "none",
                label=line.label if is_first else None,
                **style,
            )
        found = rank_correlation(*error_and_quality(report, kind, "all"))
        axes.set(xscale="log", xlabel="total error: Σ ‖e‖², mean over workers")
        axes.set_ylabel(f"test {report.quality.name}")
        title = report.title(kind, None)
        title += f"\nSpearman {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
        title += f", {found.runs} runs"
        if not np.isnan(found.group_low):
            title += f"\ndrawn by methods [{found.group_low:.2f}, "
            title += f"{found.group_high:.2f}]"
        axes.set_title(title, fontsize="medium")
    if not drawn:
        pyplot.close(figure)
        return None
    note = "one dot per run"
    if len(report.comparison.budgets) > 1:
        note += f"; filled: budget {100 * report.comparison.budgets[0]:g} %"
    _legend(figure, grid, note=note)
    return figure


def _tuning(report: Report) -> Figure | None:
    if not report.tuning:
        return None
    figure, grid = _panels(report, kinds=("tuned",))
    by_method = {line.row.method: line for line in report.lines}
    for _, budget, axes in grid:
        for method, line in by_method.items():
            points = sorted(
                (rate, report.quality.gain(gain))
                for name, other, rate, gain, _ in report.tuning
                if name == method and other in (None, budget) and gain is not None
            )
            if points:
                style = _style(report, line)
                axes.plot(
                    *zip(*points, strict=True), ms=4, lw=1, label=line.label, **style
                )
        axes.set(xscale="log", xlabel="learning rate")
        axes.set_ylabel(f"validation {report.quality.name}, tuning seeds")
        if budget is not None:
            axes.set_title(f"budget {100 * budget:g} %", fontsize="medium")
    _legend(figure, grid)
    return figure


def _panels(
    report: Report, budgets: bool = True, kinds: tuple[str, ...] | None = None
) -> tuple[Figure, list[tuple[str, float | None, Axes]]]:
    """A panel for each kind of rate (rows) and budget (columns)."""
    kinds = kinds or report.kinds
    columns = report.budgets if budgets else (None,)
    rows = [(kind, budget) for kind in kinds for budget in columns]
    high, wide = (len(kinds), len(columns)) if budgets else (1, len(kinds))
    figure, grid = pyplot.subplots(
        high,
        wide,
        squeeze=False,
        figsize=(max(_WIDTH * wide, 7.5), _HEIGHT * high + 1),
        layout="constrained",
    )
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    return figure, [(*row, axes) for row, axes in zip(rows, grid.flat, strict=True)]


def _by_method(
    report: Report,
    draw_line: Callable[[Axes, Line, int, float | None], bool],
    label: str,
) -> Figure | None:
    """Panels with a method in each row, from top to bottom."""
    figure, grid = _panels(report)
    drawn = False
    for kind, budget, axes in grid:
        names: list[str] = []
        for line in report.of(kind, budget):
            if draw_line(axes, line, len(names), budget):
                names.append(line.label)
        drawn = drawn or bool(names)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.set_title(report.title(kind, budget), fontsize="medium")
    if not drawn:
        pyplot.close(figure)
        return None
    return figure


def _legend(figure: Figure, grid: list[Any], note: str = "") -> None:
    """One legend below all panels."""
    entries: dict[str, Any] = {}
    for *_, axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    columns = 3 if figure.get_figwidth() < 10 else 4
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        title=note or None,
        title_fontsize="small",
    )


def _style(report: Report, line: Line) -> dict[str, Any]:
    i = report.comparison.methods.index(line.row.method)
    return {"color": f"C{i % 10}", "marker": _MARKERS[i % len(_MARKERS)]}
