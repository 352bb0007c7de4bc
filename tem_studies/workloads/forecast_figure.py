"""A forecast's figure: seconds of a step over workers and over bandwidths."""

from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np

from tem_studies.written_files import opened
from tem_tf import Forecast

_MBIT = 1e6 / 8  # Bytes.
_WORKERS = [2**i for i in range(1, 11)]
_BANDWIDTHS = np.logspace(-1, 4, 60) * _MBIT


def draw(forecast: Forecast, path: str) -> None:
    """Draws it.

    Args:
        forecast: What `tem_tf.predict` has found.
        path: Of a PNG.

    Raises:
        Refusal: it cannot be written.
    """
    figure = matplotlib.figure.Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    here = forecast.gather_link.bandwidth / _MBIT
    for name in (cost.name for cost in forecast.costs):
        (line,) = left.plot(
            _WORKERS, forecast.over_workers(name, _WORKERS), "--", label=name
        )
        right.plot(
            _BANDWIDTHS / _MBIT,
            forecast.over_bandwidths(name, _BANDWIDTHS),
            *("--",),
            color=line.get_color(),
        )
        for axes, place in ((left, forecast.workers), (right, here)):
            now = forecast.seconds(name)
            axes.plot([place], [now], "o", color=line.get_color())
    left.set(xscale="log", yscale="log", xlabel="workers, over this link")
    left.set_ylabel("seconds of a step")
    right.set(xscale="log", xlabel=f"bandwidth, Mbit/s, of {forecast.workers} workers")
    left.legend(fontsize=7)
    figure.suptitle("Marks: what was measured, put together; dashed: extrapolated")
    with opened(Path(path), "wb") as file:
        figure.savefig(file, format="png", dpi=120)
