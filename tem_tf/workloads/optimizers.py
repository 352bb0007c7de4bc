"""The studies' update equations as Keras optimizers, and learning-rate schedules.

TensorFlow 1 and both studies keep the learning rate η outside the velocity v, Keras's
SGD inside, so that they differ as soon as η changes:

    studies    v ← μv + g            w ← w - ηv
    Keras SGD  v ← μv - ηg           w ← w + v

`OPTIMIZERS` lists what `--optimizer` may name; Keras's own go by their names.
`make_optimizer` wraps one of them for compressed gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import keras

import tem_tf
from tem_tf.compressors import COMPRESSORS
from tem_tf.workloads.configuration import COMPRESSOR_SETTINGS, Configuration

# Flag -> argument, where a compressor's argument has another name than our flag.
_ARGUMENTS = {"topk_scope": "scope"}

LearningRate = float | keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable(package="tem_tf")
class Momentum(keras.optimizers.Optimizer):
    """Momentum with the learning rate outside the velocity (TF 1's MomentumOptimizer).

    With gradient g, weights w, velocity v (0 at the start), learning rate η:

        g ← g + λw                   coupled weight decay
        v ← μv + g
        w ← w - ηv                   or, with `nesterov`, w ← w - η(g + μv)

    Args:
        learning_rate: Float or schedule. η.
        momentum: Float in [0, 1), or a `tf.Variable` that holds one and may be set
            between steps. μ. 0 is plain SGD.
        nesterov: Whether to look ahead. Not the TEM authors' "nesterov", which is
            w ← w - η(g + v).
        coupled_weight_decay: Float >= 0. λ, added to the gradient before the velocity
            (unlike Keras's `weight_decay`, which acts on the weights directly).
        **kwargs: As of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: `momentum` or `coupled_weight_decay` is out of range.

    References:
        tensorflow/python/training/momentum.py and core/kernels/training_ops.cc
        (ApplyMomentum) of TensorFlow; weight decay as in PyTorch's SGD, which the TEM
        authors use.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        coupled_weight_decay: float = 0.0,
        name: str = "momentum",
        **kwargs,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(
                f"`momentum` must be in [0, 1). Received: momentum={momentum}."
            )
        if not coupled_weight_decay >= 0:
            raise ValueError(
                "`coupled_weight_decay` must be at least 0. "
                f"Received: coupled_weight_decay={coupled_weight_decay}."
            )
        self.momentum = momentum
        self.nesterov = nesterov
        self.coupled_weight_decay = coupled_weight_decay

    def build(self, variables) -> None:
        """Makes a velocity for each variable."""
        if self.built:
            return
        super().build(variables)
        self.velocities = []
        if self.momentum:
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Applies the equations above to one variable."""
        ops = keras.ops
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if self.coupled_weight_decay:
            gradient = gradient + variable * self.coupled_weight_decay
        if not self.velocities:
            self.assign_sub(variable, learning_rate * gradient)
            return
        velocity = self.velocities[self._get_variable_index(variable)]
        new_velocity = velocity * self.momentum + gradient
        self.assign(velocity, new_velocity)
        if self.nesterov:
            new_velocity = gradient + new_velocity * self.momentum
        self.assign_sub(variable, learning_rate * new_velocity)

    def get_config(self) -> dict:
        """As in Keras."""
        return super().get_config() | {
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "coupled_weight_decay": self.coupled_weight_decay,
        }


def _sgd(learning_rate: LearningRate, momentum: float) -> keras.optimizers.Optimizer:
    del momentum
    return keras.optimizers.SGD(learning_rate)


def _momentum(learning_rate: LearningRate, momentum: float) -> Momentum:
    return Momentum(learning_rate, momentum)


def _nesterov(learning_rate: LearningRate, momentum: float) -> Momentum:
    return Momentum(learning_rate, momentum, nesterov=True)


def _adam(learning_rate: LearningRate, momentum: float) -> keras.optimizers.Optimizer:
    del momentum
    return keras.optimizers.Adam(learning_rate)


# name -> (learning rate or schedule, momentum) -> optimizer
OPTIMIZERS: dict[str, Callable[[LearningRate, float], keras.optimizers.Optimizer]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "adam": _adam,
}


def make_learning_rate(
    learning_rate: float,
    decay_type: str,
    decay_steps: int,
    end_learning_rate_factor: float,
) -> LearningRate:
    """Returns the learning rate as a number or a schedule.

    Args:
        learning_rate: Float > 0. The rate of the first step.
        decay_type: "constant", or "linear": falls to `end_learning_rate_factor` times
            `learning_rate` over `decay_steps` steps and stays there.
        decay_steps: Integer >= 1. Unused with "constant".
        end_learning_rate_factor: Float in [0, 1]. Unused with "constant".
    """
    if decay_type == "constant":
        return learning_rate
    return keras.optimizers.schedules.PolynomialDecay(
        learning_rate,
        decay_steps,
        end_learning_rate=end_learning_rate_factor * learning_rate,
        power=1.0,
    )


def make_optimizer(configuration: Configuration) -> tem_tf.SparsifiedOptimizer:
    """Makes the optimizer that a configuration asks for, with its compressor."""
    learning_rate = make_learning_rate(
        configuration.learning_rate,
        configuration.decay_type,
        configuration.decay_steps,
        configuration.end_learning_rate_factor,
    )
    inner = OPTIMIZERS[configuration.optimizer](learning_rate, configuration.momentum)
    return sparsified(inner, configuration)


def sparsified(
    inner: keras.optimizers.Optimizer, configuration: Configuration
) -> tem_tf.SparsifiedOptimizer:
    """Wraps an optimizer with the compressor that a configuration asks for.

    "none" is wrapped as well, so that its bytes are counted.
    """
    required, optional = COMPRESSOR_SETTINGS[configuration.compressor]
    arguments = {
        _ARGUMENTS.get(name, name): getattr(configuration, name)
        for name in required + optional
        if getattr(configuration, name) is not None
    }
    if configuration.compressor == "random_k":
        arguments["seed"] = configuration.seed
    return tem_tf.SparsifiedOptimizer(
        inner,
        compressor=COMPRESSORS[configuration.compressor](**arguments),
        memory="auto" if configuration.error_feedback else None,
        dense_below=configuration.dense_below,
        warmup_steps=configuration.warmup_steps,
        value_dtype=configuration.value_dtype,
        local_clipnorm=configuration.local_clipnorm,
    )
