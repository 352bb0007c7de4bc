r"""What the sum of all replicas' payloads costs before the first step: its graph.

    python benchmarks/tracing.py [--rows 2 8 32 256] [--json FILE] [--short]
    git worktree add /tmp/before main
    python benchmarks/tracing.py --before /tmp/before    # an earlier version's step

For a gather of so many payloads: seconds to trace the function that decodes and adds
them up, nodes of its graph and the functions in it, seconds of its first call, in which
TensorFlow optimises the graph, and milliseconds of a later one. `sum_payloads`, which
is one op or one loop, beside one by one: `decode` for each row, then a chain of
additions. With the native ops, where they are built, and without. The gradient is as
large as ResNet-18's, in 62 variables of one size; a message has 1,000 entries.

Then a worker's whole step, by tracing_step.py in a process for each figure: seconds to
trace it, and its nodes, of this version and of the checkout that --before names.

That one and one by one are not asked for more than 64 rows, with which they grow.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
import tensorflow as tf
from tracing_step import nodes_of
from worker_group import checkout

from tem_studies.written_files import write_text  # noqa: E402
from tem_tf import native, wire
from tem_tf.sparse_gradient import SparseGradient

VARIABLES = 62
SIZES = [11_173_962 // VARIABLES] * VARIABLES
BLOCK_SIZE, COUNT = 100, 1_000
ROWS = (2, 8, 32, 256)
CALLS = 5  # Of which the median counts.
MOST_ROWS_OF_OTHERS = 64  # Their graphs grow: 256 rows are minutes.
_STOPPED = {"stopped": f"at {MOST_ROWS_OF_OTHERS} rows"}
STEP_SECONDS = 120  # Of a process that traces a step, its start included.
HERE = pathlib.Path(__file__).parent


def sum_payloads(rows: tf.Tensor, like: list[tf.Tensor], library: Any) -> tuple:
    """By one op or one loop."""
    got = wire.sum_payloads(rows, SIZES, BLOCK_SIZE, like=like, library=library)
    return got.totals, got.block, got.nonfinite, got.entries


def one_by_one(rows: tf.Tensor, like: list[tf.Tensor], library: Any) -> tuple:
    """Decodes each row, then adds all up."""
    messages, block = [], tf.zeros([BLOCK_SIZE])
    nonfinite, entries = tf.constant(0), tf.constant(0, tf.int64)
    for row in tf.unstack(rows):
        received = wire.decode(row, sum(SIZES), BLOCK_SIZE, library=library)
        messages.append(received.message)
        block += received.block
        nonfinite += received.nonfinite
        entries += tf.cast(received.entries, tf.int64)
    parts = tf.split(_in_order(messages), SIZES)
    totals = [tf.reshape(part, x.shape) for part, x in zip(parts, like, strict=True)]
    return totals, block, nonfinite, entries


def _in_order(messages: list[SparseGradient]) -> tf.Tensor:
    """Their sum as one vector: the first scattered, every other one added."""
    total = messages[0].to_dense()
    for message in messages[1:]:
        total = message.add_to(total)
    return total


WAYS: dict[str, Callable] = {"sum_payloads": sum_payloads, "one by one": one_by_one}


def gathered(rows: int) -> tf.Tensor:
    """Payloads of random entries, int32 (rows, words)."""
    generator, size = np.random.default_rng(0), sum(SIZES)
    payloads = []
    for _ in range(rows):
        indices = np.unique(generator.integers(0, size, COUNT))
        values = generator.standard_normal(len(indices), np.float32)
        message = SparseGradient(
            tf.constant(values), tf.constant(indices, "int32"), size
        )
        payloads.append(wire.encode(message, tf.ones([BLOCK_SIZE]), tf.constant(0)))
    longest = max(map(len, payloads))
    return tf.stack([tf.pad(one, [[0, longest - len(one)]]) for one in payloads])


def measure(way: Callable, rows: tf.Tensor, library: Any) -> dict[str, float]:
    """Traces and calls one way of summing."""

    @tf.function(autograph=False)
    def add_up(rows: tf.Tensor, fill: tf.Tensor) -> tuple:
        # As gradients, which nobody needs any more.
        return way(rows, [tf.fill([size], fill) for size in SIZES], library)

    fill, seconds = tf.constant(0.0), []

    def timed(function: Callable) -> Any:
        began = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - began)
        return result

    concrete = timed(lambda: add_up.get_concrete_function(rows, fill))
    for _ in range(1 + CALLS):
        timed(lambda: concrete(rows, fill)[0][0].numpy())
    trace, first, *later = seconds
    return {
        "trace_seconds": trace,
        "nodes": nodes_of(concrete),
        "first_call_seconds": first,
        "later_call_milliseconds": 1e3 * statistics.median(later),
    }


def trace_step(root: pathlib.Path, rows: int, kernels: bool) -> dict[str, Any]:
    """Traces a whole step of the version in a checkout.

    Returns:
        What tracing_step.py prints, or `stopped`, which says that time was up.

    Raises:
        RuntimeError: it fails.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "TEM_TF_NATIVE": "built" if kernels else "0",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    command = [sys.executable, str(HERE / "tracing_step.py"), str(rows)]
    try:
        ended = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"stopped": f"after {STEP_SECONDS} s"}
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-4000:]}")
    return json.loads(ended.stdout)


def trace_steps(
    counts: Sequence[int], before: pathlib.Path | None, kernels: Sequence[bool]
) -> list[dict[str, Any]]:
    """Traces whole steps, prints a table of them and returns its rows."""
    roots = {"now": HERE.parent} | ({"before": before} if before else {})
    print("\nThe whole step of one worker")
    print(f"{'rows':>5} {'by':10} {'version':8} {'trace, s':>9} {'nodes':>7}")
    results = []
    for rows in counts:
        for with_kernels in kernels:
            for version, root in roots.items():
                if version == "before" and rows > MOST_ROWS_OF_OTHERS:
                    result = _STOPPED
                else:
                    result = trace_step(root, rows, with_kernels)
                by = "kernels" if result.get("kernels", with_kernels) else "operations"
                line = f"{rows:5} {by:10} {version:8} "
                if "stopped" in result:
                    line += f"stopped {result['stopped']}"
                else:
                    line += f"{result['trace_seconds']:9.3f} {result['nodes']:7,}"
                print(line, flush=True)
                told = {"rows": rows, "by": by, "version": version}
                results.append({**told, **result})
    return results


def main() -> None:
    """Measures, prints a table, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--json", type=pathlib.Path, help="file for the figures")
    parser.add_argument("--short", action="store_true", help="2 and 8 rows alone")
    parser.add_argument("--before", type=checkout, help="of an earlier version")
    arguments = parser.parse_args()
    libraries = {"operations": None}
    if (library := native.library()) is not None:
        libraries["kernels"] = library
    counts = ROWS[:2] if arguments.short else arguments.rows
    measure(sum_payloads, gathered(1), None)  # What is slow but once.

    results = []
    columns = "rows", "by", "way", "trace, s", "nodes", "first call, s", "later, ms"
    print("{:>5} {:10} {:12} {:>9} {:>7} {:>14} {:>10}".format(*columns))
    for count in counts:
        rows = gathered(count)
        for by, library in libraries.items():
            for name, way in WAYS.items():
                line = f"{count:5} {by:10} {name:12} "
                if way is one_by_one and count > MOST_ROWS_OF_OTHERS:
                    row = _STOPPED
                    line += f"stopped {row['stopped']}"
                else:
                    row = measure(way, rows, library)
                    line += (
                        f"{row['trace_seconds']:9.3f} {row['nodes']:7,} "
                        f"{row['first_call_seconds']:14.3f} "
                        f"{row['later_call_milliseconds']:10.2f}"
                    )
                print(line, flush=True)
                results.append({"rows": count, "by": by, "way": name, **row})
    kernels = [library is not None for library in libraries.values()]
    figures = {
        "results": results,
        "steps": trace_steps(counts, arguments.before, kernels),
    }
    if arguments.json:
        write_text(arguments.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
