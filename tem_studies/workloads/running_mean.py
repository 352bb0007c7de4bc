"""The running mean of the weights: w̄ ← w̄ + (w - w̄)/t, t steps after its last reset."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tem_tf.replica_state import ReplicaState


class RunningMean:
    """The mean of variables over the steps since it was last reset.

    Each replica keeps its own. Means of trained variables are equal on all replicas;
    those of batch-norm statistics are not, as the statistics are not.

    Args:
        variables: float32, read after every step.
        period: Steps between two resets; the mean starts again with the next weights.

    Attributes:
        state: Each replica's.
    """

    def __init__(self, variables: Sequence[keras.Variable], period: int) -> None:
        self._variables = variables
        self._period = period
        self.state = ReplicaState()
        for i, variable in enumerate(variables):
            self.state.add(f"mean_{i}", tf.zeros(variable.shape))

    def update(self, step: tf.Tensor) -> None:
        """Takes in the weights of step `step` (int64, from 0); replica context."""
        count = tf.cast(step % self._period + 1, tf.float32)
        for i, variable in enumerate(self._variables):
            mean = self.state.read(f"mean_{i}")
            mean += (tf.convert_to_tensor(variable.value) - mean) / count
            self.state.assign(f"mean_{i}", mean)

    def assign_to_variables(self) -> None:
        """Puts the means in the place of the weights; replica context."""
        for i, variable in enumerate(self._variables):
            variable.value.assign(self.state.read(f"mean_{i}"))
