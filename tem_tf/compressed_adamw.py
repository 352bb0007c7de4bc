"""CompressedAdamW: AdamW whose momentum travels compressed under a frozen variance.

Adam divides by the root of a mean of squares. Of a gradient that arrives in pieces that
mean is wrong: an entry that is held back for ten steps and then sent tenfold counts a
hundred times, once, in place of ten times one. So the variance is learnt from whole
gradients first and left alone from then on; what is sent after that is the momentum,
on which the update depends linearly, so that error feedback repairs it.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.compressors import AllEntries, Compressor
from tem_tf.gradient_sums import GradientSums
from tem_tf.layout import Gradient, as_dense
from tem_tf.memory import Memory
from tem_tf.optimizer import SparsifiedOptimizer
from tem_tf.outcome import Summed


@keras.saving.register_keras_serializable(package="tem_tf")
class FreezingAdamW(keras.optimizers.AdamW):
    """AdamW that takes its momentum for given from `freeze_step` on.

    The inner optimizer of `CompressedAdamW`.

    Args:
        freeze_step: Int >= 1. From that step on a gradient is the momentum itself, and
            the variance stays what it is.
        **arguments: Of `keras.optimizers.AdamW`.
    """

    def __init__(self, freeze_step: int, **arguments: Any):
        super().__init__(**arguments)
        self.freeze_step = freeze_step

    def is_frozen(self) -> tf.Tensor:
        """Whether the variance is left alone in this step: bool scalar."""
        iterations = tf.convert_to_tensor(_internals.raw_iterations(self))
        return iterations >= self.freeze_step

    def moments(self, variable: Any) -> tuple[Any, Any]:
        """A variable's momentum and variance, this replica's own."""
        index = self._get_variable_index(variable)
        return self._momentums[index], self._velocities[index]

    def update_step(self, gradient, variable, learning_rate):
        """As in Keras until `freeze_step`."""

        def dense() -> tf.Tensor:
            super(FreezingAdamW, self).update_step(gradient, variable, learning_rate)
            return tf.constant(False)

        def frozen() -> tf.Tensor:
            momentum, variance = self.moments(variable)
            dtype = variable.dtype
            step = tf.cast(tf.convert_to_tensor(self.iterations) + 1, dtype)
            last = tf.cast(self.freeze_step, dtype)  # Of which the variance knows.
            rate = tf.cast(learning_rate, dtype)
            alpha = rate * tf.sqrt(1 - tf.cast(self.beta_2, dtype) ** last)
            alpha /= 1 - tf.cast(self.beta_1, dtype) ** step
            self.assign(momentum, tf.cast(gradient, dtype))
            root = tf.sqrt(tf.convert_to_tensor(variance))
            self.assign_sub(variable, gradient * alpha / (root + self.epsilon))
            return tf.constant(True)

        with _internals.conditions_as_one_op():
            tf.cond(self.is_frozen(), frozen, dense)

    def get_config(self):
        return {**super().get_config(), "freeze_step": self.freeze_step}


class MomentumSums(GradientSums):
    """Sums gradients, and from `freeze_step` on what momenta would be, over replicas.

    With the common momentum m and this replica's gradient g that is b·m + (1 - b)·g, of
    which the mean is the next momentum.
    """

    inner: FreezingAdamW

    def sum(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], may_skip: bool
    ) -> Summed:
        """As in `GradientSums`."""
        inner, unit = self.inner, self._unit()
        frozen = inner.is_frozen()
        live = [tf.convert_to_tensor(inner.moments(v)[1]) > 0 for v in variables]
        own = []
        for gradient, variable, lives in zip(gradients, variables, live, strict=True):
            whole = as_dense(gradient, variable.shape)
            momentum = tf.cast(inner.moments(variable)[0], whole.dtype)
            moved = inner.beta_1 * unit * momentum + (1 - inner.beta_1) * whole
            # What has never had a gradient has no variance to be divided by.
            moved = tf.where(lives, moved, tf.zeros_like(moved))
            own.append(tf.where(frozen, moved, whole))
        summed = super().sum(own, variables, may_skip)
        totals = [
            tf.where(tf.logical_or(lives, tf.logical_not(frozen)), total, 0)
            for total, lives in zip(summed.gradients, live, strict=True)
        ]
        return summed._replace(gradients=totals)

    def _unit(self) -> float:
        """A replica's share of what all replicas' gradients add up to."""
        return 1 / tf.distribute.get_strategy().num_replicas_in_sync


@keras.saving.register_keras_serializable(package="tem_tf")
class CompressedAdamW(SparsifiedOptimizer):
    """AdamW that sends everything at first, and then its momentum, compressed.

    Before `freeze_step` it is Keras's AdamW, with one dense all-reduce. From then on
    the variance (the mean of squares) stays what it is; each worker adds its gradient
    to the common momentum and sends that, compressed, with error feedback; the mean of
    what all have sent is the next momentum. `SparsifiedOptimizer(AdamW(...))`
    compresses the gradient before the variance is taken of it, and loses quality
    (docs/adamw.md).

    Not for embeddings of rare words and the like: a variance that is learnt from one
    small gradient is small for good, and later gradients, or the noise of few bits, are
    divided by its root (docs/adamw.md). Entries whose variance is 0 at `freeze_step`,
    which had no gradient until then, are not updated any more, but for weight decay.

    Args:
        learning_rate: As in `keras.optimizers.AdamW`, and the next four.
        weight_decay: Float.
        beta_1: Float in [0, 1).
        beta_2: Float in [0, 1).
        epsilon: Float.
        freeze_step: Int >= 1. Steps of plain AdamW: as many as the learning rate warms
            up for, at least, and a tenth of the training as a rule. Lower => less is
            sent, and the variance is a worse one.
        compressor: `tem_tf.Compressor`, default `AllEntries()`.
        value_dtype: As in `SparsifiedOptimizer`. Default: "sign" with `AllEntries()`,
            which is 1-bit Adam; else "float32".
        memory: As there, and the next ones.
        dense_below: Int >= 0.
        nonfinite: "raise", "zero" or "skip".
        gradients_divided_by_replicas: Bool.
        exact_payload: Bool.
        rounding_seed: Int >= 0 or None.
        masks: A dict or None.
        accumulate_steps: Int >= 1. `freeze_step` counts updates.
        loss_scale: None, a number or "dynamic".
        name: String, default "adamw".
        **arguments: Others of `keras.optimizers.AdamW`: `clipnorm`, `use_ema`, ...

    Raises:
        ValueError: an argument is out of range; `amsgrad` is asked for.

    References:
        Tang et al., 1-bit Adam, ICML 2021, arXiv 2102.02888.
    """

    FIXED = SparsifiedOptimizer.FIXED | {"freeze_step", "value_dtype"}
    OBJECTS = ("learning_rate", "compressor", "memory")
    SUMS = MomentumSums

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        freeze_step: int,
        compressor: Compressor | None = None,
        value_dtype: str | None = None,
        memory: Memory | str | None = "auto",
        dense_below: int = 0,
        nonfinite: str = "raise",
        gradients_divided_by_replicas: bool = True,
        exact_payload: bool = False,
        rounding_seed: int | None = None,
        masks: Mapping[str, Any] | None = None,
        accumulate_steps: int = 1,
        loss_scale: str | float | None = None,
        name: str = "adamw",
        **arguments: Any,
    ):
        is_integer = isinstance(freeze_step, numbers.Integral)
        if not is_integer or isinstance(freeze_step, bool) or freeze_step < 1:
            raise ValueError(
                f"`freeze_step` must be an integer >= 1. Received: "
                f"freeze_step={freeze_step!r}"
            )
        if arguments.get("amsgrad"):
            raise ValueError(
                "`amsgrad` keeps the greatest variance, which is frozen here. "
                "Received: amsgrad=True"
            )
        for other, own in (
            ("gradient_accumulation_steps", "accumulate_steps"),
            ("loss_scale_factor", "loss_scale"),
        ):
            if arguments.get(other):
                raise ValueError(
                    f"`{other}` cannot be used with CompressedAdamW. Received: "
                    f"{other}={arguments[other]!r}. Pass `{own}` instead."
                )
        if value_dtype is None:
            value_dtype = "sign" if compressor is None else "float32"
        inner = FreezingAdamW(
            int(freeze_step),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            name=name,
            **arguments,
        )
        super().__init__(
            inner,
            AllEntries() if compressor is None else compressor,
            memory,
            dense_below=dense_below,
            warmup_steps=int(freeze_step),
            value_dtype=value_dtype,
            nonfinite=nonfinite,
            gradients_divided_by_replicas=gradients_divided_by_replicas,
            exact_payload=exact_payload,
            rounding_seed=rounding_seed,
            masks=masks,
            accumulate_steps=accumulate_steps,
            loss_scale=loss_scale,
        )

    def get_config(self):
        config = super().get_config()
        for key in ("inner_optimizer", "warmup_steps", "local_clipnorm"):
            del config[key]
        inner = self.inner_optimizer.get_config()
        for key in ("gradient_accumulation_steps", "loss_scale_factor"):
            inner.pop(key, None)
        return {**inner, **config}
