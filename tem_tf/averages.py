"""Variables of which replicas take the mean now and then, such as moving statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.instance_keys import Use


class Averages:
    """Float variables that each replica has for itself.

    Args:
        use: Whose instance keys are taken.
    """

    def __init__(self, use: Use):
        self._use = use
        self._variables: list[Any] = []

    def add(self, variables: Sequence[Any]) -> None:
        """Takes in those that are not among them yet."""
        known = {id(variable) for variable in self._variables}
        self._variables += [v for v in variables if id(v) not in known]

    def take(self) -> None:
        """Sets all to their means over replicas: one collective; replica context."""
        ops = SparsifiedCrossDeviceOps.of(tf.distribute.get_strategy())
        if not self._variables or ops.replicas() == 1:
            return
        values = [
            tf.reshape(tf.cast(tf.convert_to_tensor(v), tf.float32), [-1])
            for v in self._variables
        ]
        total = ops.reduce_values(tf.concat(values, axis=0), self._use)
        parts = tf.split(total / ops.replicas(), [int(v.shape[0]) for v in values])
        for variable, mean in zip(self._variables, parts, strict=True):
            variable.assign(tf.cast(tf.reshape(mean, variable.shape), variable.dtype))
