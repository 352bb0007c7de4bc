"""A worker of logs.py: `fit` of a small network with 0, 1 or 3 metrics.

    python benchmarks/logs_worker.py KIND DESCRIPTOR

KIND is one of KINDS. PYTHONPATH may name another checkout, if KIND is "before".
"""

from __future__ import annotations

import inspect
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from worker_group import serve

import tem_tf
from tem_tf import _internals

# Means over workers in one collective, this worker's own values, and as plain Keras has
# it: a collective for each value; in this checkout and in an earlier one.
KINDS = ("global", "local", "each", "before")
METRICS = {0: (), 1: ("accuracy",), 3: ("accuracy", "mae", "mse")}
BATCH, WIDTH, CLASSES = 32, 64, 10  # Per worker.


class _Times(keras.callbacks.Callback):
    """When each batch has ended."""

    def __init__(self):
        super().__init__()
        self.at: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keeps the time; Keras has the batch's logs as numbers by then."""
        self.at.append(time.perf_counter())


class Worker:
    """Answers requests of logs.py; see `handle`."""

    def __init__(self, kind: str):
        own = {"batch_logs": kind} if kind in ("global", "local") else {}
        self._strategy = tem_tf.MultiWorkerMirroredStrategy(**own)
        if kind == "each":
            _internals.model_of_step = lambda: None
        rng = np.random.default_rng(0)
        images = rng.standard_normal((32 * BATCH, 784)).astype("float32")
        labels = np.eye(CLASSES, dtype="float32")[
            rng.integers(CLASSES, size=32 * BATCH)
        ]
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        replicas = self._strategy.num_replicas_in_sync
        data = tf.data.Dataset.from_tensor_slices((images, labels)).cache().repeat()
        self._data = data.batch(BATCH * replicas).with_options(options)
        self._models = {number: self._model(number) for number in METRICS}

    def _model(self, number: int) -> keras.Model:
        keras.utils.set_random_seed(0)
        layers = keras.layers
        with self._strategy.scope():
            model = keras.Sequential(
                [
                    keras.Input((784,)),
                    layers.Dense(WIDTH, "relu"),
                    layers.Dense(CLASSES, "softmax"),
                ]
            )
            model.compile(
                tem_tf.SparsifiedOptimizer(
                    keras.optimizers.SGD(0.01), tem_tf.TopK(density=0.01)
                ),
                "categorical_crossentropy",
                metrics=list(METRICS[number]),
            )
        return model

    def handle(self, request: tuple[int, int]) -> dict[str, Any]:
        """Trains one epoch.

        Args:
            request: How many metrics, and how many steps.

        Returns:
            `seconds`, the median of a step's, and `collectives`, those of a step.
        """
        number, steps = request
        model, times = self._models[number], _Times()
        model.fit(self._data, steps_per_epoch=1 + steps, verbose=0, callbacks=[times])
        return {
            "seconds": statistics.median(np.diff(times.at).tolist()),
            "collectives": self._collectives(model),
        }

    def _collectives(self, model: keras.Model) -> int:
        """Those that run at every step: those in branches are left out."""
        inside = inspect.getclosurevars(model.train_function).nonlocals
        iterator = iter(self._strategy.experimental_distribute_dataset(self._data))
        step = inside["multi_step_on_iterator"].get_concrete_function(iterator)
        definition = step.graph.as_graph_def()
        functions = {one.signature.name: one for one in definition.library.function}

        def count(nodes: Iterable[Any]) -> int:
            found = 0
            for node in nodes:
                found += node.op.startswith("Collective")
                if node.op.removeprefix("Stateless") in ("If", "Case"):
                    continue
                for value in node.attr.values():
                    if value.HasField("func"):
                        found += count(functions[value.func.name].node_def)
            return found

        return count(definition.node)


if __name__ == "__main__":
    serve(Worker(sys.argv[1]).handle)
