"""One worker of aggregation.py: the ways by which TensorFlow may sum a gradient.

Every path takes a list of gradients in replica context and returns their sum over
workers. The gradients alternate between g and -g. Then error feedback with a hard
threshold sends the same entries at every step, since p = g + 0 at one step and
p = -g + (g where it was held back) at the next, and the density stays that of g.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from aggregation import EXACT, OURS, PACKS, PLAIN
from worker_group import serve

import tem_tf
from tem_tf.aggregation import Aggregator
from tem_tf.options import Options

SCALE = 1e-3  # Standard deviation of an entry.
# P(|g| >= 3.2905 σ) = 0.1 %.
THRESHOLD = 3.2905 * SCALE
Gradients = list[tf.Tensor]


def resnet18_sizes() -> list[int]:
    """Entries of ResNet-18's variables, CIFAR form, 10 classes: 11,173,962 in all."""
    sizes = [9 * 3 * 64, 64, 64]
    before = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            sizes += [9 * before * width, width, width, 9 * width * width, width, width]
            if block == 0 and before != width:
                sizes += [before * width, width, width]
            before = width
    return [*sizes, 512 * 10, 10]


class Worker:
    """Answers the benchmark's requests; see `handle`."""

    def __init__(self):
        self._strategy = tem_tf.MultiWorkerMirroredStrategy()
        self._sizes = resnet18_sizes()
        index = self._strategy.cluster_resolver.task_id
        rng = np.random.default_rng(index)
        flat = rng.standard_normal(sum(self._sizes), np.float32) * np.float32(SCALE)
        parts = np.split(flat, np.cumsum(self._sizes)[:-1])
        self._gradients = [
            [tf.constant(sign * part) for part in parts] for sign in (1, -1)
        ]
        self._taken: dict[str, int] = {}  # Steps, by path.
        self._aggregators: dict[str, Aggregator] = {}
        self._steps: dict[str, Callable] = {}

    def handle(self, request: tuple[str, int]) -> dict[str, Any]:
        """Runs steps of one path.

        Args:
            request: A name in aggregation.TF_PATHS and a number of steps.

        Returns:
            `seconds` of each step; `payload_bytes` and `padded_bytes` of all its steps
            so far, over all workers, and `overflow_steps`, where these are known.
        """
        name, steps = request
        if name not in self._steps:
            path = self._path(name)
            self._steps[name] = tf.function(
                lambda gradients: self._strategy.run(path, args=(gradients,))
            )
        step = self._steps[name]
        self._barrier()
        seconds = []
        for _ in range(steps):
            gradients = self._gradients[self._taken.get(name, 0) % 2]
            self._taken[name] = self._taken.get(name, 0) + 1
            began = time.perf_counter()
            step(gradients)
            seconds.append(time.perf_counter() - began)
        answer: dict[str, Any] = {"seconds": seconds}
        if name in self._aggregators:
            summary = self._aggregators[name].summary(self._strategy)
            keys = ("steps", "density", "payload_bytes", "padded_bytes")
            answer |= {key: summary[key] for key in (*keys, "overflow_steps")}
        return answer

    @functools.cached_property
    def _barrier(self) -> Callable:
        def add_up() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce("SUM", tf.constant(1.0))

        return tf.function(lambda: self._strategy.run(add_up))

    def _path(self, name: str) -> Callable[[Gradients], Gradients]:
        if name in (OURS, EXACT):
            return self._ours(name)
        if name == PLAIN:
            return self._plain()
        pack, implementation = name.split(", ")[1:]
        options = tf.distribute.experimental.CommunicationOptions(
            bytes_per_pack=PACKS[pack.removeprefix("pack ")],
            implementation=getattr(
                tf.distribute.experimental.CommunicationImplementation, implementation
            ),
        )

        def dense(gradients: Gradients) -> Gradients:
            context = tf.distribute.get_replica_context()
            # A function's arguments have no device, which `all_reduce` asks for.
            own = [tf.identity(gradient) for gradient in gradients]
            return context.all_reduce("SUM", own, options=options)

        return dense

    def _ours(self, name: str) -> Callable[[Gradients], Gradients]:
        """What SparsifiedOptimizer does between Keras's clipping and its update."""
        names = [f"v{i}" for i in range(len(self._sizes))]
        aggregator = Aggregator(
            Options(
                compressor=tem_tf.HardThreshold(THRESHOLD),
                memory="auto",
                dense_below=0,
                warmup_steps=0,
                value_dtype="float32",
                nonfinite="raise",
                local_clipnorm=None,
                gradients_divided_by_replicas=False,
                exact_payload=name == EXACT,
            )
        )
        with self._strategy.scope():
            aggregator.build(names, self._sizes)
        self._aggregators[name] = aggregator
        step = tf.constant(0, tf.int64)
        return lambda gradients: aggregator.aggregate(gradients, names, step)

    def _plain(self) -> Callable[[Gradients], Gradients]:
        """Error feedback as one would write it down in a custom training loop."""
        total = sum(self._sizes)
        with self._strategy.scope():
            residual = tf.Variable(
                tf.zeros([total]),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.NONE,
            )

        def plain(gradients: Gradients) -> Gradients:
            context = tf.distribute.get_replica_context()
            corrected = tf.concat(gradients, axis=0) + residual.read_value()
            mask = tf.abs(corrected) >= THRESHOLD
            indices = tf.cast(tf.where(mask)[:, 0], tf.int32)
            values = tf.gather(corrected, indices)
            residual.assign(tf.where(mask, 0.0, corrected))
            indices = context.all_gather(indices, axis=0)
            values = context.all_gather(values, axis=0)
            summed = tf.math.unsorted_segment_sum(values, indices, total)
            return tf.split(summed, self._sizes)

        return plain


if __name__ == "__main__":
    serve(Worker().handle)
