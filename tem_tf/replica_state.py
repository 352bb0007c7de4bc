"""Tensors of which every replica keeps a value of its own between steps."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tem_tf._collective_internals import without_broadcasts
from tem_tf.layout import Segments, each


class ReplicaState:
    """Named variables that differ between replicas and that nobody else tracks.

    Under a strategy each is one variable per replica, never synchronised, to be read
    and assigned in replica context alone. TensorFlow's checkpoints would sum them or
    refuse, so each worker saves its own (`values`, `restore`).

    What belongs to a variable of the model is reached by its segment and named by its
    path, so that it survives a change of the set of trained variables. How that is
    stored is this class's own business.
    """

    def __init__(self):
        self._variables: dict[str, tf.Variable] = {}
        self._starts: dict[str, tf.Tensor | None] = {}  # None: all zeros.
        self._unsaved: set[str] = set()
        # Restored values of variables that are not made yet, of each replica here.
        self._waiting: list[dict[str, np.ndarray]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def add(
        self,
        name: str,
        initial_value: tf.Tensor,
        saved: bool = True,
        is_alike: bool = False,
    ) -> None:
        """Makes a variable, if there is none of that name yet.

        Args:
            name: By which it is reached.
            initial_value: Of what `restore` has not set.
            saved: Whether it outlives this process (`values`).
            is_alike: Whether its initial value is the same on all workers by what it
                is. Else that of the chief is sent to the others.
        """
        if name in self._variables:
            return
        # No wider than a byte each: a count would take eight.
        starts_at_zero = not bool(tf.reduce_any(tf.cast(initial_value, tf.bool)))
        self._starts[name] = None if starts_at_zero else initial_value
        with without_broadcasts() if is_alike else contextlib.nullcontext():
            self._variables[name] = tf.Variable(
                initial_value,
                trainable=False,
                name=name.replace(":", "_"),
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.NONE,
            )
        if not saved:
            self._unsaved.add(name)
        for replica, values in enumerate(self._waiting):
            if name in values:
                self._set(name, replica, values.pop(name))

    def read(self, name: str) -> tf.Tensor:
        """This replica's value."""
        return self._variables[name].read_value()

    def assign(self, name: str, value: tf.Tensor) -> None:
        """Sets this replica's value."""
        self._variables[name].assign(value)

    def add_to(self, name: str, value: tf.Tensor) -> None:
        """Adds to this replica's value."""
        self._variables[name].assign_add(value)

    def here(self, name: str) -> list[np.ndarray]:
        """The values of all replicas of this process; outside `strategy.run`."""
        return [value.numpy() for value in values_here(self._variables[name])]

    def add_each(
        self,
        key: str,
        segments: Segments,
        vectors: Sequence[tf.Tensor],
        is_alike: bool = False,
    ) -> None:
        """Makes what is called `key` of each segment, unless it is there."""
        add = functools.partial(self.add, is_alike=is_alike)
        each(add, _names(key, segments), vectors)

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

    def values(self) -> list[dict[str, np.ndarray]]:
        """Copies of all values by name, for each replica of this process.

        Outside `strategy.run`.
        """
        names = [name for name in self._variables if name not in self._unsaved]
        each_replica = [values_here(self._variables[name]) for name in names]
        found = [
            {
                name: np.array(value.numpy())
                for name, value in zip(names, values, strict=True)
            }
            for values in zip(*each_replica, strict=True)
        ]
        # Of variables that this process has not come to yet.
        for here, waiting in zip(found, self._waiting, strict=False):
            here.update(waiting)
        return found

    def restore(self, values: Sequence[dict[str, np.ndarray]]) -> None:
        """Sets what `values` returned, now or where the variable is made.

        Raises:
            ValueError: a variable has another shape.
        """
        self._waiting = [dict(each_replica) for each_replica in values]
        for replica, waiting in enumerate(self._waiting):
            for name in [name for name in waiting if name in self._variables]:
                self._set(name, replica, waiting.pop(name))

    def _set(self, name: str, replica: int, value: np.ndarray) -> None:
        variable = values_here(self._variables[name])[replica]
        if tuple(variable.shape) != value.shape:
            raise ValueError(
                f"What was saved as {name!r} must have the shape "
                f"{tuple(variable.shape)}. Received: {value.shape}"
            )
        variable.assign(value)

    def reset(self) -> None:
        """Gives every variable its initial value; replica context."""
        self._waiting = []
        for name, variable in self._variables.items():
            start = self._starts[name]
            value = variable.read_value()
            variable.assign(tf.zeros_like(value) if start is None else start)


def _names(key: str, segments: Segments) -> list[str]:
    return [f"{key}/{segment.name}" for segment in segments]


def values_here(variable: Any) -> tuple[Any, ...]:
    """The variables of this process's replicas that one of a strategy stands for."""
    raw = getattr(variable, "value", variable)  # A Keras variable's own.
    raw = variable if callable(raw) else raw
    if isinstance(raw, tf.distribute.DistributedValues):
        return raw.values
    return (raw,)


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
