"""What SparsifiedOptimizer costs on one worker, in whole steps of Keras's `fit`.

    python benchmarks/overhead.py                  # minutes
    python benchmarks/overhead.py --short          # Simple-CNN alone, a minute

On one worker nothing is sent: a step's extra time is local work alone (selection,
residual, encoding, decoding, counting). Each network is trained with the inner
optimizer and with a wrapper around the same one, on made-up images at batch 32. The two
take turns, so that what else the machine does meets both. A turn's ratio is that of the
medians of its steps; the median over turns is shown. The threshold is set such that
about 0.1 % of the entries are sent, which takes a few short trainings; the density
shown is that of the turns themselves.
"""

from __future__ import annotations

import argparse
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

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tem_tf
from tem_tf.workloads import architectures

BATCH = 32
DENSITY = 0.001
# How often the threshold is corrected.
SEARCHES = 4
# So small that gradients stay as they are, and with them the density. Our choice.
RATE = 1e-4


def simple_cnn() -> keras.Model:
    """62,346 parameters."""
    return architectures.build("simple-cnn", (28, 28, 1), seed=0)


def resnet_18() -> keras.Model:
    """ResNet-18 for 32 x 32 images: 11,173,962 trained parameters.

    3×3 stem of 64 without pooling, basic blocks 2-2-2-2 of 64/128/256/512,
    convolutions without bias, 1×1 shortcuts with batch norm.
    """

    def convolution(x, filters, size, stride=1):
        x = layers.Conv2D(filters, size, stride, "same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(inputs, 64, 3))
    for filters in (64, 128, 256, 512):
        for stride in (1 if filters == 64 else 2, 1):
            shortcut = x
            if stride == 2:
                shortcut = convolution(x, filters, 1, stride)
            y = layers.ReLU()(convolution(x, filters, 3, stride))
            y = convolution(y, filters, 3)
            x = layers.ReLU()(layers.Add()([y, shortcut]))
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


# name -> (network, steps of a turn)
MODELS: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "simple-cnn": (simple_cnn, 150),
    "resnet-18": (resnet_18, 8),
}


class Training:
    """A network in `fit`, by one optimizer."""

    def __init__(
        self,
        network: Callable[[], keras.Model],
        compressor: tem_tf.Compressor | None,
    ) -> None:
        keras.utils.set_random_seed(0)
        self.model = network()
        self.optimizer = keras.optimizers.SGD(RATE, momentum=0.9)
        if compressor is not None:
            self.optimizer = tem_tf.SparsifiedOptimizer(self.optimizer, compressor)
        self.model.compile(
            self.optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,  # pyright: ignore[reportArgumentType]
        )
        generator = np.random.default_rng(0)
        shape = (16 * BATCH, *self.model.input_shape[1:])
        images = generator.normal(size=shape).astype(np.float32)
        labels = generator.integers(0, 10, len(images))
        data = tf.data.Dataset.from_tensor_slices((images, labels))
        self._batches = data.batch(BATCH).cache().repeat().prefetch(2)

    def run(self, steps: int) -> float:
        """Median seconds of one step; the first is not counted."""
        clock = _Clock()
        self.model.fit(
            self._batches,
            steps_per_epoch=steps + 1,
            callbacks=[clock],
            verbose=0,  # pyright: ignore[reportArgumentType]
        )
        return statistics.median(np.diff(clock.ends))

    @property
    def parameters(self) -> int:
        """Trained parameters."""
        return sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)


class _Clock(keras.callbacks.Callback):
    def on_train_begin(self, logs=None) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.ends.append(time.perf_counter())


def threshold(network: Callable[[], keras.Model], steps: int) -> float:
    """A threshold that lets about `DENSITY` of the entries through."""
    value = 1e-3
    for _ in range(SEARCHES):
        training = Training(network, tem_tf.HardThreshold(value))
        training.run(steps)
        density = training.optimizer.communication_summary()["density"]
        # What passes falls about with the square of the threshold, by the residual.
        value *= (max(density, 1e-6) / DENSITY) ** 0.5
    return value


def overhead(name: str, turns: int) -> list[dict]:
    """One row for each compressor."""
    network, steps = MODELS[name]
    plain = Training(network, None)
    compressors = [tem_tf.Identity(), tem_tf.HardThreshold(threshold(network, steps))]
    wrapped = [Training(network, compressor) for compressor in compressors]
    pairs: list[list[tuple[float, float]]] = [[] for _ in compressors]
    for training in (plain, *wrapped):
        training.run(2)
    for turn in range(turns):
        for training, measured in zip(wrapped, pairs, strict=True):
            if turn % 2:
                base, own = plain.run(steps), training.run(steps)
            else:
                own, base = training.run(steps), plain.run(steps)
            measured.append((own, base))
    rows = []
    for compressor, training, measured in zip(compressors, wrapped, pairs, strict=True):
        own, base = zip(*measured, strict=True)
        ratios = [a / b for a, b in measured]
        rows.append(
            {
                "model": name,
                "parameters": training.parameters,
                "compressor": type(compressor).__name__,
                "density": training.optimizer.communication_summary()["density"],
                "step_milliseconds": 1e3 * statistics.median(own),
                "plain_step_milliseconds": 1e3 * statistics.median(base),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
            }
        )
    return rows


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--turns", type=int, default=7, help="Turns of each.")
    parser.add_argument("--short", action="store_true", help="Simple-CNN, 3 turns.")
    parser.add_argument("--output", help="JSON file for the results.")
    flags = parser.parse_args()
    models, turns = (["simple-cnn"], 3) if flags.short else (flags.models, flags.turns)
    print(f"{'model':<12}{'compressor':<15}{'density':>9}  ms  plain ms  ratio")
    rows = []
    for name in models:
        for row in overhead(name, turns):
            rows.append(row)
            print(
                f"{name:<12}{row['compressor']:<15}{row['density']:>9.3%}"
                f"{row['step_milliseconds']:9.2f}{row['plain_step_milliseconds']:9.2f}"
                f"{row['ratio']:8.3f}",
                flush=True,
            )
    if flags.output:
        machine = {"processor": platform.machine(), "cores": os.cpu_count()}
        record = {"machine": machine, "batch": BATCH, "rows": rows}
        pathlib.Path(flags.output).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
