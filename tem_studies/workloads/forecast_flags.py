"""The flags of a forecast, and what is wrong with them."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from pathlib import Path

from tem_studies.flag_row import FlagRow
from tem_studies.refusal import Refusal
from tem_studies.unused_flags import require_none
from tem_studies.workloads.flags import RUN_FLAGS

# Groups of a run's flags that it takes: how workers exchange is what it is about.
FORECAST_TAKES = ("Data and network", "Training", "Workers")
# Those of them that it leaves as they are not given: see forecast.py.
NOT_OF_FORECAST = (
    *("target_sparsity", "train_iterations", "running_mean_epochs"),
    *("jit_compile", "compile_model", "sample_characters", "prompt"),
)
FORECAST_FLAGS = (
    FlagRow(
        "link_mbit",
        float,
        None,
        "Bandwidth between two workers, Mbit/s. Without it: measured, between real "
        "processes.",
    ),
    FlagRow(
        "link_ms",
        float,
        0.0,
        "Latency between two workers, one way, milliseconds; with --link_mbit.",
    ),
    FlagRow("figure", str, None, "PNG of steps over workers and bandwidths."),
)


def require_of_forecast(given: Collection[str]) -> None:
    """Checks that all flags that were given are a forecast's.

    Raises:
        Refusal: naming one that has no effect on it.
    """
    takes = {row.name for row in FORECAST_FLAGS}
    takes |= {row.name for group in FORECAST_TAKES for row in RUN_FLAGS[group]}
    others = sorted(set(given) - takes)
    require_none(given, others, "in a forecast, which is of every way to exchange.")
    words = "in a forecast, which is of a single step, not pruned, nor compiled by XLA."
    require_none(given, NOT_OF_FORECAST, words)
    if "link_mbit" not in given:
        words = "where the link is measured: it goes with `link_mbit`."
        require_none(given, ["link_ms"], words)


def link_of(
    bandwidth: float | None, latency: float, virtual: int, processes: int
) -> tuple[float, float] | None:
    """The link that was given, Mbit/s and milliseconds; None: it is measured.

    Args:
        bandwidth: As given, or None.
        latency: As given.
        virtual: The setting `workers`.
        processes: Of this cluster, 1 without one.

    Raises:
        Refusal: there is no link to measure, and none was given; it is none.
    """
    if bandwidth is None and processes < 2:
        raise Refusal(
            "`link_mbit` must be given where there is one process, and no link to "
            "measure. Pass, say, --workers 4 --link_mbit 100 --link_ms 1, or start "
            "several processes by tem-tf-run."
        )
    if max(virtual, processes) < 2:
        raise Refusal(
            "`workers` must be at least 2 for a forecast of their exchange. Received: "
            f"workers={virtual}. Pass --workers."
        )
    if bandwidth is None:
        return None
    for name, value, rule, is_good in (
        ("link_mbit", bandwidth, "above 0 and finite", bandwidth > 0),
        ("link_ms", latency, "at least 0 and finite", latency >= 0),
    ):
        if not (is_good and math.isfinite(value)):
            raise Refusal(f"`{name}` must be {rule}. Received: {name}={value!r}.")
    return bandwidth, latency


def check_figure(path: str | None) -> None:
    """Refuses a figure that could not be written, before anything is measured.

    Raises:
        Refusal: its folder is missing, or it is a folder itself.
    """
    if path is None:
        return
    place = Path(path)
    if place.is_dir() or not os.access(place.parent, os.W_OK):
        raise Refusal(
            "`figure` must be a file in a directory that can be written to. Received: "
            f"figure={path!r}."
        )
