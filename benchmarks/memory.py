"""Memory that SparsifiedOptimizer takes beyond its inner optimizer, per parameter.

    python benchmarks/memory.py                  # a perceptron of 37 M parameters
    python benchmarks/memory.py --short          # of 1.2 M, for CI

A process of its own trains each case in `fit` by SGD with momentum: one worker without
a strategy, and two over loopback under MultiWorkerMirroredStrategy, where Keras itself
needs room for its all-reduce. Shown are bytes of resident memory per parameter of the
greediest worker, and how many more than with the inner optimizer alone, by turns: their
median and range. Settled is what is resident after the last step; the peak of steps is
that of steps after the first 12; the whole peak has tracing and the making of variables
in it. A residual alone is 4 bytes per parameter. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from worker_group import START_SECONDS, WorkerGroup

from tem_studies.written_files import write_text  # noqa: E402

DENSITY = 0.001
PLAIN, HARD, TOPK = "inner optimizer", "hard threshold", "Top-k"
CASES = (PLAIN, HARD, TOPK)
THRESHOLD = "threshold"  # A request, for one that lets `DENSITY` through.
# 36,818,954 and 1,198,210 parameters: tracing more takes some MB, whatever the network.
WIDTH, SHORT_WIDTH = 4096, 600
FIELDS = ("settled_bytes", "peak_of_steps_bytes", "peak_bytes")
COMMAND = [
    sys.executable,
    str(pathlib.Path(__file__).with_name("memory_worker.py")),
]


def run(case: str, width: int, workers: int, threshold: float = 0.0) -> list[Any]:
    """What fresh workers answer."""
    with WorkerGroup(COMMAND, workers) as group:
        return group.run((case, width, workers > 1, threshold), 2 * START_SECONDS)


def measure(
    cases: tuple[str, ...], width: int, turns: int, groups: list[int]
) -> list[dict[str, Any]]:
    """One row for each number of workers and case.

    Returns:
        `workers`, `case`, `parameters`, `density`; of each of `FIELDS` the bytes per
        parameter (`bytes`) and those beyond the inner optimizer (`beyond`), a figure
        for each turn.
    """
    (threshold,) = run(THRESHOLD, width, 1)
    rows = []
    for workers in groups:
        plain: dict[str, list[float]] = {}
        for case in cases:
            row: dict[str, Any] = {"workers": workers, "case": case, "bytes": {}}
            taken = [run(case, width, workers, threshold) for _ in range(turns)]
            row["parameters"] = size = taken[0][0]["parameters"]
            row["density"] = taken[0][0].get("density", 1.0)
            for field in FIELDS:
                most = [max(answer[field] for answer in turn) for turn in taken]
                row["bytes"][field] = [x / size for x in most]
            plain = plain or row["bytes"]
            row["beyond"] = {
                field: [a - b for a, b in zip(own, plain[field], strict=True)]
                for field, own in row["bytes"].items()
            }
            rows.append(row)
            show(row)
    return rows


def show(row: dict[str, Any]) -> None:
    """Prints one row."""
    print(f"{row['workers']} worker(s), {row['case']}, density {row['density']:.3%}")
    for field in FIELDS:
        total, beyond = row["bytes"][field], row["beyond"][field]
        print(
            f"  {field:<20}{statistics.median(total):8.1f} per parameter, "
            f"beyond the inner optimizer {statistics.median(beyond):6.2f} "
            f"({min(beyond):.2f} to {max(beyond):.2f})",
            flush=True,
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="less of each, for CI")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures there")
    arguments = parser.parse_args()
    cases, width, turns = CASES, WIDTH, arguments.turns
    if arguments.short:
        cases, width, turns = (PLAIN, HARD), SHORT_WIDTH, 1
    rows = measure(cases, width, turns, arguments.workers)
    if arguments.json:
        write_text(arguments.json, json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
