"""Sums of gradients over steps that exchange nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tem_tf.layout import (
    COMPRESSED_DTYPES,
    Gradient,
    Segment,
    Segments,
    as_dense,
    each,
    make_segments,
)
from tem_tf.replica_state import ReplicaState

_SUM, _ADDED = "accumulated", "accumulated/steps"


class Accumulator:
    """Adds up gradients of some steps, each replica its own, before any is exchanged.

    Args:
        steps: Int >= 2. Of how many the mean is wanted.
        state: Where sums are kept: float32, or in dtypes that are not compressed.
    """

    def __init__(self, steps: int, state: ReplicaState):
        self._steps, self._state = steps, state

    def build(self, variables: Sequence[Any], names: Sequence[str]) -> None:
        """Makes the sums of variables, once; in the strategy's scope."""
        self._state.add(_ADDED, tf.constant(0), is_alike=True)
        for segment, variable in zip(_table(variables, names), variables, strict=True):
            dtype = tf.as_dtype(variable.dtype)
            dtype = tf.float32 if dtype in COMPRESSED_DTYPES else dtype
            zeros = tf.zeros([segment.size], dtype)
            self._state.add_each(_SUM, (segment,), [zeros], is_alike=True)

    def add(
        self,
        gradients: Sequence[Gradient],
        variables: Sequence[Any],
        names: Sequence[str],
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Adds a step's gradients; replica context.

        Returns:
            Means over steps, of the variables' shapes, and whether they are complete.
        """
        table = _table(variables, names)
        sums = each(_added, self._state.read_each(_SUM, table), gradients, table)
        added = self._state.read(_ADDED) + 1
        complete = added >= self._steps
        self._state.assign(_ADDED, tf.where(complete, 0, added))
        kept = tf.cond(complete, lambda: each(tf.zeros_like, sums), lambda: sums)
        self._state.assign_each(_SUM, table, kept)
        means = each(
            lambda total, segment: tf.reshape(
                tf.cast(total / self._steps, total.dtype), segment.shape
            ),
            sums,
            table,
        )
        return means, complete


def _added(total: tf.Tensor, gradient: Gradient, segment: Segment) -> tf.Tensor:
    """The sum, by a subtraction: a chain of additions has no order in a graph."""
    flat = tf.reshape(as_dense(gradient, segment.shape), [-1])
    return total - tf.negative(tf.cast(flat, total.dtype))


def _table(variables: Sequence[Any], names: Sequence[str]) -> Segments:
    return make_segments(names, [variable.shape for variable in variables])
