"""Where workers began, all with the same weights, to take steps by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tem_tf import _internals
from tem_tf.replica_state import ReplicaState

_STEPS = "local_updates/steps"
_WEIGHTS = "local_updates/snapshot"


class Beginning:
    """The last weights that all replicas had in common, and steps taken since.

    All but `taken_here` in replica context.

    Args:
        state: Where both are kept.
    """

    def __init__(self, state: ReplicaState):
        self._state = state
        self._names: list[str] = []

    def build(self, variables: Sequence[Any], names: Sequence[str]) -> None:
        """Makes what is kept of variables, once; in the strategy's scope."""
        self._state.add(_STEPS, tf.constant(0), is_alike=True)
        self._names = [f"{_WEIGHTS}/{name}" for name in names]
        for name, variable in zip(self._names, variables, strict=True):
            zeros = tf.zeros(variable.shape, variable.dtype)
            self._state.add(name, zeros, is_alike=True)

    def note_before_first_step(self, variables: Sequence[Any]) -> None:
        """Notes weights if no step was taken since they were common.

        Now and not at the exchange before, after which a callback or a user may have
        set others.
        """

        def note() -> tf.Tensor:
            for name, variable in zip(self._names, variables, strict=True):
                self._state.assign(name, value_here(variable))
            return tf.constant(True)

        with _internals.conditions_as_one_op():
            tf.cond(tf.equal(self.taken(), 0), note, lambda: tf.constant(False))

    def count_step(self) -> tf.Tensor:
        """Counts a local step. Returns their number: int32 scalar."""
        taken = self.taken() + 1
        self._state.assign(_STEPS, taken)
        return taken

    def forget_steps(self) -> None:
        """From now on weights are common again."""
        self._state.assign(_STEPS, tf.constant(0))

    def taken(self) -> tf.Tensor:
        """Local steps since: int32 scalar, equal on all replicas."""
        return self._state.read(_STEPS)

    def taken_here(self) -> int:
        """The same between steps."""
        return int(self._state.here(_STEPS)[0])

    def weights(self, names: Sequence[str]) -> list[tf.Tensor]:
        """The common weights of before, of variables by name."""
        return [self._state.read(f"{_WEIGHTS}/{name}") for name in names]

    def set(self, names: Sequence[str], values: Sequence[tf.Tensor]) -> None:
        """From now on the common weights of some variables are these."""
        for name, value in zip(names, values, strict=True):
            self._state.assign(f"{_WEIGHTS}/{name}", value)

    def common(self, name: str, variable: Any) -> tf.Tensor:
        """What all workers have of a variable: its value now, or where it began."""
        name = f"{_WEIGHTS}/{name}"
        if name not in self._state:  # Nothing was trained yet.
            return value_here(variable)
        began = self.taken() > 0
        return tf.where(began, self._state.read(name), value_here(variable))


def value_here(variable: Any) -> tf.Tensor:
    """This replica's value."""
    return tf.convert_to_tensor(variable)
