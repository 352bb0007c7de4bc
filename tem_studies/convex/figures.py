"""The study's figures and the trade-off of bits for suboptimality, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tem_studies.written_files import make_directory, opened

Curve = dict[str, np.ndarray]  # column of `trace.Trace` -> (records,)

# (x, y, whether y is logarithmic). The panels of the TEM study's figures.
PANELS = (
    ("encoded_bits", "suboptimality", True),
    ("epochs", "suboptimality", True),
    ("encoded_bits", "squared_distance", True),
    ("epochs", "squared_distance", True),
    ("step", "encoded_bits", True),
    ("step", "entries", True),
    ("step", "error", True),
    ("step", "total_error", True),
)
_WORDS = {
    "encoded_bits": "bits sent per worker: values, indices, headers",
    "epochs": "passes over the data",
    "step": "iterations",
    "suboptimality": "f(x) − f*",
    "squared_distance": "‖x − x*‖²",
    "entries": "entries sent per iteration, k_t",
    "error": "mean ‖e‖²",
    "total_error": "total error",
}
_TABLE = (
    *("bits", "encoded_bits", "epochs", "suboptimality", "squared_distance"),
    *("entries", "error", "total_error"),
)
_POINTS = 100  # Records of each curve in the table; figures have them all.
_DPI = 80


def mean_and_spread(curves: dict[str, list[Curve]]) -> list[dict[str, Any]]:
    """One line per curve and record: mean, least and greatest over seeds."""
    rows = []
    for label, runs in curves.items():
        steps = runs[0]["step"]
        chosen = np.unique(np.linspace(0, len(steps) - 1, _POINTS).astype(int))
        for i in chosen:
            row: dict[str, Any] = {"curve": label, "step": int(steps[i])}
            for name in _TABLE:
                values = np.array([run[name][i] for run in runs])
                row[name] = float(values.mean())
                row[f"{name}_least"] = float(values.min())
                row[f"{name}_greatest"] = float(values.max())
            rows.append(row)
    return rows


def draw_curves(curves: dict[str, list[Curve]], title: str, stem: Path) -> None:
    """Draws all panels: the mean over seeds, shaded from the least to the greatest.

    Args:
        curves: Label -> the runs of all seeds, with the same records.
        title: Of the figure.
        stem: Path without the ending.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(2, 4, figsize=(18, 9), layout="constrained")
    for axis, (x, y, logarithmic) in zip(axes.T.flat, PANELS, strict=True):
        for i, (label, runs) in enumerate(curves.items()):
            style = _style(i)
            across = np.mean([run[x] for run in runs], axis=0)
            values = np.array([run[y] for run in runs])
            if logarithmic:  # what is exactly 0 has no place on this axis
                values = np.where(values > 0, values, np.nan)
            known = np.isfinite(values).all(axis=0)
            if not known.any():  # as the error of a compressor that sends everything
                continue
            across, values = across[known], values[:, known]
            axis.plot(across, values.mean(axis=0), label=label, linewidth=1.3, **style)
            axis.fill_between(
                across,
                values.min(axis=0),
                values.max(axis=0),
                color=style["color"],
                alpha=0.15,
                linewidth=0,
            )
        if logarithmic and axis.get_lines():
            axis.set_yscale("log")
        if x == "encoded_bits" and axis.get_lines():
            axis.set_xscale("log")
        axis.set_xlabel(_WORDS[x])
        axis.set_ylabel(_WORDS[y])
        axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    _save(figure, stem)


def draw_trade_off(
    rows: list[dict[str, Any]], goal: float, title: str, stem: Path
) -> None:
    """Draws the bits that reach the goal against the density, a line per compressor.

    Args:
        rows: Lines of summary.csv.
        goal: Of f - f*, as a share of its first value.
        title: Of the figure.
        stem: Path without the ending.
    """
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    lines: dict[str, dict[str, list[dict[str, Any]]]] = {}
    is_reached = False
    for row in rows:
        line = lines.setdefault(f"{row['method']} {row['compressor']}", {})
        line.setdefault(row["setting"], []).append(row)
    for i, (label, settings) in enumerate(lines.items()):
        points = []
        for runs in settings.values():
            bits = [run["encoded_bits_to_goal"] for run in runs]
            finished = all(run["status"] != "diverged" for run in runs)
            if finished and "" not in bits:  # else a seed diverged or did not get there
                density = np.mean([run["density"] for run in runs])
                points.append((density, np.mean(bits), min(bits), max(bits)))
        if not points:
            label += " (not reached)"
            points = [(np.nan,) * 4]
        density, mean, least, greatest = np.array(sorted(points)).T
        is_reached = is_reached or bool(np.isfinite(mean).any())
        style = _style(i)
        axis.plot(density, mean, marker="o", markersize=4, label=label, **style)
        axis.fill_between(
            density, least, greatest, color=style["color"], alpha=0.15, linewidth=0
        )
    if is_reached:  # else there is nothing whose logarithm could be taken
        axis.set(xscale="log", yscale="log")
    axis.set(
        xlabel="density: share of entries sent, mean over the run",
        ylabel=(
            f"bits per worker to {goal:g} of the first f − f*: values, indices, headers"
        ),
        title=title,
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    _save(figure, stem)


def _style(i: int) -> dict[str, Any]:
    """Dashes, so that of curves on top of one another each is seen."""
    return {
        "color": f"C{i % 10}",
        "linestyle": ("-", "--", "-.", ":")[(i + i // 10) % 4],
    }


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, stem: Path) -> None:
    make_directory(stem.parent)
    for kind in ("png", "svg"):
        with opened(stem.with_suffix(f".{kind}"), "wb") as file:
            figure.savefig(file, format=kind, dpi=_DPI)
    _pyplot().close(figure)
