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

    def add(self, variables: Sequence[Any]) -> bool:
        """Takes in those that are not among them yet. Returns whether there are any."""
        known = {id(variable) for variable in self._variables}
        new = [variable for variable in variables if id(variable) not in known]
        self._variables += new
        return bool(new)

    def take(self) -> None:
        """Sets all to their means over replicas: one collective; replica context.

        A replica with one that is not finite counts for nothing; if all have such, all
        keep their own.
        """
        ops = SparsifiedCrossDeviceOps.of(tf.distribute.get_strategy())
        if not self._variables or ops.replicas() == 1:
            return
        values = [
            tf.reshape(tf.cast(tf.convert_to_tensor(v), tf.float32), [-1])
            for v in self._variables
        ]
        own = tf.concat(values, axis=0)
        finite = tf.reduce_all(tf.math.is_finite(own))
        counted = tf.where(finite, tf.pad(own, [[0, 1]], constant_values=1.0), 0.0)
        total = ops.reduce_values(counted, self._use)
        means = tf.where(total[-1] > 0, total[:-1] / total[-1], own)
        parts = tf.split(means, [int(value.shape[0]) for value in values])
        for variable, mean in zip(self._variables, parts, strict=True):
            variable.assign(tf.cast(tf.reshape(mean, variable.shape), variable.dtype))
