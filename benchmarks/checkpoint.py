"""What `tem_tf.Checkpoint` costs: mean steps of Keras's `fit` with one in 100 steps.

    python benchmarks/checkpoint.py                       # simple-cnn, neumf, lstm
    python benchmarks/checkpoint.py --models resnet-18    # 4 minutes a turn
    python benchmarks/checkpoint.py --short               # few steps, for CI

The networks and data of overhead.py, one worker, with a hard threshold of the size that
it finds. Blocks of three times `--every` steps with and without checkpoints take turns:
in one of each two a checkpoint is taken every so many steps, the first after half of
them, so that the copy, the comparison and the thread that writes lie within; the block
ends when all are written. Shown are the means of a step over blocks and the ratio of
pairs: median, least, greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras

import tem_tf
from benchmarks import overhead
from tem_studies.written_files import write_text

MODELS = ["simple-cnn", "neumf", "lstm"]
PERIODS = 3  # Checkpoints of a block.


class Saving(keras.callbacks.Callback):
    """Takes a checkpoint every so many steps, the first after half as many."""

    def __init__(self, checkpoint: tem_tf.Checkpoint, every: int):
        super().__init__()
        self._checkpoint, self._every = checkpoint, every
        self._step = checkpoint.step or every // 2

    def on_train_batch_end(self, batch, logs=None) -> None:
        self._step += 1
        self._checkpoint.after(self._step)


def measure(name: str, turns: int, every: int) -> dict[str, Any]:
    """One row: milliseconds of a step, with and without, and their ratio."""
    workload = overhead.WORKLOADS[name]
    steps = PERIODS * every
    total = 2 + (2 * turns + 1) * steps
    threshold = tem_tf.HardThreshold(overhead.threshold(workload, total))
    optimizer = tem_tf.SparsifiedOptimizer(workload.optimizer(), threshold)
    training = overhead.Training(workload, optimizer)
    batches = training.batches.repeat()

    def block(steps: int, callbacks: list[keras.callbacks.Callback]) -> float:
        start = time.perf_counter()
        training.model.fit(
            batches,
            steps_per_epoch=steps,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,  # pyright: ignore[reportArgumentType]
        )
        checkpoint.wait()
        return (time.perf_counter() - start) / steps

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tem_tf.Checkpoint(folder, every, stop_signals=())
        block(2, [])
        checkpoint.begin(training.model, optimizer)
        saving = Saving(checkpoint, every)
        block(steps, [saving])  # The first makes the directory.
        plain, saved = [], []
        for turn in range(turns):
            for has in (False, True)[:: -1 if turn % 2 else 1]:
                (saved if has else plain).append(block(steps, [saving] * has))
        files = [p for p in pathlib.Path(folder).rglob("*") if p.is_file()]
        size = sum(path.stat().st_size for path in files) // 2  # Two are kept.
    ratios = [with_it / without for with_it, without in zip(saved, plain, strict=True)]
    return {
        "model": name,
        "parameters": training.parameters,
        "checkpoint_megabytes": size / 1e6,
        "every": every,
        "step_milliseconds": 1e3 * statistics.median(saved),
        "plain_step_milliseconds": 1e3 * statistics.median(plain),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models", nargs="*", choices=overhead.WORKLOADS, default=MODELS
    )
    parser.add_argument("--turns", type=int, default=5, help="Pairs of blocks.")
    parser.add_argument("--every", type=int, default=100, help="Steps between two.")
    parser.add_argument("--short", action="store_true", help="for CI: one of them")
    parser.add_argument("--output", help="JSON file for the results.")
    flags = parser.parse_args()
    if flags.short:
        flags.models, flags.turns, flags.every = ["simple-cnn"], 2, 10
    print("model       parameters     MB   every      ms   plain  ratio (range)")
    rows = []
    for name in flags.models:
        rows.append(row := measure(name, flags.turns, flags.every))
        print(
            f"{name:<12}{row['parameters']:>10,}{row['checkpoint_megabytes']:7.1f}"
            f"{row['every']:8}{row['step_milliseconds']:8.1f}"
            f"{row['plain_step_milliseconds']:8.1f}  {row['ratio']:.3f} "
            f"({min(row['ratios']):.3f} to {max(row['ratios']):.3f})",
            flush=True,
        )
    if flags.output:
        write_text(pathlib.Path(flags.output), json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
