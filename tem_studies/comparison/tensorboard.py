"""The report in TensorBoard: curves of each run, the HParams table, the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from tem_studies.comparison.report import Line, Report, Run
from tem_studies.workloads.event_files import events, scalar
from tem_studies.workloads.study_files import empty_report

_POINTS = 50  # of a curve, so that a hundred runs are written in seconds. Our choice.


def write(report: Report, images: Sequence[Path], place: Path) -> None:
    """Writes event files, in the place of an earlier report's.

    Args:
        report: As `report.read` returns it.
        images: PNG files.
        place: A directory of this report alone.

    Raises:
        Refusal: `place` holds something else.
    """
    from tensorboard.plugins.hparams import api

    empty_report(place)
    for line in report.lines:
        row = line.row
        for run in line.runs:
            parts = [row.kind, *([f"{row.budget:g}"] if row.budget else [])]
            folder = place / "-".join([*parts, row.method]) / f"seed-{run.seed}"
            with events(folder):
                api.hparams(
                    {
                        "method": row.method,
                        "budget": row.budget or "none",
                        "learning_rate": row.rate,
                        "rate": row.kind,
                        "seed": run.seed,
                    }
                )
                _scalars(report, line, run)
    with events(place / "figures"):
        for path in images:
            image = tf.io.decode_png(path.read_bytes(), channels=3)
            tf.summary.image(path.stem, image[tf.newaxis], step=0)


def _scalars(report: Report, line: Line, run: Run) -> None:
    total = 0.0
    before = 0
    thin = max(1, len(run.step) // _POINTS)
    curves = zip(run.step, run.entries, run.error, strict=True)
    for i, (step, entries, error) in enumerate(curves, 1):
        total += error * (step - before)
        before = step
        if i % thin:
            continue
        scalar("comparison/entries", entries, step=int(step))
        scalar("comparison/error", error, step=int(step))
        scalar("comparison/total_error", total, step=int(step))
    for sent, value in run.history:
        # Against kilobytes: TensorBoard's axis is an integer.
        tag = f"comparison/validation_{report.quality.name}_by_kilobytes"
        scalar(tag, value, step=round(sent / 1000))
    if run.quality is not None:
        tag = f"comparison/test_{report.quality.name}"
        scalar(tag, run.quality, step=int(run.step[-1]))
    if not math.isnan(line.volume):
        ratio = run.sent / (line.row.budget_bytes or math.nan)
        scalar("comparison/volume_over_budget", ratio, step=0)
