"""The studies' update equations as Keras optimizers, and learning-rate schedules.

TensorFlow 1 and both studies keep the learning rate η outside the velocity v, Keras's
SGD inside, so that they differ as soon as η changes:

    studies    v ← μv + g            w ← w - ηv
    Keras SGD  v ← μv - ηg           w ← w + v

`OPTIMIZERS` lists what `--optimizer` may name; Keras's own go by their names.
`make_optimizer` wraps one of them for compressed gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

import tem_tf
from tem_studies.refusal import refusing
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.exchanging_optimizers import sparsified

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
        undecayed: Names of variables, as "gamma", that have no weight decay.
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
        undecayed: Sequence[str] = (),
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
        self.undecayed = tuple(undecayed)

    def build(self, variables) -> None:
        """Makes a velocity for each variable."""
        if self.built:
            return
        super().build(variables)
        self._decays = [v.name not in self.undecayed for v in variables]
        self.velocities = []
        if self.momentum:
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Applies the equations above to one variable."""
        ops = keras.ops
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        index = self._get_variable_index(variable)
        if self.coupled_weight_decay and self._decays[index]:
            # Exactly g + λw, but no chain of additions with that of the velocity: the
            # graph optimizer would add up its terms in an order that chance decides.
            gradient = gradient - variable * -self.coupled_weight_decay
        if not self.velocities:
            self.assign_sub(variable, learning_rate * gradient)
            return
        velocity = self.velocities[index]
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
            "undecayed": list(self.undecayed),
        }


@keras.saving.register_keras_serializable(package="tem_tf")
class MatrixAdamW(keras.optimizers.AdamW):
    """AdamW whose weight decay, w ← w - ηλw, leaves vectors alone.

    Variables of fewer than two axes are biases and scales of normalisations.
    """

    def build(self, variables) -> None:
        """As in Keras."""
        if not self.built:
            vectors = [v for v in variables if len(v.shape) < 2]
            self.exclude_from_weight_decay(vectors)
        super().build(variables)


@keras.saving.register_keras_serializable(package="tem_tf")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """η(t)·(1 + (f - 1)·min(t/T, 1)): a rate that rises to f times itself in T steps.

    Args:
        learning_rate: Float or schedule. η.
        steps: Integer >= 1. T.
        factor: Float > 0. f.
    """

    def __init__(self, learning_rate: LearningRate, steps: int, factor: float) -> None:
        self.learning_rate = learning_rate
        self.steps = steps
        self.factor = factor

    def __call__(self, step):
        """The rate of one step."""
        rate = self.learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(step)
        share = keras.ops.minimum(keras.ops.cast(step, "float32") / self.steps, 1.0)
        return rate * (1.0 + (self.factor - 1.0) * share)

    def get_config(self) -> dict:
        """As in Keras."""
        rate = self.learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = keras.saving.serialize_keras_object(rate)
        return {"learning_rate": rate, "steps": self.steps, "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict) -> WarmUp:
        """As in Keras."""
        rate = config["learning_rate"]
        if isinstance(rate, dict):
            rate = keras.saving.deserialize_keras_object(rate)
        return cls(**config | {"learning_rate": rate})


_DEFAULTS = Configuration()
# Names that Keras gives the variables of a batch norm.
_BATCH_NORM = ("gamma", "beta")


def _momentum(
    learning_rate: LearningRate,
    momentum: float,
    settings: Configuration = _DEFAULTS,
    nesterov: bool = False,
) -> Momentum:
    return Momentum(
        learning_rate,
        momentum,
        nesterov,
        coupled_weight_decay=settings.weight_decay,
        undecayed=_BATCH_NORM,
    )


def _nesterov(
    learning_rate: LearningRate,
    momentum: float,
    settings: Configuration = _DEFAULTS,
) -> Momentum:
    return _momentum(learning_rate, momentum, settings, nesterov=True)


def _sgd(
    learning_rate: LearningRate,
    momentum: float,
    settings: Configuration = _DEFAULTS,
) -> keras.optimizers.Optimizer:
    del momentum
    if settings.weight_decay:
        return _momentum(learning_rate, 0.0, settings)
    return keras.optimizers.SGD(learning_rate)


def _adam(
    learning_rate: LearningRate,
    momentum: float,
    settings: Configuration = _DEFAULTS,
) -> keras.optimizers.Optimizer:
    del momentum
    return keras.optimizers.Adam(
        learning_rate, settings.beta_1, settings.beta_2, settings.epsilon
    )


def _adamw(
    learning_rate: LearningRate,
    momentum: float,
    settings: Configuration = _DEFAULTS,
) -> keras.optimizers.Optimizer:
    del momentum
    return MatrixAdamW(
        learning_rate,
        settings.weight_decay,
        settings.beta_1,
        settings.beta_2,
        settings.epsilon,
    )


# name -> (learning rate or schedule, momentum, other settings) -> optimizer
OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "adam": _adam,
    "adamw": _adamw,
}


def make_learning_rate(
    learning_rate: float,
    decay_type: str,
    decay_steps: int,
    end_learning_rate_factor: float,
    warmup_steps: int | None = None,
) -> LearningRate:
    """Returns the learning rate as a number or a schedule.

    Args:
        learning_rate: Float > 0. The rate of the first step.
        decay_type: "constant", or "linear": falls to `end_learning_rate_factor` times
            `learning_rate` over `decay_steps` steps and stays there; "cosine": does so
            along half a cosine.
        decay_steps: Integer >= 1. Unused with "constant".
        end_learning_rate_factor: Float in [0, 1]. Unused with "constant".
        warmup_steps: Of "cosine": integer in [1, decay_steps), its first steps, in
            which the rate rises instead: η(t) = η·(t + 1)/(T + 1), as nanoGPT's.
            Without it `learning_rate` is the first step's.
    """
    if decay_type == "constant":
        return learning_rate
    if decay_type == "cosine":
        if not warmup_steps:
            return keras.optimizers.schedules.CosineDecay(
                learning_rate, decay_steps, end_learning_rate_factor
            )
        return keras.optimizers.schedules.CosineDecay(
            learning_rate / (warmup_steps + 1),
            decay_steps - warmup_steps,
            end_learning_rate_factor,
            warmup_target=learning_rate,
            warmup_steps=warmup_steps,
        )
    return keras.optimizers.schedules.PolynomialDecay(
        learning_rate,
        decay_steps,
        end_learning_rate=end_learning_rate_factor * learning_rate,
        power=1.0,
    )


def make_optimizer(
    configuration: Configuration, steps_per_epoch: int = 1
) -> tem_tf.SparsifiedOptimizer | tem_tf.LocalUpdates:
    """Makes the optimizer that a configuration asks for, with its compressor.

    Args:
        configuration: The run's settings.
        steps_per_epoch: Steps of one pass over the training data.
    """
    if configuration.decay_type == "step":
        learning_rate = make_step_decay(
            configuration.learning_rate,
            [steps_per_epoch * epoch for epoch in configuration.decay_epochs],
        )
    else:
        learning_rate = make_learning_rate(
            configuration.learning_rate,
            configuration.decay_type,
            configuration.decay_steps,
            configuration.end_learning_rate_factor,
            configuration.learning_rate_warmup_steps,
        )
    if configuration.learning_rate_warmup_epochs:
        learning_rate = WarmUp(
            learning_rate,
            configuration.learning_rate_warmup_epochs * steps_per_epoch,
            configuration.learning_rate_warmup_factor,
        )
    make = OPTIMIZERS[configuration.optimizer]
    with refusing(ValueError):
        inner = make(learning_rate, configuration.momentum, configuration)
    return sparsified(inner, configuration, steps_per_epoch)


def make_step_decay(learning_rate: float, steps: Sequence[int]) -> LearningRate:
    """Returns a rate that is a tenth of itself from each of these steps on."""
    rates = [learning_rate * 0.1**i for i in range(len(steps) + 1)]
    # Keras changes the rate after a boundary, not at it.
    boundaries = [step - 1 for step in steps]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
