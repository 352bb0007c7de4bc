"""Tensors of which every replica keeps a value of its own between steps."""

from __future__ import annotations

import tensorflow as tf


class ReplicaState:
    """Named variables that differ between replicas and that nobody else tracks.

    Under a strategy each is one variable per replica, never synchronised, to be read
    and assigned in replica context alone. They are not part of a model's checkpoint:
    TensorFlow would sum them or refuse (it cannot save a per-replica value).
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

    def handle(self, name: str) -> tf.Tensor:
        """The handle of this replica's variable, for ops that update it in place."""
        return self._variables[name].handle

    def is_on_cpu(self, name: str) -> bool:
        """Whether this replica's variable is in a CPU's memory."""
        device = tf.DeviceSpec.from_string(self._variables[name].device)
        return device.device_type in (None, "CPU")

    def assign(self, name: str, value: tf.Tensor) -> None:
        """Sets this replica's value."""
        self._variables[name].assign(value)

    def add_to(self, name: str, value: tf.Tensor) -> None:
        """Adds to this replica's value."""
        self._variables[name].assign_add(value)

    def reset(self) -> None:
        """Gives every variable its initial value; replica context."""
        for name, variable in self._variables.items():
            start = self._starts[name]
            value = variable.read_value()
            variable.assign(tf.zeros_like(value) if start is None else start)
