"""Tensors of which every replica keeps a value of its own between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tem_tf.layout import Segments, each


class ReplicaState:
    """Named variables that differ between replicas and that nobody else tracks.

    Under a strategy each is one variable per replica, never synchronised, to be read
    and assigned in replica context alone. They are not part of a model's checkpoint:
    TensorFlow would sum them or refuse (it cannot save a per-replica value).

    What belongs to a variable of the model is reached by its segment and named by its
    path, so that it survives a change of the set of trained variables. How that is
    stored is this class's own business.
    """

    def __init__(self):
        self._variables: dict[str, tf.Variable] = {}
        self._starts: dict[str, tf.Tensor | None] = {}  # None: all zeros.

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def add(self, name: str, initial_value: tf.Tensor) -> None:
        """Makes a variable, if there is none of that name yet."""
        if name in self._variables:
            return
        # No wider than a byte each: a count would take eight.
        starts_at_zero = not bool(tf.reduce_any(tf.cast(initial_value, tf.bool)))
        self._starts[name] = None if starts_at_zero else initial_value
        self._variables[name] = tf.Variable(
            initial_value,
            trainable=False,
            name=name.replace(":", "_"),
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.NONE,
        )

    def read(self, name: str) -> tf.Tensor:
        """This replica's value."""
        return self._variables[name].read_value()

    def assign(self, name: str, value: tf.Tensor) -> None:
        """Sets this replica's value."""
        self._variables[name].assign(value)

    def add_to(self, name: str, value: tf.Tensor) -> None:
        """Adds to this replica's value."""
        self._variables[name].assign_add(value)

    def add_each(
        self, key: str, segments: Segments, vectors: Sequence[tf.Tensor]
    ) -> None:
        """Makes what is called `key` of each segment, unless it is there."""
        each(self.add, _names(key, segments), vectors)

    def read_each(self, key: str, segments: Segments) -> list[tf.Tensor]:
        """This replica's vectors, one for each segment."""
        return each(self.read, _names(key, segments))

    def assign_each(
        self, key: str, segments: Segments, vectors: Sequence[tf.Tensor]
    ) -> None:
        """Sets this replica's vectors."""
        each(self.assign, _names(key, segments), vectors)

    def handles(self, key: str, segments: Segments) -> list[tf.Tensor]:
        """Handles of this replica's variables, for ops that update them in place."""
        return [self._variables[name].handle for name in _names(key, segments)]

    def is_on_cpu(self, key: str, segments: Segments) -> bool:
        """Whether this replica's vectors are in a CPU's memory."""
        devices = [self._variables[name].device for name in _names(key, segments)]
        types = {tf.DeviceSpec.from_string(device).device_type for device in devices}
        return types <= {None, "CPU"}

    def reset(self) -> None:
        """Gives every variable its initial value; replica context."""
        for name, variable in self._variables.items():
            start = self._starts[name]
            value = variable.read_value()
            variable.assign(tf.zeros_like(value) if start is None else start)


def _names(key: str, segments: Segments) -> list[str]:
    return [f"{key}/{segment.name}" for segment in segments]


def unique_names(variables: Sequence[Any]) -> list[str]:
    """Paths of Keras variables; plain tf.Variables may share a name."""
    names: list[str] = []
    for variable in variables:
        path = name = getattr(variable, "path", None) or variable.name
        repeated = 0
        while name in names:
            repeated += 1
            name = f"{path}#{repeated}"
        names.append(name)
    return names
