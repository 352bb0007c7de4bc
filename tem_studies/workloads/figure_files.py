"""Figures of a report as PNG and SVG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from matplotlib import pyplot
from matplotlib.figure import Figure

from tem_studies.refusal import writing
from tem_studies.written_files import opened

_KINDS = ("png", "svg")
_DPI = 120  # pixels per inch

Report = TypeVar("Report")


def save_figures(
    makers: Mapping[str, Callable[[Report], Figure | None]],
    report: Report,
    place: Path,
    **options: Any,
) -> list[Path]:
    """Draws what the data allows; returns the PNG files.

    Args:
        makers: By file name without its end. None: the data allows no such figure.
        report: What `makers` take.
        place: An existing directory. Figures of an earlier report are replaced.
        **options: Of `Figure.savefig`.
    """
    paths = []
    for name, make in makers.items():
        files = {kind: place / f"{name}.{kind}" for kind in _KINDS}
        for file in files.values():
            with writing(file):
                file.unlink(missing_ok=True)
        figure = make(report)
        if figure is None:
            continue
        for kind, path in files.items():
            # Without its date the same data gives the same file.
            metadata = {"Date": None} if kind == "svg" else None
            how = {"format": kind, "dpi": _DPI, "metadata": metadata}
            with opened(path, "wb") as file:
                figure.savefig(file, **how, **options)
        pyplot.close(figure)
        paths.append(files["png"])
    return paths
