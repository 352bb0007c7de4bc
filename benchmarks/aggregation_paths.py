"""One worker of aggregation.py: the ways by which TensorFlow may sum a gradient.

Every path takes a list of gradients in replica context and returns their sum over
workers. The gradients alternate between g and -g. Then error feedback with a hard
threshold sends the same entries at every step, since p = g + 0 at one step and
p = -g + (g where it was held back) at the next, and the density stays that of g.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from aggregation import EXACT, MORE, OURS, PACKS, PLAIN, POWER_SGD, RANK, SIGN, SIZE
from resnet18 import resnet18_shapes
from worker_group import serve

import tem_tf

SCALE = 1e-3  # Standard deviation of an entry.
# P(|g| >= 3.2905 σ) = 0.1 %.
THRESHOLD = 3.2905 * SCALE
Gradients = list[tf.Tensor]


COMPRESSORS = {
    **dict.fromkeys((OURS, *MORE, EXACT), tem_tf.HardThreshold(THRESHOLD)),
    # Of g and -g in turn what waits grows to 5 g at most: so about as many go.
    f"{OURS}, momentum correction": tem_tf.HardThreshold(3 * THRESHOLD),
    POWER_SGD: tem_tf.PowerSGD(RANK),
    SIGN: tem_tf.Sign(),
}
_MORE_OPTIONS: tuple[dict[str, Any], ...] = (
    {"value_dtype": "bfloat16"},
    {"local_clipnorm": 0.999 * SCALE * math.sqrt(SIZE)},  # Just below the norm.
    {"warmup_steps": 1},
    {"memory": tem_tf.DecayingErrorFeedback(0.9)},
    {"memory": tem_tf.MomentumCorrection(0.9)},
    {"memory": tem_tf.EF21()},
)
OPTIONS = {
    EXACT: {"exact_payload": True},
    **dict(zip(MORE, _MORE_OPTIONS, strict=True)),
}


class Worker:
    """Answers the benchmark's requests; see `handle`."""

    def __init__(self):
        self._strategy = tem_tf.MultiWorkerMirroredStrategy()
        index = self._strategy.cluster_resolver.task_id
        rng = np.random.default_rng(index)
        gradient = [
            rng.standard_normal(shape, np.float32) * np.float32(SCALE)
            for shape in resnet18_shapes()
        ]
        self._gradients = [
            [tf.constant(sign * part) for part in gradient] for sign in (1, -1)
        ]
        self._taken: dict[str, int] = {}  # Steps, by path.
        self._aggregators: dict[str, tem_tf.Aggregator] = {}
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
            summary = self._aggregators[name].summaries()[0]
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
        if name in COMPRESSORS:
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
        aggregator = tem_tf.Aggregator(
            COMPRESSORS[name],
            gradients_divided_by_replicas=False,
            **OPTIONS.get(name, {}),
        )
        # Weights, which are equal on all workers.
        weights = [tf.zeros_like(gradient) for gradient in self._gradients[0]]
        names = [f"v{i}" for i in range(len(weights))]
        with self._strategy.scope():
            aggregator.build(weights, names)
            step = tf.Variable(1, dtype=tf.int64)  # No constant: warm-up is a branch.
        self._aggregators[name] = aggregator
        return lambda gradients: aggregator.aggregate(gradients, step)

    def _plain(self) -> Callable[[Gradients], Gradients]:
        """Error feedback as one would write it down in a custom training loop."""
        shapes = resnet18_shapes()
        sizes = [math.prod(shape) for shape in shapes]
        total = sum(sizes)
        with self._strategy.scope():
            residual = tf.Variable(
                tf.zeros([total]),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.NONE,
            )

        def plain(gradients: Gradients) -> Gradients:
            context = tf.distribute.get_replica_context()
            flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)
            corrected = flat + residual.read_value()
            mask = tf.abs(corrected) >= THRESHOLD
            indices = tf.cast(tf.where(mask)[:, 0], tf.int32)
            values = tf.gather(corrected, indices)
            residual.assign(tf.where(mask, 0.0, corrected))
            indices = context.all_gather(indices, axis=0)
            values = context.all_gather(values, axis=0)
            summed = tf.math.unsorted_segment_sum(values, indices, total)
            parts = zip(tf.split(summed, sizes), shapes, strict=True)
            return [tf.reshape(part, shape) for part, shape in parts]

        return plain


if __name__ == "__main__":
    serve(Worker().handle)
