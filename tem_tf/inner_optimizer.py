"""Which optimizers may be wrapped, and with which of their options."""

from __future__ import annotations

import numbers
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.loss_scale import check_loss_scale
from tem_tf.options import Options

LOST_BY_SAVING = (
    "A saved model holds no residuals, accumulated gradients or loss scale, which "
    "start anew. A `tem_tf.Checkpoint` holds them."
)
LOSS_SCALING = (
    "SparsifiedOptimizer must be directly inside the LossScaleOptimizer that Keras "
    "puts around it under the policy mixed_float16, and scales in its place. Received: "
    "one inside the wrapper, or a MultiOptimizer between. Pass loss_scale='dynamic' to "
    "SparsifiedOptimizer instead, for parts of a MultiOptimizer a number that is the "
    "same for all of them, and auto_scale_loss=False to `model.compile`."
)


def check_inner(inner: Any, wrapper: type) -> None:
    """Refuses what cannot be wrapped.

    Args:
        inner: The argument of the wrapper.
        wrapper: Its class.

    Raises:
        ValueError: it is no Keras optimizer, scales losses, is in another wrapper, or
            is made of several.
    """
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise ValueError(
            "`inner_optimizer` must be a Keras optimizer such as "
            f"keras.optimizers.SGD(0.1). Received: inner_optimizer={inner!r}"
        )
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(LOSS_SCALING)
    if isinstance(inner, wrapper) or _internals.has_replaced_all_reduce(inner):
        raise ValueError(
            "`inner_optimizer` must not be in another SparsifiedOptimizer. Make a new "
            f"one for each wrapper. Received: inner_optimizer={inner.name!r}"
        )
    # Their parts would sum the gradients, dense, past this wrapper.
    if hasattr(inner, "inner_optimizer") or hasattr(inner, "optimizers"):
        raise ValueError(
            "`inner_optimizer` must not be made of other optimizers, as a "
            f"{type(inner).__name__} is. Received: inner_optimizer={inner.name!r}"
        )


def check_accumulation(inner: keras.optimizers.Optimizer, options: Options) -> None:
    """Refuses gradient accumulation where Keras fails with it.

    Raises:
        ValueError: it is asked for under a strategy, and not all is left to Keras.
    """
    strategy = tf.distribute.get_strategy()
    if (
        inner.gradient_accumulation_steps
        and strategy.num_replicas_in_sync > 1
        and not options.leave_gradients_alone
    ):
        raise ValueError(
            "`gradient_accumulation_steps` of the inner optimizer cannot be used "
            "under a strategy (Keras itself fails there: keras-team/keras#20582). "
            f"Received: {inner.gradient_accumulation_steps}. Pass `accumulate_steps` "
            "to SparsifiedOptimizer instead."
        )


def check_steps(
    inner: keras.optimizers.Optimizer,
    accumulate_steps: int,
    loss_scale: str | float | None,
    nonfinite: str,
) -> None:
    """Refuses what a step that may be skipped or held back cannot be.

    Raises:
        ValueError: an argument is out of range, or the inner optimizer does the like.
    """
    is_integer = isinstance(accumulate_steps, numbers.Integral)
    if not is_integer or isinstance(accumulate_steps, bool) or accumulate_steps < 1:
        raise ValueError(
            "`accumulate_steps` must be an integer >= 1. "
            f"Received: accumulate_steps={accumulate_steps!r}"
        )
    check_loss_scale(loss_scale)
    if loss_scale is not None and nonfinite == "zero":
        raise ValueError(
            '`nonfinite` must be "raise" or "skip" with a loss scale, which skips '
            "steps that overflow. Received: nonfinite='zero'"
        )
    if accumulate_steps == 1 and loss_scale is None and nonfinite != "skip":
        return
    for name in ("gradient_accumulation_steps", "loss_scale_factor"):
        own = {"gradient_accumulation_steps": "accumulate_steps"}.get(
            name, "loss_scale"
        )
        if getattr(inner, name):
            raise ValueError(
                f"`{name}` of the inner optimizer must be None where a step may be "
                f"skipped or held back. Received: {name}={getattr(inner, name)!r}. "
                f"Pass `{own}` to SparsifiedOptimizer instead."
            )
