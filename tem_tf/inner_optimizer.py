"""Which optimizers may be wrapped, and with which of their options."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.options import Options

LOSS_SCALING = (
    "SparsifiedOptimizer does not work with scaled losses: neither inside nor around "
    "a LossScaleOptimizer, nor under the policy mixed_float16, nor inside a "
    "MultiOptimizer, which sets the scale. Use the policy mixed_bfloat16, which needs "
    "no scaling, and one optimizer for all variables."
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
            f"Received: {inner.gradient_accumulation_steps}. Use a larger batch."
        )
