"""What the metrics of `fit` cost on two workers, and by how many collectives.

    python benchmarks/logs.py
    python benchmarks/logs.py --before DIRECTORY       # beside an earlier checkout
    python benchmarks/logs.py --short                  # for CI

A perceptron of 51,000 parameters, 32 examples per worker, Top-k of 1 %, one thread for
each worker; 0, 1 and 3 metrics beside the loss, with `batch_logs` "global" and "local"
and with a collective for each value, as in plain Keras. All take turns in one run. A
figure is the median over turns of a turn's median milliseconds per step, of the slowest
worker; ratios are medians of those of the same turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from aggregation import machine
from worker_group import ROOT, START_SECONDS, WorkerGroup, checkout

from tem_studies.written_files import write_text  # noqa: E402

KINDS = ("global", "local", "each")
BEFORE = "before"
METRICS = (0, 1, 3)
STEPS = 100  # Of a turn.
STEP_SECONDS = 1.0  # Beyond any step seen.
WORKER = pathlib.Path(__file__).parent / "logs_worker.py"


def measure(
    roots: dict[str, pathlib.Path],
    workers: int,
    metrics_of_rows: Sequence[int],
    turns: int,
    steps: int,
) -> list[dict[str, Any]]:
    """Measures every kind of logs with each number of metrics.

    Args:
        roots: Of each kind, the checkout that it is measured in.
        workers: Their number.
        metrics_of_rows: The numbers of metrics, 0 first.
        turns: Of each.
        steps: Of a turn.

    Returns:
        For each `kind` and number of `metrics` the `collectives` of a step,
        `milliseconds`, `turns`, and `by_none`, the ratio to no metrics of this kind.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    with contextlib.ExitStack() as open_:
        groups = {
            kind: open_.enter_context(
                WorkerGroup([sys.executable, str(WORKER), kind], workers, root=root)
            )
            for kind, root in roots.items()
        }
        for turn in range(1 + turns):  # The first traces.
            for kind, group in _rotated(list(groups.items()), turn):
                for metrics in _rotated(list(metrics_of_rows), turn):
                    limit = START_SECONDS + steps * STEP_SECONDS
                    answers = group.run((metrics, steps), limit)
                    row = {"kind": kind, "metrics": metrics, "turns": []}
                    row = rows.setdefault((kind, metrics), row)
                    row["collectives"] = answers[0]["collectives"]
                    if turn:
                        slowest = max(answer["seconds"] for answer in answers)
                        row["turns"].append(1000 * slowest)
    for row in rows.values():
        row["milliseconds"] = statistics.median(row["turns"])
        row["by_none"] = _ratio(row, rows[row["kind"], 0])
    return [rows[kind, metrics] for kind in roots for metrics in metrics_of_rows]


def _rotated(items: list[Any], turn: int) -> list[Any]:
    """Another one comes first in each turn."""
    first = turn % len(items)
    return items[first:] + items[:first]


def _ratio(row: dict[str, Any], other: dict[str, Any]) -> float:
    pairs = zip(row["turns"], other["turns"], strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def main() -> None:
    """Prints a table and one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--before", type=checkout, help="of an earlier version")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here too")
    parser.add_argument("--short", action="store_true", help="one kind, few steps")
    arguments = parser.parse_args()
    roots = dict.fromkeys(KINDS[:1] if arguments.short else KINDS, ROOT)
    if arguments.before:
        roots[BEFORE] = arguments.before
    plan = (
        (METRICS[::2], 1, 5) if arguments.short else (METRICS, arguments.turns, STEPS)
    )
    rows = measure(roots, arguments.workers, *plan)
    print("logs    metrics  collectives  ms per step  by none")
    for row in rows:
        print(
            f"{row['kind']:<7} {row['metrics']:>7}  {row['collectives']:>11}"
            f"  {row['milliseconds']:>11.2f}  {row['by_none']:>7.2f}"
        )
    result = {"machine": machine(), "workers": arguments.workers, "rows": rows}
    text = json.dumps(result, indent=2)
    if arguments.json:
        write_text(arguments.json, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
