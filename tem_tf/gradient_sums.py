"""What stands in an inner optimizer in the place of its own all-reduce."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.aggregation import Aggregator
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.empty_batches import batch_is_empty
from tem_tf.instance_keys import Use, new_owner
from tem_tf.layout import Gradient, reals, values_of, when_ready, with_values
from tem_tf.outcome import Summed
from tem_tf.replica_state import unique_names


class GradientSums:
    """Sums the gradients of an inner optimizer over replicas, by an aggregator.

    Where that has nothing to do, the optimizer's own all-reduce does it, and the step
    is counted alone.

    Args:
        inner: `keras.optimizers.Optimizer`, whose all-reduce is replaced.
        aggregator: Sums, or counts.
    """

    def __init__(self, inner: keras.optimizers.Optimizer, aggregator: Aggregator):
        self.inner, self.aggregator = inner, aggregator
        self._paths: dict[Any, str] = {}
        self._are_given = False
        self._use = Use(new_owner())
        self._inner_all_reduce = _internals.replace_all_reduce(inner, self._all_reduce)

    def name(self, variables: Sequence[Any]) -> list[str]:
        """Gives names to variables, by which their gradients are known from now on."""
        names = unique_names(variables)
        for variable, name in zip(variables, names, strict=True):
            self._paths[_internals.variable_key(self.inner, variable)] = name
        return names

    def names(self, variables: Sequence[Any]) -> list[str]:
        """The names that variables were given.

        Raises:
            ValueError: one of them has none.
        """
        keys = [_internals.variable_key(self.inner, v) for v in variables]
        if not all(key in self._paths for key in keys):
            raise ValueError(
                "An optimizer that is wrapped belongs to its SparsifiedOptimizer. It "
                f"cannot be used by itself. Received: {self.inner.name!r} with "
                "variables that the wrapper was not built for."
            )
        return [self._paths[key] for key in keys]

    def sum(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], may_skip: bool
    ) -> Summed:
        """Sums gradients over replicas; replica context.

        Args:
            gradients: This replica's.
            variables: Theirs.
            may_skip: Whether it is to be known whether they are finite.
        """
        names, step = self.names(variables), self._iterations()
        if not self.aggregator.options.leave_gradients_alone:
            return self.aggregator.aggregate_or_skip(gradients, step, names)
        with when_ready(gradients):  # Before any other collective.
            self.aggregator.meet(step)
        pairs = self._inner_all_reduce(list(zip(gradients, variables, strict=True)))
        sums = [gradient for gradient, _ in pairs]
        nonfinite, empty = tf.constant(0), tf.constant(0)
        if may_skip:  # NaN and Inf stay what they are in a sum.
            nonfinite = 1 - tf.cast(all_finite(sums), tf.int32)
            empty = self._empty_batches(nonfinite)
        with when_ready(gradients):
            self.aggregator.add_dense_step(names, nonfinite)
        return Summed(sums, nonfinite, empty)

    @contextlib.contextmanager
    def given(self) -> Iterator[None]:
        """While the inner optimizer is given sums: nothing is summed or clipped."""
        self._are_given = True
        try:
            with _internals.without_clipping(self.inner):
                yield
        finally:
            self._are_given = False

    def _all_reduce(self, grads_and_vars: Sequence[tuple]) -> Sequence[tuple]:
        if self._are_given or tf.distribute.in_cross_replica_context():
            # Keras sums nothing in cross-replica context.
            return grads_and_vars
        gradients, variables = zip(*grads_and_vars, strict=True)
        sums = self.sum(gradients, variables, may_skip=False).gradients
        return list(zip(sums, variables, strict=True))

    def _empty_batches(self, nonfinite: tf.Tensor) -> tf.Tensor:
        """Replicas whose batch is empty: int32; 0 where that need not be known."""
        is_empty = batch_is_empty()
        if is_empty is None:
            return tf.constant(0)
        ops = SparsifiedCrossDeviceOps.of(tf.distribute.get_strategy())
        own = tf.cast(is_empty, tf.int32)[tf.newaxis]
        return ops.cond(
            nonfinite > 0,
            lambda: ops.reduce_values(own, self._use)[0],
            lambda: tf.constant(0),
        )

    def _iterations(self) -> tf.Tensor:
        return tf.convert_to_tensor(_internals.raw_iterations(self.inner))


def all_finite(gradients: Sequence[Gradient]) -> tf.Tensor:
    """Whether no entry is NaN or Inf: bool scalar."""
    checks = [
        tf.reduce_all(tf.math.is_finite(real))
        for gradient in gradients
        for real in reals(values_of(gradient))
        if real.dtype.is_floating
    ]
    return tf.reduce_all(tf.stack([True, *checks]))


def own_gradients(
    gradients: Sequence[Gradient], are_divided: bool, zeroes: bool
) -> list[Gradient]:
    """A replica's own gradients, undivided.

    Args:
        gradients: As Keras has them.
        are_divided: Whether Keras has divided them by the number of replicas.
        zeroes: Whether they become zero where one of them is not finite.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if are_divided and replicas > 1:
        gradients = [with_values(g, values_of(g) * replicas) for g in gradients]
    if zeroes:
        finite = all_finite(gradients)
        gradients = [
            with_values(g, tf.where(finite, values_of(g), 0)) for g in gradients
        ]
    return list(gradients)
