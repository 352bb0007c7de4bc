"""One worker of time_to_target.py under TensorFlow: its dense row and this plugin's.

A loop of one's own, a step a call of one `tf.function`; what a row is, `_optimizer`
says. Requests are answered turn by turn: begin, train some steps, check.
"""

from __future__ import annotations

import contextlib
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from time_to_target_data import Job, load, warm_up_steps
from time_to_target_rows import BETAS, CLIPNORM, DECAY, EPSILON, MOMENTUM
from time_to_target_worker import NO_TURN, Beginning, Turn, cluster, traffic, turns
from worker_group import serve

import tem_tf
from tem_studies.workloads import architectures
from tem_studies.workloads.exchanging_optimizers import CompressedMatrixAdamW
from tem_studies.workloads.optimizers import (
    MatrixAdamW,
    Momentum,
    make_learning_rate,
)
from tem_studies.workloads.transformer import Transformer
from tem_tf.replica_state import values_here

_CHECKED = 64  # Examples of one forward pass of a check.


class Training:
    """One row's training on one worker.

    Args:
        beginning: What to train.
    """

    def __init__(self, beginning: Beginning):
        self._job = load(beginning.job)
        self._beginning = beginning
        self._step = 0
        _, self._index = cluster()
        if "fragments" in beginning.settings:  # A second thread, for the exchange.
            tf.config.threading.set_inter_op_parallelism_threads(2)
        warnings.filterwarnings("ignore", "Adam's variance is wrong")
        if beginning.way == "dense":
            self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        else:
            self._strategy = tem_tf.MultiWorkerMirroredStrategy()
        with self._strategy.scope():
            self._model = _network(self._job)
            self._model.set_weights(self._job.weights)
            self._optimizer = _optimizer(self._job, beginning)
            self._optimizer.build(self._model.trainable_variables)
        self._train = tf.function(self._one_step)
        self._summed = tf.function(self._sum_of_errors)
        rows = self._job.of_worker(0, 0, beginning.workers)
        inputs, _ = self._job.examples(rows)
        self.logits_difference = self._job.check_logits(np.asarray(self._model(inputs)))

    def train(self, steps: int) -> Turn:
        """Takes so many steps."""
        before, began = traffic(), time.perf_counter()
        for _ in range(steps):
            workers = self._beginning.workers
            rows = self._job.of_worker(self._step, self._index, workers)
            self._train(*map(tf.constant, self._job.examples(rows)))
            self._step += 1
        seconds = time.perf_counter() - began
        sent, received = (b - a for a, b in zip(before, traffic(), strict=True))
        return Turn(steps, seconds, sent, received)

    @contextlib.contextmanager
    def in_common(self) -> Iterator[Turn]:
        """As `time_to_target_worker.Training`."""
        if not getattr(self._optimizer, "pending", 0):
            yield NO_TURN
            return
        state = self._optimizer.aggregator.state
        outer = self._optimizer.outer_optimizer
        variables = [
            *(*self._model.variables, *self._optimizer.variables, *outer.variables)
        ]
        states = state.values()
        values = [np.array(values_here(variable)[0]) for variable in variables]

        def undo() -> None:
            state.restore(states)
            for variable, value in zip(variables, values, strict=True):
                values_here(variable)[0].assign(value)

        self._optimizer.synchronise()  # For the graph, whose tracing is on no clock.
        undo()
        before, began = traffic(), time.perf_counter()
        self._optimizer.synchronise()
        seconds = time.perf_counter() - began
        sent, received = (b - a for a, b in zip(before, traffic(), strict=True))
        yield Turn(0, seconds, sent, received)
        undo()

    def digest(self) -> int:
        """A checksum of the weights."""
        checksum = 0
        for weights in self._model.get_weights():
            checksum = zlib.crc32(np.ascontiguousarray(weights), checksum)
        return checksum

    def errors(self, share: int, shares: int) -> tuple[float, float]:
        """Sum and number on a share of the validation split."""
        total = count = 0.0
        for inputs, targets, counts in self._job.held_out(_CHECKED)[share::shares]:
            part = self._summed(*map(tf.constant, (inputs, targets, counts)))
            total += float(part)
            count += float(counts.sum())
        return total, count

    def _one_step(self, inputs: tf.Tensor, targets: tf.Tensor) -> None:
        def of_replica() -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(_cross_entropy(targets, self._model(inputs)))
                # As `fit` does: what optimizers get is a share of the mean.
                loss /= self._strategy.num_replicas_in_sync
            variables = self._model.trainable_variables
            self._optimizer.apply(tape.gradient(loss, variables), variables)

        self._strategy.run(of_replica)

    def _sum_of_errors(
        self, inputs: tf.Tensor, targets: tf.Tensor, counts: tf.Tensor
    ) -> tf.Tensor:
        logits = self._model(inputs)
        if self._job.name == "gpt":
            return tf.reduce_sum(_cross_entropy(targets, logits) * counts)
        wrong = tf.argmax(logits, -1, tf.int32) != targets
        return tf.reduce_sum(tf.cast(wrong, tf.float32) * counts)


def _cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)


def _network(job: Job) -> keras.Model:
    if job.name == "gpt":
        return Transformer(**job.sizes)
    return architectures.build("simple-cnn", job.inputs.shape[1:], seed=0)


def _optimizer(job: Job, beginning: Beginning) -> keras.optimizers.Optimizer:
    """What makes a row: an optimizer."""
    settings, replicas = beginning.settings, beginning.replicas
    # Each worker's own gradient is clipped, in the units of who does it.
    clipnorm = CLIPNORM if job.name == "gpt" else None
    divided = clipnorm and clipnorm / replicas
    if beginning.way == "signs":
        adamw = _adamw(beginning)
        return CompressedMatrixAdamW(
            **adamw, freeze_step=settings["freeze_step"], global_clipnorm=divided
        )
    inner: keras.optimizers.Optimizer
    if settings["optimizer"] == "adamw":
        inner = MatrixAdamW(**_adamw(beginning))
    else:
        inner = Momentum(_rate(beginning), MOMENTUM)
    if beginning.way == "dense":
        inner.global_clipnorm = divided
        return inner
    if beginning.way == "local":
        inner.global_clipnorm = clipnorm
        return tem_tf.LocalUpdates(
            inner,
            keras.optimizers.SGD(
                settings["outer_rate"], settings["outer_momentum"], nesterov=True
            ),
            settings["local_steps"],
            fragments=settings.get("fragments"),
            **exchange_of(beginning.way, settings),
        )
    exchange = exchange_of(beginning.way, settings)
    return tem_tf.SparsifiedOptimizer(inner, **exchange, local_clipnorm=clipnorm)


def exchange_of(way: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Compressor and `value_dtype` of a row that has them."""
    make = {
        "threshold": lambda: tem_tf.HardThreshold(settings["threshold"]),
        "topk": lambda: tem_tf.TopK(settings["density"]),
        "power_sgd": lambda: tem_tf.PowerSGD(settings["rank"]),
        "all_entries": tem_tf.AllEntries,
        # With a density by no row: the study has tried it by hand.
        "local": lambda: (
            tem_tf.TopK(settings["density"])
            if "density" in settings
            else tem_tf.AllEntries()
        ),
    }
    kept = "bfloat16" if way == "topk" else "float32"
    value_dtype = settings.get("value_dtype", kept)
    return {"compressor": make[way](), "value_dtype": value_dtype}


def _rate(beginning: Beginning) -> Any:
    steps = beginning.settings["steps"]
    return make_learning_rate(
        beginning.settings["rate"], "cosine", steps, 0.1, warm_up_steps(steps)
    )


def _adamw(beginning: Beginning) -> dict[str, Any]:
    return {
        "learning_rate": _rate(beginning),
        "weight_decay": DECAY,
        "beta_1": BETAS[0],
        "beta_2": BETAS[1],
        "epsilon": EPSILON,
    }


if __name__ == "__main__":
    serve(turns(Training))
