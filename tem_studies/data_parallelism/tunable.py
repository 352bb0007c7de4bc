"""An optimizer whose metaparameters are variables, so that a new trial traces nothing.

With learning rate η, decay steps T and end factor f, the rate of step t is

    constant   η
    linear     η · ((1 - f)(1 - min(t, T) / T) + f)
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import tensorflow as tf

from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.exchanging_optimizers import sparsified
from tem_studies.workloads.optimizers import OPTIMIZERS

TUNABLE = ("learning_rate", "momentum", "decay_steps", "end_learning_rate_factor")


class _Decay(keras.optimizers.schedules.LearningRateSchedule):
    """The rate above, of variables."""

    def __init__(self, values: Mapping[str, tf.Variable], is_linear: bool) -> None:
        self._values = values
        self._is_linear = is_linear

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        rate = self._values["learning_rate"].read_value()
        if not self._is_linear:
            return rate
        steps = self._values["decay_steps"]
        end = self._values["end_learning_rate_factor"] * rate
        step = tf.minimum(tf.cast(step, tf.float32), steps)
        return (rate - end) * (1.0 - step / steps) + end


class TunableOptimizer:
    """Holds a configuration's optimizer and the variables that steer it.

    Args:
        configuration: Names the optimizer, the kind of decay, the compressor, and the
            first values. Make it in the scope of the strategy.

    Attributes:
        optimizer: The wrapped optimizer. It has no configuration to save.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._values = {
            name: tf.Variable(getattr(configuration, name), False, dtype=tf.float32)
            for name in TUNABLE
        }
        decay = _Decay(self._values, configuration.decay_type == "linear")
        make = OPTIMIZERS[configuration.optimizer]
        inner = make(decay, self._values["momentum"], configuration)
        self.optimizer = sparsified(inner, configuration)

    def set(self, configuration: Configuration) -> None:
        """Takes over another configuration's values, the optimizer being the same."""
        for name, variable in self._values.items():
            variable.assign(getattr(configuration, name))
