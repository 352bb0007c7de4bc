r"""Sixteen-bit training under compression: accuracy beside float32's.

    python studies/sixteen_bits/run.py PATH_DATA    # 36 runs; may be stopped
    python studies/sixteen_bits/run.py --report     # the table again

PATH_DATA holds Fashion-MNIST/. Keras's `fit` on two virtual workers, the user's three
lines: a policy, `SparsifiedOptimizer`, `compile`. Under mixed_float16 Keras puts its
LossScaleOptimizer around, whose scaling the wrapper takes over. The same seed has the
same initial weights and the same order of examples under every policy.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tem_studies.written_files import write_table  # noqa: E402

RESULTS = HERE / "results.csv"
BATCH, RATE, MOMENTUM = 128, 0.05, 0.9
STEPS = {"simple-cnn": 1000, "perceptron": 500}
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
COMPRESSORS = ("threshold", "topk")
# Of a worker's own gradient: about one entry in a hundred is sent.
THRESHOLDS = {"simple-cnn": 0.1, "perceptron": 0.01}
DENSITY = 0.01
WIDTH = 2048
SEEDS = (0, 1, 2)
COLUMNS = (
    *("model", "policy", "compressor", "seed", "accuracy", "loss", "density"),
    *("skipped_steps", "steps", "seconds"),
)
# Student's t, two degrees of freedom, 95 %: of three differences.
_T = 4.303


def train(
    model_name: str, policy: str, compressor: str, seed: int, data: pathlib.Path
) -> dict[str, Any]:
    """One run, in this process."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tem_tf
    from tem_studies.workloads import architectures
    from tem_studies.workloads.data_files import read_mnist

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    (x, y), (test_x, test_y) = (
        (tf.constant(images.reshape(-1, 28, 28, 1)), tf.constant(labels, tf.int32))
        for images, labels in read_mnist(data / "Fashion-MNIST")
    )
    mean, deviation = float(np.mean(x)), float(np.std(x))

    def standardised(images):
        return (tf.cast(images, tf.float32) - mean) / deviation

    rows = np.random.default_rng(seed).integers(len(x), size=(STEPS[model_name], BATCH))

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        if model_name == "simple-cnn":
            model = architectures.build(
                "simple-cnn", x.shape[1:], seed, dtype_policy=policy
            )
        else:
            hidden = [keras.layers.Dense(WIDTH, "relu") for _ in range(3)]
            model = keras.Sequential(
                [
                    keras.Input(x.shape[1:]),
                    keras.layers.Flatten(),
                    *hidden,
                    keras.layers.Dense(10),
                ]
            )
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(RATE, momentum=MOMENTUM),
            tem_tf.HardThreshold(THRESHOLDS[model_name])
            if compressor == "threshold"
            else tem_tf.TopK(DENSITY),
        )
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
            steps_per_execution=50,
        )
    batches = tf.data.Dataset.from_tensor_slices(rows).map(
        lambda r: (standardised(tf.gather(x, r)), tf.gather(y, r))
    )
    began = time.perf_counter()
    model.fit(batches, verbose=0)
    seconds = time.perf_counter() - began
    test = tf.data.Dataset.from_tensor_slices((test_x, test_y)).batch(500)
    loss, accuracy = model.evaluate(
        test.map(lambda images, labels: (standardised(images), labels)), verbose=0
    )
    summary = optimizer.communication_summary()
    return {
        "accuracy": accuracy,
        "loss": loss,
        "density": summary["density"],
        "skipped_steps": summary["skipped_steps"],
        "steps": summary["steps"],
        "seconds": round(seconds, 1),
    }


def rows_found() -> list[dict[str, str]]:
    """What has been run."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def run_all(data: pathlib.Path) -> None:
    """Runs what is missing, each in a process of its own."""
    done = {tuple(row[name] for name in COLUMNS[:4]) for row in rows_found()}
    for seed, model, compressor, policy in itertools.product(
        SEEDS, STEPS, COMPRESSORS, POLICIES
    ):
        cell = (model, policy, compressor, str(seed))
        if cell in done:
            continue
        print(*cell, flush=True)
        subprocess.run(
            [sys.executable, __file__, str(data), "--cell", *cell], check=True
        )


def run_cell(data: pathlib.Path, cell: list[str]) -> None:
    """Runs one and appends its row, whole or not at all."""
    model, policy, compressor, seed = cell
    row = dict(zip(COLUMNS, cell, strict=False))
    row |= train(model, policy, compressor, int(seed), data)
    rows = [*rows_found(), row]
    write_table(RESULTS, rows, COLUMNS)


def report() -> str:
    """A table of accuracies, with 95 % intervals of differences of paired seeds."""
    rows = rows_found()
    lines = [
        "| model | compressor | policy | density | accuracy | beside float32 (95 %) "
        "| skipped of steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, compressor, policy in itertools.product(STEPS, COMPRESSORS, POLICIES):
        found = {
            (row["policy"], row["seed"]): row
            for row in rows
            if (row["model"], row["compressor"]) == (model, compressor)
        }
        own = [found[policy, str(s)] for s in SEEDS if (policy, str(s)) in found]
        if not own:
            continue
        accuracies = [float(row["accuracy"]) for row in own]
        beside = ""
        pairs = [
            float(found[policy, str(s)]["accuracy"])
            - float(found["float32", str(s)]["accuracy"])
            for s in SEEDS
            if (policy, str(s)) in found and ("float32", str(s)) in found
        ]
        if policy != "float32" and len(pairs) == len(SEEDS):
            middle = statistics.mean(pairs)
            half = _T * statistics.stdev(pairs) / math.sqrt(len(pairs))
            beside = f"{middle:+.4f} ({middle - half:+.4f} to {middle + half:+.4f})"
        density = statistics.mean(float(row["density"]) for row in own)
        skipped = ", ".join(row["skipped_steps"] for row in own)
        lines.append(
            f"| {model} | {compressor} | {policy} | {100 * density:.2f} % "
            f"| {statistics.mean(accuracies):.4f} | {beside} "
            f"| {skipped} of {own[0]['steps']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path_data", type=pathlib.Path, nargs="?")
    parser.add_argument("--report", action="store_true", help="the table alone")
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.path_data is None and not arguments.report:
        parser.error("PATH_DATA is needed, or --report")
    if arguments.cell:
        run_cell(arguments.path_data, arguments.cell)
        return
    if not arguments.report:
        run_all(arguments.path_data)
    print(report())


if __name__ == "__main__":
    main()
