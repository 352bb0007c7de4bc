"""What one run leaves in its directory, and reads back.

    curves.csv     one line per record, see `trace.Trace`
    entries.npy    every k_t
    events…        the same for TensorBoard
    run.json       settings and last values

run.json is written last: a run that has it was finished.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tem_studies import written_files
from tem_studies.convex.figures import PANELS, Curve
from tem_studies.convex.trace import Trace
from tem_studies.refusal import Refusal, writing
from tem_studies.workloads import study_files
from tem_studies.workloads.bounded_files import read_npy
from tem_studies.workloads.event_files import events, scalar
from tem_tf.event_files import EVENTS

# A run that ends at more than this many times its best has moved away. Our choice:
# noise at rest moves the mean of a tenth by far less.
AWAY = 3.0
_LEAST_RECORDS = 20  # Of which a tenth is two.
_ROUNDING = 1e-9  # of the first f - f*, where ratios mean nothing
MOVED_AWAY = "moved away"

# What is read of run.json and of curves.csv.
_SCHEMA = {
    "type": "object",
    "properties": {
        "settings": {"type": "object"},
        "result": {
            "type": "object",
            "properties": {
                "status": {"enum": ["finished", "diverged"]},
                "iterations": {"type": "integer", "minimum": 0},
                "seed": {"type": "integer", "minimum": 0},
                "density": {"type": ["number", "null"], "minimum": 0},
                "method": {"type": "string"},
                "compressor": {"type": "string"},
                "setting": {"type": "string"},
            },
            "additionalProperties": {"type": ["number", "string", "null"]},
            "required": [
                *("status", "iterations", "seed", "density"),
                *("method", "compressor", "setting"),
            ],
        },
    },
    "required": ["settings", "result"],
}
_READ = {"step", "bits", "encoded_bits", *(x for panel in PANELS for x in panel[:2])}


def is_finished(directory: Path) -> bool:
    """Whether the run need not be repeated."""
    return (directory / "run.json").exists()


def write(
    directory: Path, settings: dict[str, Any], row: dict[str, Any], trace: Trace
) -> None:
    """Writes all files of a run.

    Args:
        directory: Made if it is not there.
        settings: What the run depends on.
        row: Its line of summary.csv.
        trace: What it did.
    """
    written_files.make_directory(directory)
    columns = trace.columns()
    write_table(
        directory / "curves.csv",
        [
            dict(zip(columns, line, strict=True))
            for line in zip(*columns.values(), strict=True)
        ],
    )
    with written_files.opened(directory / "entries.npy", "wb") as file:
        np.save(file, trace.schedule)
    _write_events(directory, trace)
    content = {"settings": settings, "result": row}
    study_files.write_json(directory / "run.json", content)


def read(directory: Path) -> tuple[dict[str, Any], Curve]:
    """A finished run's line of summary.csv and its records.

    Raises:
        Refusal: a file is damaged.
    """
    content = study_files.read_result(directory / "run.json", _SCHEMA)
    with _intact(directory):
        row = content["result"]
        text = (directory / "curves.csv").read_text()
        lines = list(csv.DictReader(text.splitlines()))
        curve = {
            name: np.array([float(line[name]) for line in lines]) for name in lines[0]
        }
        if missing := _READ - curve.keys():
            raise ValueError(f"curves.csv lacks {missing}")
        if not text.endswith("\n") or curve["step"][-1] != row["iterations"]:
            raise ValueError("curves.csv is cut off")
        return row, curve


def read_entries(directory: Path) -> np.ndarray:
    """Every k_t of a finished run: int32 (iterations, workers).

    Raises:
        Refusal: the file is damaged.
    """
    with _intact(directory):
        entries = read_npy(directory / "entries.npy")
        if entries.ndim != 2 or entries.dtype.kind not in "iu":
            raise ValueError("entries.npy holds no table of integers")
        return entries


@contextmanager
def _intact(directory: Path) -> Iterator[None]:
    """Says what to do about files that cannot be read."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise Refusal(
            f"The files of the run in {directory} are damaged ({error!r}). Remove it "
            "to have it run again."
        ) from error


def summary(trace: Trace) -> dict[str, Any]:
    """The last values of a run, for its line of summary.csv."""
    suboptimality = trace.suboptimality
    last_tenth = suboptimality[-max(len(suboptimality) // 10, 1) :]
    return {
        "status": trace.status,
        "iterations": int(trace.step[-1]),
        "initial_suboptimality": float(suboptimality[0]),
        "suboptimality": float(suboptimality[-1]),
        # Noise moves the last record; this is what the run came to rest at.
        "suboptimality_last_tenth": float(last_tenth.mean()),
        "squared_distance": float(trace.squared_distance[-1]),
        "bits": float(trace.bits[-1]),
        "encoded_bits": float(trace.encoded_bits[-1]),
        "epochs": float(trace.epochs[-1]),
        "density": float(trace.schedule.sum() / max(trace.schedule.size, 1))
        / len(trace.point),
        "total_error": float(trace.total_error[-1]),
        "error_max": float(np.max(trace.error_max[1:], initial=0)),
        "residual_max": float(np.max(trace.residual_max[1:], initial=0)),
    }


def moved_away(suboptimality: np.ndarray) -> tuple[int, float, float] | None:
    """Whether a run left again what it had come to.

    Means over a tenth of the records are compared, so that the noise of single ones
    does not count: the last against the least of all.

    Args:
        suboptimality: f - f* at each record.

    Returns:
        The record at the middle of the best tenth, its mean and the last one's; None if
        the last is at most `AWAY` times the best, or below what rounding leaves, or
        there are too few records to tell.
    """
    if len(suboptimality) < _LEAST_RECORDS:
        return None
    width = len(suboptimality) // 10
    means = np.convolve(suboptimality, np.full(width, 1 / width), "valid")
    best, last = int(np.argmin(means)), float(means[-1])
    if last <= max(AWAY * means[best], _ROUNDING * float(suboptimality[0])):
        return None
    return best + width // 2, float(means[best]), last


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a CSV file, whole or not at all; numbers have eight digits."""
    shown = [
        {
            name: f"{value:.8g}" if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    written_files.write_table(path, shown)


def _write_events(directory: Path, trace: Trace) -> None:
    for file in directory.glob(EVENTS):
        with writing(file):
            file.unlink()  # of a run that was interrupted
    columns = trace.columns()
    steps = columns.pop("step")
    with events(directory):
        for name, values in columns.items():
            for step, value in zip(steps, values, strict=True):
                if np.isfinite(value):
                    scalar(f"convex/{name}", value, step=int(step))
