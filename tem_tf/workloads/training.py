"""Training and evaluation of a (pruned) network over the replicas of a strategy.

Every step takes one full global batch; each replica computes on its slice. The loss of
a replica is the mean over its slice divided by the number of replicas, so gradients
reach the optimizer as under Keras's `fit`. Masked entries get no gradient and stay 0.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tem_tf.workloads.batches import DeviceSplit, count_correct, cross_entropy
from tem_tf.workloads.replicas import spans_processes

# Examples per forward pass of an evaluation. Our choice: 100 to 2000 are equally fast
# on two cores, and activations stay below 100 MB.
EVALUATION_BATCH = 500


class Score(NamedTuple):
    """Mean loss and accuracy, in [0, 1], over some examples."""

    loss: float
    accuracy: float


class Trainer:
    """A model, its optimizer and its masks, ready to train on device-held examples.

    Args:
        strategy: Where the replicas live. Model and optimizer were made in its scope.
        model: From images to logits.
        optimizer: Built here, on the model's trainable variables.
        train: The training split.
        batch_size: Examples per step, over all replicas; divisible by their number.

    Attributes:
        steps: Number of steps taken.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        train: DeviceSplit,
        batch_size: int,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.steps = 0
        self._strategy = strategy
        self._train = train
        self._replicas = strategy.num_replicas_in_sync
        self._batch_size = batch_size
        self._slice = batch_size // self._replicas
        self._masks: list[tf.Variable] | None = None
        with strategy.scope():
            optimizer.build(model.trainable_variables)
            self._fresh = [variable.numpy() for variable in optimizer.variables]
            # Sum of losses, number of correct answers, steps: since the last reading,
            # each replica its own.
            self._meters = tf.Variable(
                tf.zeros(3),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
        self._meters_since = tf.function(self._read_and_reset_meters)
        self._evaluations: dict[DeviceSplit, tf.types.experimental.GenericFunction]
        self._evaluations = {}

    @property
    def steps_per_call(self) -> int:
        """Most steps that one call of `run` may take.

        One between processes, where a payload's size may change from step to step and
        TensorFlow fixes the sizes of collectives within one call.
        """
        return 1 if spans_processes(self._strategy) else sys.maxsize

    def prune(self, masks: list[np.ndarray]) -> None:
        """Sets masked entries to 0, for good. Call it before `compile`.

        Once pruned, a network may be pruned again by other masks, after `restart`.

        Args:
            masks: For each trainable variable an array of zeros and ones.
        """
        with self._strategy.scope():
            for variable, mask in zip(
                self.model.trainable_variables, masks, strict=True
            ):
                variable.assign(variable * mask)
            if self._masks is not None:
                for variable, mask in zip(self._masks, masks, strict=True):
                    variable.assign(mask)
            elif not all(mask.all() for mask in masks):
                self._masks = [
                    tf.Variable(mask, trainable=False, dtype=tf.float32)
                    for mask in masks
                ]

    def restart(self, weights: list[np.ndarray]) -> None:
        """Starts anew from these weights, with what was traced before.

        Weights, the optimizer's state, residuals and meters are as in a new trainer.

        Args:
            weights: For each trainable variable an array of its shape, not yet pruned:
                call `prune` after it.
        """
        with self._strategy.scope():
            for variables, values in (
                (self.model.trainable_variables, weights),
                (self.optimizer.variables, self._fresh),
            ):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)
        self.optimizer.forget()
        self._meters_since()
        self.steps = 0

    def compile(self) -> None:
        """Traces the training step; after `prune`, before the first `run`."""
        self._steps = tf.function(
            self._single_step if self.steps_per_call == 1 else self._many_steps,
            input_signature=[tf.TensorSpec((None, self._batch_size), tf.int32)],
        ).get_concrete_function()

    def run(self, rows: np.ndarray) -> None:
        """Trains one step for each row.

        Args:
            rows: int32 (steps, batch_size), positions in the training split; the same
                on all workers.

        Raises:
            tf.errors.InvalidArgumentError: a gradient was not finite and the optimizer
                looks out for that.
        """
        self._steps(tf.constant(rows))
        self.steps += len(rows)

    def read_meters(self) -> Score:
        """Mean training loss and accuracy since the last reading. Collective."""
        loss, correct, steps = self._meters_since().numpy().tolist()
        if not steps:
            raise RuntimeError("`read_meters` needs a step since the last reading.")
        # `steps` counts each replica's.
        return Score(loss * self._replicas / steps, correct / (steps * self._slice))

    def evaluate(self, split: DeviceSplit) -> Score:
        """Mean loss and accuracy over a whole split. Collective.

        Each replica takes one stretch of the split.
        """
        if split not in self._evaluations:
            self._evaluations[split] = tf.function(lambda: self._totals(split))
        loss, correct = self._evaluations[split]().numpy().tolist()
        return Score(loss / split.examples, correct / split.examples)

    def _single_step(self, rows: tf.Tensor) -> None:
        self._strategy.run(self._step, args=(rows[0],))

    def _many_steps(self, rows: tf.Tensor) -> None:
        for i in tf.range(tf.shape(rows)[0]):
            self._strategy.run(self._step, args=(rows[i],))

    def _step(self, rows: tf.Tensor) -> None:
        """One replica's part in one step. rows: int32 (batch_size,)."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        start = replica * self._slice
        images, labels = self._train.take(rows[start : start + self._slice])
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            loss = tf.reduce_mean(cross_entropy(labels, logits)) / self._replicas
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        if self._masks is not None:
            gradients = [g * m for g, m in zip(gradients, self._masks, strict=True)]
        self.optimizer.apply(gradients, variables)
        self._meters.assign_add(tf.stack([loss, count_correct(labels, logits), 1.0]))

    def _read_and_reset_meters(self) -> tf.Tensor:
        def replica() -> tf.Tensor:
            values = self._meters.read_value()
            with tf.control_dependencies([values]):
                self._meters.assign(tf.zeros(3))
            return values

        return self._strategy.reduce("SUM", self._strategy.run(replica), axis=None)

    def _totals(self, split: DeviceSplit) -> tf.Tensor:
        """Sum of losses and number of correct answers over a split: float32 (2,)."""

        def replica() -> tf.Tensor:
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            first = split.examples * index // self._replicas
            last = split.examples * (index + 1) // self._replicas
            totals = tf.zeros(2)
            for start in tf.range(first, last, EVALUATION_BATCH):
                stop = tf.minimum(start + EVALUATION_BATCH, last)
                images, labels = split.take(tf.range(start, stop))
                logits = self.model(images, training=False)
                losses = tf.reduce_sum(cross_entropy(labels, logits))
                totals += tf.stack([losses, count_correct(labels, logits)])
            return totals

        return self._strategy.reduce("SUM", self._strategy.run(replica), axis=None)
