r"""Speed and memory of selecting, beside copying the same array twice on one thread.

    python benchmarks/selection.py [--turns 15] [--operations] [--json selection.json]
    python benchmarks/selection.py --short      # small arrays: does it run?

Error feedback must read the gradient and read and write the residual, 12 bytes per
entry; two copies move 16. Per turn everything is timed once, one after the other;
ratios are of times of one turn, and their median counts. Gradients come as ResNet-18's
62 tensors or the LSTM's 14; g and -g alternate on residuals of noise, so that a fixed
threshold goes on sending. `--operations` adds the same by TensorFlow's operations.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
import tensorflow as tf

import tem_tf
from tem_studies.written_files import write_text  # noqa: E402
from tem_tf import native
from tem_tf.compressors.topk import kept
from tem_tf.layout import make_segments, unpack
from tem_tf.native import ops

DENSITY = 0.001
REPLICAS = 4  # Whose messages are summed.


def resnet18() -> list[int]:
    """Sizes of the 62 trainable variables, 11,173,962 entries."""
    sizes, channels = [27 * 64, 64, 64], 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            sizes += [9 * channels * width, width, width]
            sizes += [9 * width * width, width, width]
            if block == 0 and channels != width:
                sizes += [channels * width, width, width]
            channels = width
    return [*sizes, 512 * 10, 10]


def lstm() -> list[int]:
    """Sizes of the tied three-layer LSTM, 28,949,319 entries."""
    layer = [650 * 2600, 650 * 2600, 2600, 2600]
    return [28_869 * 650, *layer, *layer, *layer, 28_869]


MODELS = {"ResNet-18": resnet18(), "LSTM": lstm()}


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    field = {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
    flags = field.get("flags", "").split()
    return {
        "processor": field.get("model name", platform.processor()),
        "cores": os.cpu_count() or 0,
        "vectors": next((f for f in ("avx512vl", "avx2") if f in flags), "none"),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }


class Bench:
    """Everything that is timed on the tensors of one model."""

    def __init__(self, sizes: list[int], operations: bool):
        rng = np.random.default_rng(0)
        self.size = sum(sizes)
        self.library = native.library()
        flat = 1e-3 * rng.standard_normal(self.size, dtype=np.float32)
        cuts = np.cumsum(sizes)[:-1]
        pairs = [[tf.constant(x) for x in np.split(s * flat, cuts)] for s in (1, -1)]
        self.gradients = pairs
        start = 5e-4 * rng.standard_normal(self.size, dtype=np.float32)
        self.source, self.target = start.copy(), start.copy()
        # Steadily sent under g, -g, … are the entries with |g| >= λ.
        threshold = float(np.quantile(np.abs(flat), 1 - DENSITY))
        counts = [kept(DENSITY, n) for n in sizes]
        total = [kept(DENSITY, self.size)]
        given = tem_tf.RandomK(DENSITY).draw(self.size, tf.constant(0))
        rules = {
            "hard threshold": (ops.select_threshold, {"threshold": threshold}),
            "Top-k by layer": (ops.select_topk, {"counts": counts}),
            "Top-k of the model": (ops.select_topk, {"counts": total}),
            "random-k": (ops.select_given, {"given": given}),
        }
        self.selecting: list[str] = []
        self.entries: dict[str, list[int]] = {}
        self.work: dict[str, Callable] = {"two copies": self.copy_twice}
        self.residuals = {}
        for name, (function, arguments) in rules.items():
            # One set of residuals for both numbers of threads: memory is limited.
            self.residuals[name] = [tf.Variable(x) for x in np.split(start, cuts)]
            for threads in (1, 2):
                label = f"{name}, {threads} thread{'s'[: threads - 1]}"
                self.work[label] = self.selection(name, function, arguments, threads)
                self.selecting.append(label)
        for threads in (1, 2):
            label = f"sum of {REPLICAS} messages, {threads} thread{'s'[: threads - 1]}"
            self.work[label] = self.summing(sizes, threads)
        if operations:
            compressor = tem_tf.HardThreshold(threshold)
            self.work["hard threshold, operations"] = self.by_operations(
                compressor, sizes, start, cuts
            )
            topk = tem_tf.TopK(density=DENSITY, scope="model")
            self.work["Top-k of the model, operations"] = self.by_operations(
                topk, sizes, start, cuts
            )

    def copy_twice(self) -> None:
        np.copyto(self.target, self.source)
        np.copyto(self.source, self.target)

    def selection(self, name, function, arguments, threads) -> Callable:
        kept = ops.Kept([variable.handle for variable in self.residuals[name]])
        self.entries[name] = []

        @tf.function(autograph=False)
        def select(*gradients):
            return function(
                self.library,
                gradients,
                [],
                kept,
                zero_nonfinite=False,
                threads=threads,
                **arguments,
            )

        turns = itertools.count(threads)  # Where one thread sees g, two see -g.

        def run():
            found = select(*self.gradients[next(turns) % 2])
            self.entries[name].append(int(tf.size(found.values)))

        return run

    def summing(self, sizes, threads) -> Callable:
        rng = np.random.default_rng(1)
        count = int(DENSITY * self.size)
        indices = [
            tf.constant(np.unique(rng.integers(self.size, size=count)), tf.int32)
            for _ in range(REPLICAS)
        ]
        values = [tf.ones_like(index, tf.float32) for index in indices]

        @tf.function(autograph=False)
        def add(places):
            return ops.sum_messages(
                self.library, values, indices, places, threads=threads
            )[0]

        # These are still needed, so that the sums get memory of their own, at a cost
        # that a training step does not have.
        kept = [tf.zeros([n]) for n in sizes]
        return lambda: add(kept)

    def by_operations(self, compressor, sizes, start, cuts) -> Callable:
        segments = make_segments(
            [str(i) for i in range(len(sizes))], [(size,) for size in sizes]
        )
        variables = [tf.Variable(x) for x in np.split(start, cuts)]
        memory, step = tem_tf.ErrorFeedback(), tf.constant(0, tf.int64)

        @tf.function(autograph=False)
        def select(*gradients):
            state = {"residual": [v.read_value() for v in variables]}
            p = memory.compensate(state, gradients, step, segments)
            message = compressor.compress((), p, step, segments).message.to_sparse()
            own = unpack(message.to_dense(), segments)
            left = memory.update(state, p, own, step, segments)["residual"]
            for variable, vector in zip(variables, left, strict=True):
                variable.assign(vector)
            return message.values

        turns = itertools.count()
        return lambda: select(*self.gradients[next(turns) % 2]).numpy()


def measure(bench: Bench, turns: int) -> dict[str, list[float]]:
    """Milliseconds of each turn, by what was done; the first two turns do not count."""
    times: dict[str, list[float]] = {name: [] for name in bench.work}
    for turn in range(turns + 2):
        for name, work in bench.work.items():
            started = time.perf_counter()
            work()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - started))
    return times


def report(model: str, bench: Bench, times: dict[str, list[float]]) -> dict:
    """Prints a table and returns its figures."""
    copies = times["two copies"]
    rows = {}
    print(f"\n{model}: {bench.size:,} entries, density {DENSITY:.1%}")
    print("| what | ms | of two copies | two threads faster by |")
    print("|---|---|---|---|")
    for name, own in times.items():
        row = {
            "milliseconds": statistics.median(own),
            "of_two_copies": statistics.median(
                a / b for a, b in zip(own, copies, strict=True)
            ),
        }
        gain = ""
        if name.endswith("2 threads"):
            single = times[name.replace("2 threads", "1 thread")]
            row["faster_than_one_thread"] = statistics.median(
                a / b for a, b in zip(single, own, strict=True)
            )
            gain = f"{row['faster_than_one_thread']:.2f}x"
        rows[name] = row
        print(
            f"| {name} | {row['milliseconds']:.2f} | {row['of_two_copies']:.2f} "
            f"| {gain} |"
        )
    for name, entries in bench.entries.items():
        rows[f"{name}, entries"] = statistics.median(entries)
    return rows


def growth_of_memory(bench: Bench) -> float | None:
    """Bytes per entry that selecting takes beyond what the process has already.

    The kernel's own record of the peak, which is set back first; None where it cannot
    be.
    """
    selections = [work for name, work in bench.work.items() if name in bench.selecting]
    for work in selections:  # Traces graphs.
        work()
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    before = peak_of_memory()
    for work in selections:
        work()
    return (peak_of_memory() - before) / bench.size


def peak_of_memory() -> int:
    """Bytes."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (x for x in status.splitlines() if x.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def main() -> None:
    """Measures both models, prints tables, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--operations", action="store_true")
    parser.add_argument("--short", action="store_true", help="small arrays, two turns")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures there")
    arguments = parser.parse_args()
    if not native.status().in_use:
        sys.exit(f"native kernels: {native.status().reason}")
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    figures: dict = {"machine": machine(), "density": DENSITY}
    print(json.dumps(figures["machine"]))
    for model, sizes in MODELS.items():
        if arguments.short:
            sizes = [max(1, n // 50) for n in sizes]
        bench = Bench(sizes, arguments.operations)
        bench.copy_twice()
        growth = growth_of_memory(bench)
        times = measure(bench, 2 if arguments.short else arguments.turns)
        figures[model] = {"size": bench.size, "memory_bytes_per_entry": growth}
        figures[model]["rows"] = report(model, bench, times)
        if growth is not None:
            print(f"Selecting takes {growth:.3f} bytes per entry of further memory.")
    if arguments.json:
        write_text(arguments.json, json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
