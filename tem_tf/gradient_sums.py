"""What stands in an inner optimizer in the place of its own all-reduce."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.aggregation import Aggregator
from tem_tf.layout import Gradient, reals, values_of, when_ready
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
        names, step = self.names(variables), self._step()
        if not self.aggregator.options.leave_gradients_alone:
            return self.aggregator.aggregate_or_skip(gradients, step, names)
        pairs = self._inner_all_reduce(list(zip(gradients, variables, strict=True)))
        sums = [gradient for gradient, _ in pairs]
        nonfinite = tf.constant(0)
        if may_skip:  # NaN and Inf stay what they are in a sum.
            nonfinite = 1 - tf.cast(all_finite(sums), tf.int32)
        self.aggregator.add_dense_step(step, names, nonfinite)
        return Summed(sums, nonfinite, tf.zeros_like(nonfinite))

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
        variables = [variable for _, variable in grads_and_vars]
        gradients = [gradient for gradient, _ in grads_and_vars]
        names, step = self.names(variables), self._step()
        if self.aggregator.options.leave_gradients_alone:
            with when_ready(gradients):
                self.aggregator.add_dense_step(step, names)
            return self._inner_all_reduce(grads_and_vars)
        aggregated = self.aggregator.aggregate(gradients, step, names)
        return list(zip(aggregated, variables, strict=True))

    def _step(self) -> tf.Tensor:
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
