"""What workers of LocalUpdates exchange, how far their weights have moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.aggregation import Aggregator
from tem_tf.averages import Averages
from tem_tf.gradient_sums import all_finite
from tem_tf.local_beginning import Beginning, value_here


class LocalExchange:
    """Has the outer optimizer take the mean movement of all workers for a gradient.

    Args:
        aggregator: Sums what has moved.
        began: The weights from which all have moved.
        inner: `keras.optimizers.Optimizer`. Each worker's own.
        outer: `keras.optimizers.Optimizer`. Of the common weights.
        statistics: Become their means at an exchange.
        reset_slots: Whether slots that are not finite become zero.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        began: Beginning,
        inner: keras.optimizers.Optimizer,
        outer: keras.optimizers.Optimizer,
        statistics: Averages,
        reset_slots: bool,
    ):
        self._aggregator, self._began = aggregator, began
        self._inner, self._outer, self._statistics = inner, outer, statistics
        self.nonfinite = aggregator.options.nonfinite
        self._resets = reset_slots and self.nonfinite == "zero"

    def number(self) -> tf.Tensor:
        """How many exchanges there were: int64 scalar."""
        iterations = _internals.raw_iterations(self._outer)
        return tf.cast(tf.convert_to_tensor(iterations), tf.int64)

    def whole(self, trained: Mapping[str, Any]) -> None:
        """Makes weights common again; replica context, on all replicas.

        Args:
            trained: Variables by name.
        """
        # 1 The mean of what has moved, as far as replicas have sent it.
        moved = self.moved(trained)
        finite = self.is_finite(moved)
        means = self.mean_of(moved, trained)
        # 2 The outer optimizer's step, from where all began.
        self.take_outer_step(means, trained)
        # 3 What goes beside.
        self.reset_slots_unless(finite)
        self.average_statistics()
        self._began.forget_steps()

    def moved(self, trained: Mapping[str, Any]) -> list[tf.Tensor]:
        """How far this replica has come, in the sense of a gradient: before - now."""
        before = self._began.weights(list(trained))
        variables = trained.values()
        return [b - value_here(v) for b, v in zip(before, variables, strict=True)]

    def mean_of(
        self, moved: Sequence[tf.Tensor], trained: Mapping[str, Any]
    ) -> list[tf.Tensor]:
        """The mean over replicas of what has moved; on all of them."""
        sums = self._aggregator.aggregate(moved, self.number(), list(trained))
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return [total / replicas for total in sums]

    def take_outer_step(
        self, means: Sequence[tf.Tensor], trained: Mapping[str, Any]
    ) -> None:
        """Sets variables to what all have in common: after the outer step."""
        before, variables = self._began.weights(list(trained)), list(trained.values())
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        self._outer.apply(list(means), variables)

    def is_finite(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Whether tensors are, and this replica's slots: bool scalar."""
        return all_finite([*tensors, *map(value_here, _internals.slots(self._inner))])

    def reset_slots_unless(self, finite: tf.Tensor) -> None:
        """Sets slots to zero if they were to be, on a replica that is not finite."""
        if self._resets:
            for slot in _internals.slots(self._inner):
                value = value_here(slot)
                slot.assign(tf.where(finite, value, tf.zeros_like(value)))

    def average_statistics(self) -> None:
        """Moving statistics become their means."""
        self._statistics.take()
