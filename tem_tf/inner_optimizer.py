"""Which optimizers may be wrapped, and with which of their options."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf._collective_internals import without_broadcasts
from tem_tf.compressors import AllEntries
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


LOSES_UNDER_ADAM = (
    "Adam's variance is wrong of gradients that arrive in pieces, and training loses "
    "quality by it. tem_tf.CompressedAdamW compresses the momentum, "
    "tem_tf.LocalUpdates what the weights have moved: see docs/adamw.md."
)


def check_inner(inner: Any, wrapper: type, role: str = "inner_optimizer") -> None:
    """Refuses what cannot be wrapped.

    Args:
        inner: The argument of the wrapper.
        wrapper: Its class, or one of which all wrappers are.
        role: The argument's name.

    Raises:
        ValueError: it is no Keras optimizer, scales losses, is in another wrapper, or
            is made of several.
    """
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise ValueError(
            f"`{role}` must be a Keras optimizer such as "
            f"keras.optimizers.SGD(0.1). Received: {role}={inner!r}"
        )
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(LOSS_SCALING)
    if isinstance(inner, wrapper) or _internals.has_replaced_all_reduce(inner):
        raise ValueError(
            f"`{role}` must not be in another wrapper, nor be one. Make a new one for "
            f"each. Received: {role}={inner.name!r}"
        )
    # Their parts would sum the gradients, dense, past this wrapper.
    if hasattr(inner, "inner_optimizer") or hasattr(inner, "optimizers"):
        raise ValueError(
            f"`{role}` must not be made of other optimizers, as a "
            f"{type(inner).__name__} is. Received: {role}={inner.name!r}"
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


def check_plain(optimizer: keras.optimizers.Optimizer, role: str) -> None:
    """Refuses what an optimizer cannot do where weights differ between workers.

    Args:
        optimizer: The argument of `LocalUpdates`.
        role: The argument's name.

    Raises:
        ValueError: it keeps means of weights, accumulates gradients or scales losses.
    """
    for name in ("use_ema", "gradient_accumulation_steps", "loss_scale_factor"):
        if getattr(optimizer, name):
            raise ValueError(
                f"`{name}` of `{role}` must not be set in LocalUpdates. Received: "
                f"{name}={getattr(optimizer, name)!r}"
            )


def loses_quality(inner: keras.optimizers.Optimizer, options: Options) -> bool:
    """Whether gradients arrive in pieces before a variance is taken of them.

    Not where all entries come at every step, rounded to two bits or more: 1 % above
    dense in studies/frontier, where a sixteenth of them is 3 % and signs are 4 %.
    """
    if not isinstance(inner, keras.optimizers.Adam) or options.compressor.lossless:
        return False
    sends_all = isinstance(options.compressor, AllEntries)
    return not sends_all or options.value_dtype == "sign"


def check_local_steps(
    local_steps: int, nonfinite: str, reset_slots: bool, fragments: int | None
) -> None:
    """Refuses arguments of `LocalUpdates` that are out of range.

    Raises:
        ValueError: naming the argument.
    """
    is_integer = isinstance(local_steps, numbers.Integral)
    if not is_integer or isinstance(local_steps, bool) or local_steps < 1:
        raise ValueError(
            f"`local_steps` must be an integer >= 1. Received: "
            f"local_steps={local_steps!r}"
        )
    if nonfinite not in ("raise", "zero"):
        raise ValueError(
            '`nonfinite` must be "raise" or "zero" for LocalUpdates, whose workers '
            f"take steps by themselves. Received: nonfinite={nonfinite!r}"
        )
    if not isinstance(reset_slots, bool):
        raise ValueError(
            "`reset_slots` must be True or False. "
            f"Received: reset_slots={reset_slots!r}"
        )
    if fragments is None:
        return
    is_integer = isinstance(fragments, numbers.Integral)
    if (
        isinstance(fragments, bool)
        or not is_integer
        or fragments not in range(1, local_steps + 1)
    ):
        raise ValueError(
            "`fragments` must be None or an integer in [1, local_steps]. Received: "
            f"fragments={fragments!r} with local_steps={local_steps}"
        )


def build_slots(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]
) -> None:
    """Makes an optimizer's variables, in the strategy's scope.

    Those of Keras's own start from constants, so that no worker need be told of them.
    """
    package = type(optimizer).__module__.partition(".")[0]
    is_known = package in ("keras", __package__)
    with without_broadcasts() if is_known else contextlib.nullcontext():
        optimizer.build(variables)
