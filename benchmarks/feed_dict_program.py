"""The opponent of data_parallelism.py: a TensorFlow 1 program in a process of its own.

It is built as the DPS authors' program is (arXiv 2003.11316), as far as that decides
what a step costs:

* One graph prunes, trains and evaluates. Switches that are fed say what a run does:
  `tf.cond` adds up sensitivities, `tf.cond` makes new masks.
* Masks and sensitivities are variables, since a session remembers nothing else, and
  are assigned in every run. Weights are multiplied by their masks in every run.
* Examples come one at a time from a generator that shuffles a list of their numbers;
  `np.asarray` joins them, `feed_dict` hands them over. They are standardised once.
* A run fetches the loss, the accuracy and whether each answer was right.
* Labels are made one-hot; biases are added by `+`; the optimizer counts its steps.
* Pruning and evaluation go in batches of 100.

TensorFlow 1's behaviour (reference variables, control flow of its own) is switched on
for the whole process, which is why it has one to itself. Threads: TensorFlow's choice.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1

BATCH = 100  # of pruning and evaluation
CLASSES = 10
RATE = 0.1

Arrays = list[np.ndarray]
# Standardised images, float32, and labels.
Part = tuple[np.ndarray, np.ndarray]


class FeedDictProgram:
    """Network, masks and step in a graph, examples in Python.

    Args:
        arch: A key of `NETWORKS`.
        parts: Of the data, by name: "train", "validation", "test".
        weights: Initial values, a kernel and its bias in turns.
        masks: Initial masks.
        kept: Entries that pruning keeps.
    """

    def __init__(
        self, arch: str, parts: dict[str, Part], weights: Arrays, masks: Arrays,
        kept: int,
    ) -> None:  # fmt: skip
        self._parts = parts
        self._random = np.random.RandomState(0)
        self._kept = kept
        self._shapes = [array.shape for array in weights]
        with tf.Graph().as_default():
            shape = parts["train"][0].shape[1:]
            self._images = v1.placeholder(tf.float32, (None, *shape))
            self._labels = v1.placeholder(tf.int32, (None,))
            self._adds_sensitivities = v1.placeholder_with_default(False, ())
            self._makes_masks = v1.placeholder_with_default(False, ())
            self._build(NETWORKS[arch], weights, masks)
            self._session = v1.Session()
            self._session.run(v1.global_variables_initializer())
        self._training = self._examples("train", True)

    def _build(self, network: Callable, weights: Arrays, masks: Arrays) -> None:
        def kept_apart(arrays: Arrays) -> list[tf.Tensor]:
            return [v1.Variable(array, trainable=False) for array in arrays]

        trained = [
            v1.get_variable(f"w{i}", initializer=w) for i, w in enumerate(weights)
        ]
        ones = kept_apart([np.ones_like(w) for w in weights])
        sums = kept_apart([np.zeros_like(w) for w in weights])
        current = kept_apart(masks)

        def loss_of(logits: tf.Tensor) -> tf.Tensor:
            labels = tf.one_hot(self._labels, CLASSES)
            return tf.reduce_mean(
                tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            )

        def added_up() -> list[tf.Tensor]:
            masked = [w * c for w, c in zip(trained, ones, strict=True)]
            gradients = tf.gradients(loss_of(network(self._images, masked)), ones)
            return [s + g for s, g in zip(sums, gradients, strict=True)]

        def unchanged(variables: list) -> Callable[[], list[tf.Tensor]]:
            return lambda: [tf.identity(variable) for variable in variables]

        added = v1.cond(self._adds_sensitivities, added_up, unchanged(sums))
        with tf.control_dependencies(_assigned(sums, added)):
            chosen = v1.cond(
                self._makes_masks, lambda: self._largest(added), unchanged(current)
            )
        with tf.control_dependencies(_assigned(current, chosen)):
            masked = [w * c for w, c in zip(trained, chosen, strict=True)]
        self._masks = current
        self._sparsity = tf.nn.zero_fraction(
            tf.concat([tf.reshape(w, [-1]) for w in masked], 0)
        )
        logits = network(self._images, masked)
        loss = loss_of(logits)
        right = tf.equal(self._labels, tf.argmax(logits, 1, tf.int32))
        self._each = tf.cast(right, tf.float32)
        self._outputs = [loss, tf.reduce_mean(self._each), self._each]
        steps = v1.Variable(0, trainable=False)
        optimizer = v1.train.GradientDescentOptimizer(tf.constant(RATE))
        self._step = optimizer.minimize(loss, global_step=steps, var_list=trained)

    def _largest(self, sensitivities: list[tf.Tensor]) -> list[tf.Tensor]:
        """Masks of the largest of all entries together."""
        scores = tf.concat([tf.reshape(tf.abs(s), [-1]) for s in sensitivities], 0)
        _, chosen = tf.nn.top_k(scores / tf.reduce_sum(scores), self._kept)
        ones = tf.ones([self._kept])
        flat = tf.scatter_nd(chosen[:, tf.newaxis], ones, tf.shape(scores))
        parts = tf.split(flat, [int(np.prod(shape)) for shape in self._shapes])
        return [tf.reshape(p, s) for p, s in zip(parts, self._shapes, strict=True)]

    def _examples(self, name: str, endless: bool) -> Iterator[dict[str, Any]]:
        images, labels = self._parts[name]
        while True:
            order = list(range(len(labels)))
            if name == "train":
                self._random.shuffle(order)
            for i in order:
                yield {"image": images[i], "label": labels[i]}
            if not endless:
                return

    def _feed(self, examples: Iterator[dict[str, Any]], size: int) -> dict:
        images, labels = [], []
        for _ in range(size):
            example = next(examples)
            images.append(example["image"])
            labels.append(example["label"])
        return {
            self._images: np.asarray(images),
            self._labels: np.asarray(labels),
        }

    def train(self, steps: int, batch_size: int) -> None:
        """Trains on."""
        for _ in range(steps):
            feed = self._feed(self._training, batch_size)
            self._session.run([self._outputs, self._step], feed)

    def evaluate(self, name: str) -> float:
        """Accuracy over a part of the data."""
        examples, count = self._examples(name, False), len(self._parts[name][1])
        answers: list[float] = []
        for start in range(0, count, BATCH):
            feed = self._feed(examples, min(BATCH, count - start))
            answers.extend(self._session.run(self._outputs, feed)[2])
        return float(np.mean(answers))

    def prune(self) -> list[np.ndarray]:
        """Adds up sensitivities over an epoch and makes masks, which it returns."""
        examples, count = self._examples("train", False), len(self._parts["train"][1])
        for start in range(0, count, BATCH):
            feed = self._feed(examples, min(BATCH, count - start))
            feed[self._adds_sensitivities] = True
            feed[self._makes_masks] = start + BATCH >= count
            self._session.run(self._sparsity, feed)
        return self._session.run(self._masks)

    def close(self) -> None:
        """Ends the session."""
        self._session.close()


def _assigned(variables: list, values: list[tf.Tensor]) -> list[tf.Operation]:
    return [v1.assign(a, b) for a, b in zip(variables, values, strict=True)]


def _simple_cnn(x: tf.Tensor, w: list[tf.Tensor]) -> tf.Tensor:
    for kernel, bias in ((w[0], w[1]), (w[2], w[3])):
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "VALID") + bias)
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    return tf.reshape(x, (-1, w[4].shape[0])) @ w[4] + w[5]


def _resnet_8(x: tf.Tensor, w: list[tf.Tensor]) -> tf.Tensor:
    def convolution(x: tf.Tensor, index: int, stride: int = 1) -> tf.Tensor:
        return tf.nn.conv2d(x, w[2 * index], stride, "SAME") + w[2 * index + 1]

    x = convolution(x, 0)
    for block, stride in enumerate((1, 2, 2)):
        activated = tf.nn.relu(x)
        shortcut = x
        if stride > 1:
            shortcut = tf.nn.avg_pool2d(activated, stride, stride, "SAME")
            shortcut = tf.concat([shortcut, tf.zeros_like(shortcut)], axis=-1)
        x = tf.nn.relu(convolution(activated, 2 * block + 1, stride))
        x = convolution(x, 2 * block + 2) + shortcut
    return tf.reduce_mean(tf.nn.relu(x), (1, 2)) @ w[-2] + w[-1]


NETWORKS: dict[str, Callable] = {"simple-cnn": _simple_cnn, "resnet-8": _resnet_8}


class Opponent:
    """The program in its own process; takes the arguments of `FeedDictProgram`.

    Its methods return when the other process has done the work.
    """

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, arguments), daemon=True
        )
        self._process.start()
        theirs.close()
        self._connection.recv()

    def train(self, steps: int, batch_size: int) -> None:
        self._ask("train", steps, batch_size)

    def evaluate(self, name: str) -> float:
        return self._ask("evaluate", name)

    def prune(self) -> list[np.ndarray]:
        return self._ask("prune")

    def restart(self) -> None:
        """A new graph and session, as for another run."""
        self._ask("restart")

    def close(self) -> None:
        self._connection.close()
        self._process.join()

    def _ask(self, method: str, *arguments: Any) -> Any:
        self._connection.send((method, arguments))
        return self._connection.recv()


def _serve(connection: Connection, arguments: tuple) -> None:
    v1.disable_v2_behavior()
    program = FeedDictProgram(*arguments)
    connection.send(None)
    while True:
        try:
            method, values = connection.recv()
        except EOFError:
            program.close()
            return
        if method == "restart":
            program.close()
            program = FeedDictProgram(*arguments)
            connection.send(None)
        else:
            connection.send(getattr(program, method)(*values))
