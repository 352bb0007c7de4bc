r"""Whether memory and file handles grow with the steps of a training with checkpoints.

    python benchmarks/leaks.py                  # 5,000 steps
    python benchmarks/leaks.py --steps 400 --warm_up 100        # under a minute

A tiny model on two workers by `fit`, under `tem_tf.MultiWorkerMirroredStrategy`: plain
Keras, with `tem_tf.Checkpoint(every=100)`, and with Top-k and its residuals besides, in
the same run, one after another in processes of their own. Every 100 steps of each
worker are read VmRSS, the number of file descriptors and that of threads. Growth is the
slope of the least squares' line through the samples after the warm-up.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from worker_group import START_SECONDS, WorkerGroup

PLAIN = "plain Keras"
CASES = (PLAIN, "Checkpoint", "Top-k and Checkpoint")
COLUMNS = ("step", "resident_bytes", "descriptors", "threads")
WORKERS = 2
EVERY = 100  # Steps between two samples, and between two checkpoints.
_STEP_SECONDS = 0.5  # Beyond any step seen.
_HERE = pathlib.Path(__file__).parent


def measure(case: str, steps: int) -> list[list[list[float]]]:
    """Samples of each worker, rows of `COLUMNS`."""
    command = [sys.executable, str(_HERE / "leaks_worker.py")]
    with (
        tempfile.TemporaryDirectory() as directory,
        WorkerGroup(command, WORKERS) as group,
    ):
        seconds = START_SECONDS + _STEP_SECONDS * steps
        return group.run((case, steps, EVERY, directory), seconds)


def growth(samples: Sequence[Sequence[float]], warm_up: int) -> dict[str, float]:
    """By column, what is added per 1,000 steps after the warm-up.

    Args:
        samples: Rows of `COLUMNS`.
        warm_up: Steps that are not looked at.
    """
    rows = np.array([row for row in samples if row[0] > warm_up], np.float64)
    return {
        name: 1000 * float(np.polyfit(rows[:, 0], rows[:, i], 1)[0])
        for i, name in enumerate(COLUMNS)
        if i
    }


def uncertainty(samples: Sequence[Sequence[float]], warm_up: int) -> float:
    """Standard error of the growth of resident bytes, as if samples were independent.

    They are not: what the allocator keeps goes up and down over hundreds of steps, and
    the true error is larger.

    Args:
        samples: As of `growth`.
        warm_up: As there.
    """
    rows = np.array([row for row in samples if row[0] > warm_up], np.float64)
    _, covariance = np.polyfit(rows[:, 0], rows[:, 1], 1, cov=True)
    return 1000 * float(np.sqrt(covariance[0, 0]))


def in_words(case: str, workers: Sequence[Sequence], warm_up: int) -> str:
    """A case as text."""
    lines = [f"{case}: per 1,000 steps after {warm_up}"]
    for worker, samples in enumerate(workers):
        more, error = growth(samples, warm_up), uncertainty(samples, warm_up)
        first = next(row for row in samples if row[0] > warm_up)
        last = samples[-1]
        lines.append(
            f"  worker {worker}: {more['resident_bytes'] / 1e6:+.2f} MB resident "
            f"± {error / 1e6:.2f} ({first[1] / 1e6:.1f} to {last[1] / 1e6:.1f} MB), "
            f"{more['descriptors']:+.2f} descriptors ({first[2]:.0f} to {last[2]:.0f}),"
            f" {more['threads']:+.2f} threads ({first[3]:.0f} to {last[3]:.0f})"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures all cases; prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--warm_up", type=int, default=1000, help="steps left out")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--json", type=pathlib.Path, help="write the samples here")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for case in arguments.cases:
        found[case] = measure(case, arguments.steps)
        print(in_words(case, found[case], arguments.warm_up), flush=True)
        if arguments.json:  # What there is so far.
            text = json.dumps({"columns": COLUMNS, "samples": found}, indent=1)
            arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
