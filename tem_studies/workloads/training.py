"""Training and evaluation of a (pruned) network over the replicas of a strategy.

Every step takes one full global batch; each replica computes on its slice. The loss of
a replica is the mean over its slice divided by the number of replicas, so gradients
reach the optimizer as under Keras's `fit`. Masked entries get no gradient and stay 0.
What loss, metric and evaluation are is the examples' own (examples.py). Where they are
sums over examples a slice is computed in chunks (chunks.py): rounding alone changes.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_studies.workloads.chunks import chunk_size, sum_over_chunks
from tem_studies.workloads.examples import Examples, Share
from tem_studies.workloads.replicas import spans_processes
from tem_studies.workloads.running_mean import RunningMean
from tem_studies.workloads.step_records import StepRecords
from tem_tf.checkpoint import Part, ReplicaStates, ReplicaVariables


class Trainer:
    """A model, its optimizer and its masks, ready to train on device-held examples.

    Args:
        strategy: Where the replicas live. Model and optimizer were made in its scope.
        model: The network that `train` and every other split know how to use.
        optimizer: Built here, on the model's trainable variables.
        train: The training split.
        batch_size: Examples per step, over all replicas; divisible by their number.
        running_mean_period: Steps after which the running mean of the weights starts
            again; 0 keeps none.
        jit_compile: Whether XLA compiles the step; of one replica alone.
        compile_model: Whether it compiles what is before the exchange: the network,
            forward and backward; of any number of replicas.

    Attributes:
        steps: Number of steps taken.
        records: What each of them sent.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        train: Examples,
        batch_size: int,
        running_mean_period: int = 0,
        jit_compile: bool = False,
        compile_model: bool = False,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.steps = 0
        self._strategy = strategy
        self._train = train
        self._replicas = strategy.num_replicas_in_sync
        self._row_width = train.row_width(batch_size)
        self._slice = batch_size // self._replicas
        self._is_compiled = jit_compile or compile_model
        self._one_step = self._step
        if jit_compile:
            self._one_step = tf.function(self._step, jit_compile=True)
        self._gradients_of = self._gradients
        if compile_model:
            self._gradients_of = tf.function(self._gradients, jit_compile=True)
        self._masks: list[tf.Variable] | None = None
        with strategy.scope():
            optimizer.build(model.trainable_variables)
            self._fresh = [variable.numpy() for variable in optimizer.variables]
            train.prepare(batch_size, self._replicas)
            self._mean = None
            if running_mean_period:
                self._mean = RunningMean(_float_variables(model), running_mean_period)
            # Sum of losses, sums of measures, steps: since the last reading, each
            # replica its own.
            self._meters = tf.Variable(
                tf.zeros(train.measures + 2),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
        self.records = StepRecords(strategy, optimizer)
        self._meters_since = tf.function(self._read_and_reset_meters)
        self._synchronised = tf.function(self._average_statistics)
        self._exchanged = tf.function(self._use_means)
        self._evaluations: dict[Examples, tf.types.experimental.GenericFunction]
        self._evaluations = {}

    @property
    def steps_per_call(self) -> int:
        """Most steps that one call of `run` may take.

        One between processes: the collectives of a call are numbered by the call and
        the step in it, so all workers must take equally many steps in it, and each
        chooses their number by its own clock.
        """
        return 1 if spans_processes(self._strategy) else sys.maxsize

    def prune(self, masks: list[np.ndarray]) -> None:
        """Sets masked entries to 0, for good. Call it before `compile`.

        Once pruned, a network may be pruned again by other masks, after `restart`.

        Args:
            masks: For each trainable variable an array of zeros and ones.
        """

        def prune_weights() -> None:
            # Each replica its own, which may have moved by itself.
            for variable, mask in zip(
                self.model.trainable_variables, masks, strict=True
            ):
                variable.assign(variable * mask)

        self._strategy.run(prune_weights)
        with self._strategy.scope():
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
        self.records.restart()
        self.steps = 0

    def parts(self) -> dict[str, Part]:
        """What a checkpoint holds beside model and optimizer."""
        parts: dict[str, Part] = {
            "meters": ReplicaVariables(lambda: [self._meters], "sum")
        }
        if self._mean is not None:
            parts["running_mean"] = ReplicaStates(self._mean.state, "mean")
        if self._train.carried is not None:
            parts["carried"] = ReplicaStates(self._train.carried, "rows")
        return parts

    def go_on_from(self, steps: int) -> None:
        """Takes notice that all was restored as it was after so many steps."""
        self.steps = steps
        self.records.go_on()

    def compile(self) -> None:
        """Traces the training step; after `prune`, before the first `run`."""
        self._steps = tf.function(
            self._single_step if self.steps_per_call == 1 else self._many_steps,
            input_signature=[
                tf.TensorSpec((None, self._row_width), tf.int32),
                tf.TensorSpec((), tf.int64),
            ],
        ).get_concrete_function()

    def run(self, rows: np.ndarray) -> None:
        """Trains one step for each row.

        Args:
            rows: int32 (steps, row width), for images (steps, batch_size), positions in
                the training split; the same on all workers.

        Raises:
            tf.errors.InvalidArgumentError: a gradient was not finite and the optimizer
                looks out for that.
        """
        self._steps(tf.constant(rows), tf.constant(self.steps, tf.int64))
        self.steps += len(rows)
        self.records.taken(len(rows))

    def read_meters(self) -> Any:
        """Training's score since the last reading. Collective."""
        loss, *sums, steps = self._meters_since().numpy().tolist()
        if not steps:
            raise RuntimeError("`read_meters` needs a step since the last reading.")
        # `steps` counts each replica's.
        means = [x / (steps * self._slice) for x in sums]
        return self._train.score(loss * self._replicas / steps, *means)

    def evaluate(self, split: Examples) -> Any:
        """The score over a whole split. Collective.

        Each replica takes one stretch of the split.
        """
        self.synchronise()
        if split not in self._evaluations:
            self._evaluations[split] = tf.function(lambda: self._totals(split))
        totals = self._evaluations[split]().numpy().tolist()
        return split.score(*(total / split.examples for total in totals))

    def evaluate_running_mean(self, split: Examples) -> Any:
        """The score of the running mean of the weights. Collective.

        Batch-norm statistics are the running means of theirs.
        """
        if self._mean is None:
            raise RuntimeError("`evaluate_running_mean` needs `running_mean_period`.")
        self.synchronise()
        variables = _float_variables(self.model)
        last = [variable.numpy() for variable in variables]
        self._exchanged()
        try:
            return self.evaluate(split)
        finally:
            with self._strategy.scope():
                for variable, value in zip(variables, last, strict=True):
                    variable.assign(value)

    def synchronise(self) -> None:
        """Averages batch-norm moving statistics over replicas. Collective.

        TensorFlow's strategies leave each replica its own. Before an evaluation and
        before the model is saved. Weights, too, where workers have their own.
        """
        if isinstance(self.optimizer, tem_tf.LocalUpdates):
            self.optimizer.synchronise()
        if self._replicas > 1 and _statistics(self.model):
            self._synchronised()

    def _single_step(self, rows: tf.Tensor, first: tf.Tensor) -> None:
        self._strategy.run(self._one_step, args=(rows[0], first))

    def _many_steps(self, rows: tf.Tensor, first: tf.Tensor) -> None:
        for i in tf.range(tf.shape(rows, tf.int64)[0]):
            self._strategy.run(self._one_step, args=(rows[i], first + i))

    def _step(self, rows: tf.Tensor, step: tf.Tensor) -> None:
        """One replica's part in one step.

        Args:
            rows: int32 (row width,).
            step: int64 scalar, the steps taken before: not the optimizer's
                `iterations`, which are updates.
        """
        variables = self.model.trainable_variables
        *gradients, score = self._gradients_of(rows, self._share(step))
        if self._masks is not None:
            gradients = [g * m for g, m in zip(gradients, self._masks, strict=True)]
        self.optimizer.apply(gradients, variables)
        self.records.note()
        if self._mean is not None:
            self._mean.update(step)
        self._meters.assign_add(tf.concat([score, [1.0]], axis=0))

    def _gradients(self, rows: tf.Tensor, share: Share) -> list[tf.Tensor]:
        """Gradients of a replica's loss; behind them the loss and the measures."""
        variables = self.model.trainable_variables

        def of(rows: tf.Tensor, share: Share, weight: float) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                mean, sums = self._train.learn(self.model, rows, share)
                loss = mean * weight
                scaled = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(
                scaled, [variable.value for variable in variables]
            )
            return [*gradients, tf.concat([[loss], sums], axis=0)]

        # Batch norm and dropout, which keep variables for themselves, need it whole;
        # XLA compiles no loop that runs chunks side by side.
        whole = bool(self.model.non_trainable_variables) or not self._train.is_additive
        whole = whole or self._is_compiled
        size = self._slice if whole else chunk_size(self._slice)
        if size == self._slice or self._slice % size:
            return of(rows, share, 1 / self._replicas)

        def of_chunk(start: tf.Tensor, stop: tf.Tensor) -> list[tf.Tensor]:
            del stop  # All chunks are of one size.
            first = share.replica * self._slice + start
            chunk = tf.ensure_shape(rows[first : first + size], (size,))
            weight = size / (self._slice * self._replicas)
            return of(chunk, Share(0, 1, share.step), weight)

        measures = (self._train.measures + 1,)
        shapes = [*(variable.shape for variable in variables), measures]
        return sum_over_chunks(of_chunk, shapes, 0, self._slice, size)

    def _share(self, step: tf.Tensor | int = 0) -> Share:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return Share(replica, self._replicas, step)

    def _read_and_reset_meters(self) -> tf.Tensor:
        def replica() -> tf.Tensor:
            values = self._meters.read_value()
            with tf.control_dependencies([values]):
                self._meters.assign(tf.zeros_like(values))
            return values

        return self._strategy.reduce("SUM", self._strategy.run(replica), axis=None)

    def _totals(self, split: Examples) -> tf.Tensor:
        """Sums over a split: float32, the loss first."""
        totals = self._strategy.run(lambda: split.totals(self.model, self._share()))
        return self._strategy.reduce("SUM", totals, axis=None)

    def _average_statistics(self) -> None:
        def replica() -> None:
            context = tf.distribute.get_replica_context()
            variables = _statistics(self.model)
            # One vector, so one collective.
            flat = [tf.reshape(tf.convert_to_tensor(v.value), [-1]) for v in variables]
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.concat(flat, 0))
            parts = tf.split(total / self._replicas, [part.shape[0] for part in flat])
            for variable, part in zip(variables, parts, strict=True):
                variable.value.assign(tf.reshape(part, variable.shape))

        self._strategy.run(replica)

    def _use_means(self) -> None:
        self._strategy.run(self._mean.assign_to_variables)


def _statistics(model: keras.Model) -> list[keras.Variable]:
    """What training changes beside the trained variables: batch-norm statistics."""
    return [v for v in model.non_trainable_variables if v.dtype == "float32"]


def _float_variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.trainable_variables, *_statistics(model)]
