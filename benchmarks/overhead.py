"""What SparsifiedOptimizer costs on one worker, in whole steps of Keras's `fit`.

    python benchmarks/overhead.py                    # all four: minutes
    python benchmarks/overhead.py --models lstm      # one of them
    python benchmarks/overhead.py --short            # small ones, few steps, for CI

On one worker nothing is sent: a step's extra time is local work alone (selection,
residual, encoding, decoding, counting). Each network of the project is trained with the
inner optimizer, with `Identity` around the same one, and with a hard threshold, on
made-up data. The three take turns, so that what else the machine does meets all of
them. A turn's ratio is that of the medians of its steps; shown are the median over
turns and the least and greatest.

On a machine that does other work too, processor time says more than a step's duration;
its ratio is shown beside it.

The threshold is to send about 0.1 % of the entries: in T steps with the mean gradient ḡ
error feedback sends an entry about ⌊T |ḡ| / λ⌋ times, from which λ follows. The density
shown is that of the turns themselves.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_studies.workloads import architectures
from tem_studies.workloads.language_model import LanguageModel
from tem_studies.workloads.neumf import NeuMF
from tem_studies.written_files import write_text  # noqa: E402

DENSITY = 0.001
# So small that gradients stay as they are, and with them the density. Our choice.
RATE = 1e-7
# Batches that a training goes through again and again.
BATCHES = 8
# MovieLens-small (ml-latest-small of 2016): users and items.
USERS, ITEMS = 671, 9_066
# A vocabulary as of Penn Treebank; streams and words of a step. Our choice: the
# 28,869 words of the TEM study would take twice as long.
WORDS, STREAMS, WINDOW = 10_000, 32, 20

Numbers = np.random.Generator


class Workload(NamedTuple):
    """What is trained.

    Attributes:
        network: Makes a model from what `data` makes to logits.
        optimizer: Makes the inner optimizer.
        loss: Makes the loss.
        data: From a generator of random numbers to inputs and labels of one batch.
        steps: Of a turn.
    """

    network: Callable[[], keras.Model]
    optimizer: Callable[[], keras.optimizers.Optimizer]
    loss: Callable[[], keras.Loss]
    data: Callable[[Numbers], tuple[np.ndarray, np.ndarray]]
    steps: int


class Fitted(keras.Model):
    """One of the project's networks that have a loop of their own, for `fit`."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__()
        self.network = network

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Logits, without dropout, so that a batch has the same gradient each time."""
        if isinstance(self.network, NeuMF):
            return self.network(inputs[:, 0], inputs[:, 1])
        states = self.network.start(inputs.shape[0])  # Each window for itself.
        return self.network(inputs, states)[0]


def momentum() -> keras.optimizers.Optimizer:
    """SGD with momentum."""
    return keras.optimizers.SGD(RATE, momentum=0.9)


def adam() -> keras.optimizers.Optimizer:
    """Adam, whose update takes longer."""
    return keras.optimizers.Adam(RATE)


def of_classes() -> keras.Loss:
    """Cross-entropy of labels that are numbers."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def of_pairs() -> keras.Loss:
    """Cross-entropy of yes and no."""
    return keras.losses.BinaryCrossentropy(from_logits=True)


def images(*shape: int) -> Callable[[Numbers], tuple[np.ndarray, np.ndarray]]:
    """32 images, ten classes."""

    def draw(numbers: Numbers) -> tuple[np.ndarray, np.ndarray]:
        drawn = numbers.standard_normal((32, *shape), np.float32)
        return drawn, numbers.integers(0, 10, 32)

    return draw


def pairs(numbers: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """1,024 pairs of user and item; one of five is liked."""
    drawn = numbers.integers(0, [USERS, ITEMS], (1024, 2)).astype(np.int32)
    return drawn, (numbers.random(1024) < 0.2).astype(np.float32)


def text(numbers: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """A window of each stream, and the words after its words."""
    # As often as words of a language are, by Zipf's law.
    weights = 1 / np.arange(1, WORDS + 1)
    shape = (STREAMS, WINDOW + 1)
    drawn = numbers.choice(WORDS, shape, p=weights / weights.sum()).astype(np.int32)
    return drawn[:, :-1], drawn[:, 1:]


WORKLOADS: dict[str, Workload] = {
    # 62,346 parameters.
    "simple-cnn": Workload(
        lambda: architectures.build("simple-cnn", (28, 28, 1), seed=0),
        *(momentum, of_classes, images(28, 28, 1), 150),
    ),
    # 11,173,962.
    "resnet-18": Workload(
        lambda: architectures.build("resnet-18", (32, 32, 3), seed=0),
        *(momentum, of_classes, images(32, 32, 3), 3),
    ),
    # 1,976,577.
    "neumf": Workload(
        lambda: Fitted(NeuMF(USERS, ITEMS)), *(adam, of_pairs, pairs, 60)
    ),
    # 16,657,800: three layers of 650, tied.
    "lstm": Workload(
        lambda: Fitted(LanguageModel(WORDS)), *(momentum, of_classes, text, 4)
    ),
}


class Training:
    """A network in `fit`, by one optimizer."""

    def __init__(
        self, workload: Workload, optimizer: keras.optimizers.Optimizer
    ) -> None:
        keras.utils.set_random_seed(0)
        self.model = workload.network()
        self.optimizer = optimizer
        self.model.compile(
            optimizer,
            workload.loss(),
            jit_compile=False,  # pyright: ignore[reportArgumentType]
        )
        numbers = np.random.default_rng(0)
        batches = [workload.data(numbers) for _ in range(BATCHES)]
        inputs, labels = (np.stack(x) for x in zip(*batches, strict=True))
        data = tf.data.Dataset.from_tensor_slices((inputs, labels))
        self.batches = data.cache()

    def run(self, steps: int) -> tuple[float, float]:
        """Median seconds and processor seconds of a step.

        One more step goes before them, uncounted.
        """
        clock = _Clock()
        self.model.fit(
            self.batches.repeat(),
            steps_per_epoch=steps + 1,
            callbacks=[clock],
            verbose=0,  # pyright: ignore[reportArgumentType]
        )
        seconds, processor_seconds = np.median(np.diff(clock.ends, axis=0), axis=0)
        return float(seconds), float(processor_seconds)

    def mean_gradient(self) -> np.ndarray:
        """Of all batches, before any step; the variables' end to end."""

        @tf.function
        def gradient(inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = self.model.loss(labels, self.model(inputs, training=True))
            values = [v.value for v in self.model.trainable_variables]
            parts = tape.gradient(loss, values)
            return tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)

        each = [gradient(*batch).numpy() for batch in self.batches]
        return np.mean(each, axis=0)

    @property
    def parameters(self) -> int:
        """Trained parameters."""
        return sum(math.prod(v.shape) for v in self.model.trainable_variables)


class _Clock(keras.callbacks.Callback):
    def on_train_begin(self, logs=None) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))


def threshold(workload: Workload, steps: int) -> float:
    """A threshold that sends about `DENSITY` of the entries in so many steps."""
    training = Training(workload, workload.optimizer())
    summed = steps * np.abs(training.mean_gradient())
    wanted = DENSITY * steps * summed.size
    # Of those below, none would be sent once, and not enough of the others.
    summed = summed[summed >= np.quantile(summed, max(0.0, 1 - DENSITY * steps))]
    low, high = float(summed[summed > 0].min()), float(summed.max())
    while high > 1.01 * low:
        middle = math.sqrt(low * high)
        enough = np.sum(summed // middle) >= wanted
        low, high = (middle, high) if enough else (low, middle)
    return high


def overhead(name: str, turns: int, steps: int) -> Iterator[dict[str, Any]]:
    """One row for each compressor."""
    workload = WORKLOADS[name]
    total = 3 + turns * (steps + 1)  # As below.
    hard = tem_tf.HardThreshold(threshold(workload, total))
    trainings = {"plain": Training(workload, workload.optimizer())}
    for compressor in (tem_tf.Identity(), hard):
        optimizer = tem_tf.SparsifiedOptimizer(workload.optimizer(), compressor)
        trainings[type(compressor).__name__] = Training(workload, optimizer)
    for training in trainings.values():
        training.run(2)
    taken: dict[str, list[tuple[float, float]]] = {key: [] for key in trainings}
    for turn in range(turns):
        for key in list(trainings)[:: -1 if turn % 2 else 1]:
            taken[key].append(trainings[key].run(steps))
    plain, plain_processor = zip(*taken.pop("plain"), strict=True)
    for key, measured in taken.items():
        own, processor = zip(*measured, strict=True)
        ratios = [a / b for a, b in zip(own, plain, strict=True)]
        training = trainings[key]
        yield {
            "model": name,
            "parameters": training.parameters,
            "compressor": key,
            "density": training.optimizer.communication_summary()["density"],
            "step_milliseconds": 1e3 * statistics.median(own),
            "plain_step_milliseconds": 1e3 * statistics.median(plain),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "processor_ratio": statistics.median(
                a / b for a, b in zip(processor, plain_processor, strict=True)
            ),
        }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models", nargs="*", choices=WORKLOADS, default=list(WORKLOADS)
    )
    parser.add_argument("--turns", type=int, default=7, help="Turns of each.")
    parser.add_argument("--short", action="store_true", help="for CI: two of them")
    parser.add_argument("--output", help="JSON file for the results.")
    flags = parser.parse_args()
    if flags.short:
        flags.models, flags.turns = ["simple-cnn", "neumf"], 2
    print(
        "model       parameters  compressor     density      ms  plain  ratio (range)"
        "  of processor time"
    )
    rows = []
    for name in flags.models:
        steps = 10 if flags.short else WORKLOADS[name].steps
        for row in overhead(name, flags.turns, steps):
            rows.append(row)
            print(
                f"{name:<12}{row['parameters']:>10,}  {row['compressor']:<13}"
                f"{row['density']:>9.3%}{row['step_milliseconds']:8.1f}"
                f"{row['plain_step_milliseconds']:7.1f}  {row['ratio']:.3f} "
                f"({min(row['ratios']):.3f} to {max(row['ratios']):.3f})"
                f"  {row['processor_ratio']:.3f}",
                flush=True,
            )
    if flags.output:
        machine = {"processor": platform.machine(), "cores": os.cpu_count()}
        record = {"machine": machine, "rows": rows}
        write_text(pathlib.Path(flags.output), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
