"""The report in TensorBoard: curves of each trial, the HParams table, the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tem_studies.data_parallelism.report import Series
from tem_studies.workloads.event_files import events, scalar
from tem_studies.workloads.study_files import empty_report


def write(series: Sequence[Series], images: Sequence[Path], place: Path) -> None:
    """Writes event files, in the place of an earlier report's.

    Args:
        series: As `report.read` returns them.
        images: PNG files.
        place: A directory of this report alone.

    Raises:
        Refusal: `place` holds something else.
    """
    from tensorboard.plugins.hparams import api

    empty_report(place)
    for one in series:
        for study in one.studies:
            for name, result in study.results.items():
                folder = f"{one.label}, batch {study.cell.batch_size}"
                directory = place / folder.replace(", ", "-").replace(" ", "_") / name
                with events(directory):
                    api.hparams(_hparams(one, study.configuration, result))
                    _scalars(result)
    with events(place / "figures"):
        for path in images:
            image = tf.io.decode_png(path.read_bytes(), channels=3)
            tf.summary.image(path.stem, image[tf.newaxis], step=0)


def _hparams(
    one: Series, configuration: dict[str, Any], result: dict[str, Any]
) -> dict[str, Any]:
    return {
        "series": one.label,
        "batch_size": configuration["batch_size"],
        "target_sparsity": configuration["target_sparsity"],
        "seed": result["seed"],
        "status": result["status"],
        **result["metaparameters"],
    }


def _scalars(result: dict[str, Any]) -> None:
    for record in result["history"]:
        step = record["step"]
        for name, value in record.items():
            if name != "step" and value is not None:
                scalar(name, value, step=step)
        error = 1 - record["validation_accuracy"]
        scalar("validation_error", error, step=step)
    for record in (result.get("lipschitz") or {}).get("history", []):
        if record["lipschitz"] is not None:
            scalar("lipschitz", record["lipschitz"], step=record["step"])
    if result["status"] == "complete":
        steps = result["steps_to_result"]
        scalar("steps_to_result", steps, step=steps)
