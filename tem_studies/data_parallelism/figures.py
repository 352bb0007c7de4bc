"""The figures of a report (matplotlib, PNG and SVG)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from tem_studies.data_parallelism.fit import best_interval
from tem_studies.workloads.figure_files import save_figures

matplotlib.use("Agg")  # Files alone: there may be no screen.
# The names inside an SVG file, else drawn at random.
matplotlib.rcParams["svg.hashsalt"] = "tem_tf"

from matplotlib import pyplot, ticker  # noqa: E402  (after the backend is chosen)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tem_studies.data_parallelism.report import Series, StudyFiles

MARKERS = {"complete": "o", "incomplete": "^", "infeasible": "x"}
_COLOURS = [f"C{i}" for i in range(10)]
_WIDTH, _HEIGHT = 6.4, 4.8  # inches


def draw(series: Sequence[Series], place: Path) -> list[Path]:
    """Draws what the data allows; returns the PNG files.

    Args:
        series: As `report.read` returns them.
        place: An existing directory. Figures of an earlier report are replaced.
    """
    makers = {
        "steps_to_result": _steps_to_result,
        "metaparameters": _metaparameters,
        "learning_curves": _learning_curves,
        "lipschitz": _lipschitz,
    }
    return save_figures(makers, series, place, bbox_inches="tight")


def _steps_to_result(series: Sequence[Series]) -> Figure | None:
    """K* against B with its interval, the trend and the line of linear scaling."""
    figure, axes = pyplot.subplots(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    ticks: set[int] = set()
    for number, (colour, one) in enumerate(
        zip(_cycle(len(series)), series, strict=True)
    ):
        found = [s.cell for s in one.studies if s.cell.winner is not None]
        if not found:
            continue
        batches = np.array([cell.batch_size for cell in found], float)
        bests = np.array([cell.best for cell in found])
        ticks.update(cell.batch_size for cell in found)
        # Side by side, so that none hides another.
        aside = 1.05 ** (number - (len(series) - 1) / 2)
        axes.plot([], [], "o-", color=colour, label=one.label)
        for cell in found:
            x, face = aside * cell.batch_size, "none" if cell.censored else colour
            axes.plot(x, cell.best, "o", color=colour, mfc=face)
            if cell.rerun_median:
                axes.plot(x, cell.rerun_median, "+", color=colour, ms=10)
            low, high = best_interval(cell)
            axes.vlines(x, low, min(high, max(cell.limits)), colour, alpha=0.5)
        if one.fit:
            grid = np.geomspace(batches.min(), batches.max(), 200)
            axes.plot(grid, one.fit.steps(grid), "-", color=colour, lw=1)
        start = np.argmin(batches)
        linear = bests[start] * batches[start] / batches
        axes.plot(batches, linear, ":", color=colour, lw=1)
    if not ticks:
        pyplot.close(figure)
        return None
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sorted(ticks), labels=map(str, sorted(ticks)))
    axes.minorticks_off()
    axes.set(xlabel="batch size B", ylabel="steps to result K*")
    axes.set_title(
        "Solid: K* = c₁/B + c₂; dotted: linear scaling; open: censored; "
        "+: median of new seeds",
        fontsize="x-small",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _metaparameters(series: Sequence[Series]) -> Figure | None:
    """Each trial's metaparameters against its steps, by status."""
    studies = [(one, study) for one in series for study in one.studies]
    kinds = list(
        dict.fromkeys(k for _, s in studies for k in s.configuration["mparams_kind"])
    )
    if not kinds:
        return None
    figure, grid = _grid(len(studies), len(kinds))
    for row, (one, study) in zip(grid, studies, strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            if kind not in study.configuration["mparams_kind"]:
                axes.set_visible(False)
                continue
            for status, marker in MARKERS.items():
                points = [
                    (r["metaparameters"][kind], max(r["steps"], 1))
                    for r in study.trials.values()
                    if r["status"] == status
                ]
                if points:
                    axes.plot(*zip(*points, strict=True), marker, ls="", label=status)
            if kind == "momentum":
                axes.set_xscale("function", functions=_COMPLEMENT)
                axes.set_xlim(0.88, 0.99995)
                axes.set_xticks([0.9, 0.99, 0.999, 0.9999])
            elif kind != "decay_steps":
                axes.set_xscale("log")
            axes.set(xlabel=kind, ylabel="steps", yscale="log")
            # Powers of ten alone, or plain numbers where there is none of them.
            axes.yaxis.set_major_formatter(ticker.LogFormatter(labelOnlyBase=False))
            axes.yaxis.set_minor_formatter(ticker.LogFormatter(labelOnlyBase=False))
            axes.set_title(_name(one, study), fontsize="small")
            axes.legend(fontsize="x-small")
    return figure


def _learning_curves(series: Sequence[Series]) -> Figure | None:
    """Validation error of each cell's winner."""

    def curve(study: StudyFiles) -> list[tuple[float, float]]:
        history = study.winner["history"] if study.winner else []
        return [(r["step"], 1 - r["validation_accuracy"]) for r in history]

    figure = _curves(series, curve, "validation error of the best trial")
    if figure is not None:
        goals = {s.configuration["goal_error"] for one in series for s in one.studies}
        for goal in goals:
            figure.axes[0].axhline(goal, color="grey", ls=":", lw=1)
        figure.axes[0].set_yscale("log")
    return figure


def _lipschitz(series: Sequence[Series]) -> Figure | None:
    """L along the training of each cell's winner, or of its first trial."""

    def curve(study: StudyFiles) -> list[tuple[float, float]]:
        result = study.winner or next(iter(study.trials.values()))
        history = (result.get("lipschitz") or {}).get("history", [])
        # The first measurement is at step 0, which a logarithm cannot show.
        return [(r["step"] + 1, r["lipschitz"]) for r in history if r["lipschitz"]]

    figure = _curves(series, curve, "Lipschitz constant L of the gradient")
    if figure is not None:
        figure.axes[0].set_xlabel("step + 1")
        figure.axes[0].set_yscale("log")
    return figure


def _curves(series: Sequence[Series], curve: Any, label: str) -> Figure | None:
    """One line for each cell whose `curve` gives two points or more."""
    figure, axes = pyplot.subplots(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    styles = ["-", "--", ":", "-."]
    batches = sorted({s.cell.batch_size for one in series for s in one.studies})
    # By batch size, or by series where there is one batch size.
    colours = _cycle(max(len(batches), len(series)))
    drawn = False
    for number, one in enumerate(series):
        for study in one.studies:
            points = curve(study)
            if not points:
                continue
            drawn = True
            axes.plot(
                *zip(*points, strict=True),
                ls=styles[number % len(styles)],
                marker="." if len(points) < 20 else "",
                color=colours[
                    batches.index(study.cell.batch_size) if len(batches) > 1 else number
                ],
                label=_name(one, study),
            )
    if not drawn:
        pyplot.close(figure)
        return None
    axes.set(xscale="log", xlabel="step", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    return figure


def _name(one: Series, study: StudyFiles) -> str:
    return f"{one.label}, batch {study.cell.batch_size}"


def _grid(rows: int, columns: int) -> tuple[Figure, Any]:
    """Axes in rows and columns; one column alone is wrapped into several."""
    size = (_WIDTH * 0.6 * columns, _HEIGHT * 0.6 * rows)
    if columns > 1:
        return pyplot.subplots(
            rows, columns, squeeze=False, figsize=size, layout="constrained"
        )
    wide = min(rows, math.ceil(math.sqrt(rows)))
    high = math.ceil(rows / wide)
    size = (_WIDTH * 0.6 * wide, _HEIGHT * 0.6 * high)
    figure, grid = pyplot.subplots(
        high, wide, squeeze=False, figsize=size, layout="constrained"
    )
    flat = grid.ravel()
    for unused in flat[rows:]:
        unused.set_visible(False)
    return figure, [[axes] for axes in flat[:rows]]


def _cycle(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


# Momentum by the logarithm of 1 - m, rising to the right.
_COMPLEMENT = (
    lambda m: -np.log10(np.maximum(1 - np.asarray(m, float), 1e-12)),
    lambda y: 1 - 10.0 ** -np.asarray(y, float),
)
