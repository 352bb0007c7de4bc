r"""Whether several messages during the backward pass are faster than one at its end.

    python benchmarks/overlap.py
    sudo python benchmarks/overlap.py --links loopback 1gbit 100mbit

A perceptron of 10 M parameters, 32 examples per worker, four workers with one thread
each. A step is the forward and backward pass and the aggregation by hard threshold at
0.1 %: of all gradients in one message, or in two or three messages of neighbouring
layers, each of which TensorFlow may select and send as soon as the backward pass has
produced it. A threshold decides entry by entry, so all forms send the same entries.
They take turns in one run; a figure is the median over turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from aggregation import STEP_SECONDS, machine
from shaped_links import RATES, ShapedLinks
from worker_group import START_SECONDS, WorkerGroup, serve

MESSAGES = (1, 2, 3)
BATCH, WIDTH = 32, 2048
STEPS = 10  # Of a turn.


class Worker:
    """Answers the benchmark's requests; see `handle`."""

    def __init__(self):
        import keras
        import numpy as np
        import tensorflow as tf

        import tem_tf

        self._tf = tf
        self._strategy = tem_tf.MultiWorkerMirroredStrategy()
        keras.utils.set_random_seed(0)
        with self._strategy.scope():
            hidden = [keras.layers.Dense(WIDTH, "relu") for _ in range(3)]
            inputs = keras.Input((784,))
            self._model = keras.Sequential([inputs, *hidden, keras.layers.Dense(10)])
        rng = np.random.default_rng(self._strategy.cluster_resolver.task_id)
        self._images = tf.constant(rng.standard_normal((BATCH, 784)), tf.float32)
        self._labels = tf.constant(rng.integers(0, 10, BATCH), tf.int32)
        gradients = self._gradients(tf.constant(1.0))
        flat = np.concatenate([np.abs(g.numpy()).ravel() for g in gradients])
        self._threshold = float(np.quantile(flat, 0.999))
        self._steps = {messages: self._step(messages) for messages in MESSAGES}

    def handle(self, messages: int) -> float:
        """Mean seconds per step of a turn with so many messages.

        The loss changes its sign from step to step, so that the residual does not grow
        and the density stays (see aggregation_paths.py).
        """
        signs = [self._tf.constant(sign) for sign in (1.0, -1.0)]
        began = time.perf_counter()
        for index in range(STEPS):
            self._steps[messages](signs[index % 2])
        return (time.perf_counter() - began) / STEPS

    def _gradients(self, sign: Any) -> list[Any]:
        tf = self._tf
        with tf.GradientTape() as tape:
            logits = self._model(self._images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=self._labels, logits=logits
            )
            loss = sign * tf.reduce_mean(losses)
        variables = [v.value for v in self._model.trainable_variables]
        return tape.gradient(loss, variables)

    def _step(self, messages: int) -> Any:
        from tem_tf import Aggregator, HardThreshold

        tf = self._tf
        variables = self._model.trainable_variables
        # Kernel and bias of layers, from the last, which come first, to the first.
        layers = [(i, i + 1) for i in range(len(variables) - 2, -1, -2)]
        groups = {
            1: [layers],
            2: [layers[:2], layers[2:]],
            3: [layers[:2], layers[2:3], layers[3:]],
        }[messages]
        parts = []
        for group in groups:
            chosen = [i for layer in group for i in layer]
            aggregator = Aggregator(
                HardThreshold(self._threshold), gradients_divided_by_replicas=False
            )
            with self._strategy.scope():
                aggregator.build([variables[i] for i in chosen])
            parts.append((aggregator, chosen))

        def replica(sign: Any) -> list[Any]:
            gradients = self._gradients(sign)
            results = []
            for aggregator, chosen in parts:
                own = [gradients[i] for i in chosen]
                results += aggregator.aggregate(own, step=0)
            return results

        return tf.function(lambda sign: self._strategy.run(replica, args=(sign,)))


def main() -> None:
    """Measures every link asked for and prints a table and one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    links = ("loopback", *RATES)
    parser.add_argument("--links", nargs="+", choices=links, default=["loopback"])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "links": {}}
    command = [sys.executable, str(pathlib.Path(__file__)), "worker"]
    for link in arguments.links:
        turns: dict[int, list[float]] = {messages: [] for messages in MESSAGES}
        with contextlib.ExitStack() as open_:
            shaped = None
            if link != "loopback":
                shaped = open_.enter_context(ShapedLinks(arguments.workers, link))
            group = open_.enter_context(WorkerGroup(command, arguments.workers, shaped))
            for turn in range(1 + arguments.turns):  # The first traces.
                for messages in MESSAGES:
                    limit = START_SECONDS + STEPS * STEP_SECONDS
                    seconds = max(group.run(messages, limit))
                    if turn:
                        turns[messages].append(1000 * seconds)
        one = turns[1]
        for messages, each in turns.items():
            ratio = statistics.median(a / b for a, b in zip(one, each, strict=True))
            print(
                f"{link:<10} {messages} messages {statistics.median(each):8.1f} ms per "
                f"step, {ratio:.3f} x as fast as one message (paired median)"
            )
        result["links"][link] = turns
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    if "worker" in sys.argv[1:2]:
        serve(Worker().handle)
    else:
        main()
