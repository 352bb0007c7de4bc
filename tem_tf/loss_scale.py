"""By what a loss is multiplied, so that its gradients do not vanish in float16."""

from __future__ import annotations

import math
import numbers

import tensorflow as tf

from tem_tf.replica_state import ReplicaState

DYNAMIC = "dynamic"
_SCALE, _FINITE_STEPS = "loss_scale/scale", "loss_scale/finite_steps"
_LEAST = 1.0  # What overflows below this does so by itself.


def check_loss_scale(loss_scale: str | float | None) -> None:
    """Refuses what is no scale.

    Raises:
        ValueError: it is not None, "dynamic" or a finite number > 0.
    """
    in_range = (
        isinstance(loss_scale, numbers.Real)
        and not isinstance(loss_scale, bool)
        and 0 < float(loss_scale) < math.inf
    )
    if not (loss_scale is None or loss_scale == DYNAMIC or in_range):
        raise ValueError(
            '`loss_scale` must be "dynamic", a finite number > 0, or None. '
            f"Received: loss_scale={loss_scale!r}"
        )


class LossScale:
    """A constant, or what follows the gradients, as Keras's LossScaleOptimizer has it.

    "dynamic": half as much after a step that overflows, down to 1; twice as much after
    `growth_steps` steps without one. Equal on all replicas.

    Args:
        loss_scale: "dynamic", or a finite number > 0.
        state: Where it is kept.
        initial: Float > 0. A dynamic scale's first value.
        growth_steps: Int >= 1.
    """

    def __init__(
        self,
        loss_scale: str | float,
        state: ReplicaState,
        initial: float = 2.0**15,
        growth_steps: int = 2000,
    ):
        self._dynamic = loss_scale == DYNAMIC
        self._initial = initial if loss_scale == DYNAMIC else float(loss_scale)
        self._growth_steps = growth_steps
        self._state = state

    def build(self) -> None:
        """Makes its variables, once; in the strategy's scope."""
        if self._dynamic:
            self._state.add(_SCALE, tf.constant(self._initial))
            self._state.add(_FINITE_STEPS, tf.constant(0), is_alike=True)

    def read(self) -> tf.Tensor:
        """float32 scalar; replica context."""
        if self._dynamic and _SCALE in self._state:
            return self._state.read(_SCALE)
        return tf.constant(self._initial)

    def may_be_at_fault(self) -> tf.Tensor:
        """Whether a step may have overflowed by the scale: bool scalar."""
        return self.read() > _LEAST if self._dynamic else tf.constant(True)

    def update(self, overflow: tf.Tensor) -> None:
        """Takes notice of a step; replica context.

        Args:
            overflow: Bool scalar, equal on all replicas.
        """
        if not self._dynamic:
            return
        scale, steps = self._state.read(_SCALE), self._state.read(_FINITE_STEPS) + 1
        grows = tf.logical_and(steps >= self._growth_steps, scale < 2.0**126)
        grown = tf.where(grows, 2.0 * scale, scale)
        smaller = tf.minimum(scale, tf.maximum(0.5 * scale, _LEAST))
        self._state.assign(_SCALE, tf.where(overflow, smaller, grown))
        starts_anew = tf.logical_or(overflow, steps >= self._growth_steps)
        self._state.assign(_FINITE_STEPS, tf.where(starts_anew, 0, steps))
