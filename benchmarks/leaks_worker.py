"""One worker of leaks.py: trains, and reads its memory and handles."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras
import numpy as np
import tensorflow as tf
from leaks import PLAIN
from memory_worker import resident_bytes
from worker_group import serve

import tem_tf

_EXAMPLES, _BATCH, _FEATURES = 3200, 32, 8
_EPOCH = _EXAMPLES // _BATCH  # Steps.


class Samples(keras.callbacks.Callback):
    """Reads this process every so many steps.

    Args:
        every: Steps.
    """

    def __init__(self, every: int):
        super().__init__()
        self._every, self._steps = every, 0
        self.rows: list[list[float]] = []

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1
        if self._steps % self._every == 0:
            descriptors = len(os.listdir("/proc/self/fd"))
            threads = len(os.listdir("/proc/self/task"))
            resident = resident_bytes("VmRSS")
            self.rows.append([self._steps, resident, descriptors, threads])


def handle(request: tuple[str, int, int, str]) -> Any:
    """Trains.

    Args:
        request: A name in leaks.CASES; steps; steps between samples and checkpoints; an
            empty directory.

    Returns:
        Rows of leaks.COLUMNS.
    """
    case, steps, every, directory = request
    strategy = tem_tf.MultiWorkerMirroredStrategy()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((_FEATURES,)),
                keras.layers.Dense(16, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(1),
            ]
        )
        optimizer = keras.optimizers.Adam()
        if "Top-k" in case:
            optimizer = tem_tf.SparsifiedOptimizer(optimizer, tem_tf.TopK(0.1))
        model.compile(optimizer, "mse")
    samples = Samples(every)
    callbacks: list[keras.callbacks.Callback] = [samples]
    if case == PLAIN:
        data = make_dataset(0)
    else:
        checkpoint = tem_tf.Checkpoint(directory, every=every)
        data = checkpoint.data(make_dataset)
        callbacks.append(checkpoint)
    epochs = steps // _EPOCH
    model.fit(data, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0)
    return samples.rows


def make_dataset(epoch: Any) -> tf.data.Dataset:
    """The same examples in another order."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(_EXAMPLES, _FEATURES)).astype(np.float32)
    y = x.sum(axis=1, keepdims=True)
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    return examples.shuffle(_EXAMPLES, seed=epoch).batch(_BATCH)


if __name__ == "__main__":
    serve(handle)
