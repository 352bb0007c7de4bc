"""A step of training that may be held back or skipped, on all replicas alike.

`accumulate_steps` holds back: gradients are added up, and every k-th step exchanges
their mean. `nonfinite="skip"` and loss scaling skip: the exchange has told all replicas
that a gradient was not finite, and none of them updates anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.accumulator import Accumulator
from tem_tf.agreed_branches import where_agreed
from tem_tf.empty_batches import batch_is_empty
from tem_tf.gradient_sums import GradientSums, all_finite
from tem_tf.inner_optimizer import check_steps
from tem_tf.layout import COMPRESSED_DTYPES, Gradient, values_of, with_values
from tem_tf.loss_scale import DYNAMIC, LossScale
from tem_tf.nonfinite import require_finite, require_none_counted
from tem_tf.outcome import Summed

_NOT_RAISED = "loss_scale/not_raised"  # Steps that XLA would not let raise.


class ConditionalSteps:
    """Applies gradients by an inner optimizer where all replicas agree to.

    1 divide by the loss's scale; 2 add up, until the k-th step nothing more; 3 clip;
    4 exchange; 5 update, unless a gradient was not finite; 6 the next scale.

    Args:
        sums: Sums gradients over replicas, and stands in the inner optimizer.
        accumulate_steps: See `SparsifiedOptimizer`.
        loss_scale: As there.
        nonfinite: As there.
    """

    def __init__(
        self,
        sums: GradientSums,
        accumulate_steps: int,
        loss_scale: str | float | None,
        nonfinite: str,
    ):
        self._inner, self._sums = sums.inner, sums
        self._accumulate_steps, self._loss_scale = int(accumulate_steps), loss_scale
        self.nonfinite = nonfinite
        self._state = sums.aggregator.state
        self._accumulator, self._scale = None, None
        self._in_xla = False  # Whether XLA compiles the step that was traced last.
        if accumulate_steps > 1:
            self._accumulator = Accumulator(int(accumulate_steps), self._state)
        if loss_scale is not None:
            self._set_scale(LossScale(loss_scale, self._state))

    @property
    def all_update(self) -> bool:
        """Whether every step updates, so that nothing is conditional."""
        return self._accumulator is None and not self._may_skip

    def scale_as(self, outer: keras.optimizers.LossScaleOptimizer) -> None:
        """Scales as another optimizer would have, unless there is a scale already."""
        if self._scale is None:
            check_steps(self._inner, self._accumulate_steps, DYNAMIC, self.nonfinite)
            initial, steps = outer.initial_scale, outer.dynamic_growth_steps
            self._set_scale(LossScale(DYNAMIC, self._state, initial, steps))

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss times that by which `apply` divides; replica context."""
        if self._scale is None:
            return loss
        loss = tf.convert_to_tensor(loss)
        return loss * tf.cast(self._scale.read(), loss.dtype)

    def build(self, variables: Sequence[Any], names: Sequence[str]) -> None:
        """Makes what is kept from step to step, once; in the strategy's scope.

        Raises:
            ValueError: Keras overwrites one of the variables with its gradient.
        """
        if not self.all_update:
            refuse_overwritten(variables, "A step that may be skipped or held back")
        if self._accumulator is not None:
            self._accumulator.build(variables, names)
        if self._scale is not None:
            self._scale.build()
            self._state.add(_NOT_RAISED, tf.constant(0), is_alike=True)

    def apply(self, gradients: Sequence[Gradient], variables: Sequence[Any]) -> None:
        """One step; replica context.

        Args:
            gradients: This replica's.
            variables: Theirs.
        """
        # 1 The gradients of the loss itself.
        if self._scale is not None:
            scale = self._scale.read()
            gradients = [_map(tf.divide, _wide(g), scale) for g in gradients]
        if self.nonfinite == "skip":
            gradients = _zero_if_batch_is_empty(gradients)
        if self._accumulator is None:
            self._update(gradients, variables)
            return
        # 2 Until the k-th step that is all.
        means, complete = self._accumulator.add(
            gradients, variables, self._sums.names(variables)
        )
        where_agreed(complete, lambda *means: self._update(means, variables), means)

    def raise_what_xla_could_not(self) -> None:
        """Raises for NaN at steps that XLA has compiled; in cross-replica context.

        Raises:
            tf.errors.InvalidArgumentError: there was one that would have been raised.
        """
        strategy = self._sums.aggregator.strategy
        if self._in_xla and strategy is not None:  # Of one replica.
            steps = strategy.run(lambda: self._state.read(_NOT_RAISED))
            require_none_counted(int(steps.numpy()))

    def get_config(self) -> dict[str, Any]:
        return {
            "accumulate_steps": self._accumulate_steps,
            "loss_scale": self._loss_scale,
        }

    def facts(self) -> dict[str, str]:
        """What must not differ between workers, in words."""
        scale = DYNAMIC if self._scale and not self._loss_scale else self._loss_scale
        facts = {**self.get_config(), "loss_scale": scale}
        return {name: repr(value) for name, value in facts.items()}

    def _update(self, gradients: Sequence[Gradient], variables: Sequence[Any]) -> None:
        # 3 What Keras does before its all-reduce.
        clipped = _clipped(self._inner, gradients)
        # 4 The exchange, after which all replicas know what all of them had.
        summed = self._sums.sum(clipped, variables, self._may_skip)
        with tf.control_dependencies(self._checks(summed)):
            # 5 The update, or nothing.
            finite = tf.equal(summed.nonfinite, 0) if self._may_skip else None
            where_agreed(
                finite,
                lambda *sums: self._inner.apply(list(sums), variables),
                summed.gradients,
                self._sums.given,
            )
            # 6 The scale of the next step.
            if self._scale is not None:
                self._scale.update(tf.logical_not(finite))

    def _checks(self, summed: Summed) -> list[Any]:
        """Raises for NaN that no smaller scale would have spared."""
        if self._scale is None or self.nonfinite == "skip":
            return []
        may_be_the_scale = tf.logical_and(
            summed.nonfinite > summed.empty, self._scale.may_be_at_fault()
        )
        nonfinite = tf.where(may_be_the_scale, 0, summed.nonfinite)
        self._in_xla = _internals.in_xla()
        if self._in_xla:  # It has no assertions.
            self._state.add_to(_NOT_RAISED, tf.cast(nonfinite > 0, tf.int32))
            return []
        known = batch_is_empty() is not None
        return [require_finite(nonfinite, summed.empty if known else None)]

    @property
    def _may_skip(self) -> bool:
        return self.nonfinite == "skip" or self._scale is not None

    def _set_scale(self, scale: LossScale) -> None:
        """From now on it is decided here what NaN in a gradient does."""
        self._scale = scale
        self._sums.aggregator.skip_nonfinite()


def refuse_overwritten(variables: Sequence[Any], what: str) -> None:
    """Refuses variables that take a gradient for their value.

    As Keras has them for the scales of quantised layers.

    Raises:
        ValueError: one of them is such.
    """
    for variable in variables:
        if getattr(variable, "overwrite_with_gradient", False):
            raise ValueError(
                f"{what} cannot overwrite variables with gradients. Received: "
                f"{variable.path!r}"
            )


def _clipped(
    inner: keras.optimizers.Optimizer, gradients: Sequence[Gradient]
) -> list[Gradient]:
    """The gradients as Keras clips them, with NaN where they are not finite."""
    clipped = list(_internals.clip(inner, gradients))
    if inner.clipvalue is None:
        return clipped
    # Clipping by value makes Inf finite.
    factor = tf.where(all_finite(gradients), 1.0, float("nan"))
    return [_map(tf.multiply, gradient, factor) for gradient in clipped]


def _zero_if_batch_is_empty(gradients: Sequence[Gradient]) -> list[Gradient]:
    """Of no rows a gradient is zero; batch normalisation makes it NaN."""
    is_empty = batch_is_empty()
    if is_empty is None:
        return list(gradients)
    return [
        with_values(g, tf.where(is_empty, tf.zeros_like(values_of(g)), values_of(g)))
        for g in gradients
    ]


def _wide(gradient: Gradient) -> Gradient:
    """In float32 where 16 bits could not hold what the loss's scale has lifted."""
    if gradient.dtype not in COMPRESSED_DTYPES:
        return gradient
    return with_values(gradient, tf.cast(values_of(gradient), tf.float32))


def _map(function: Callable, gradient: Gradient, scalar: tf.Tensor) -> Gradient:
    values = function(values_of(gradient), tf.cast(scalar, gradient.dtype))
    return with_values(gradient, values)
