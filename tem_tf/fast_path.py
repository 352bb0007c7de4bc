"""The native form of a gradient's path: the same bits in fewer passes over memory.

    p = g + m;  S = select(p);  m = p outside S, 0 in S       one pass, in place
    sum over replicas, in their order, of p_S                 into the gradients' places

Gradients are taken as they come and laid end to end nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf import native
from tem_tf.compressors import (
    Accordion,
    AdaptiveThreshold,
    Compressor,
    HardThreshold,
    RandomK,
    TopK,
    TopKSchedule,
)
from tem_tf.compressors.schedules import strength_at
from tem_tf.local_gradient import zero_unless_finite
from tem_tf.memory import ErrorFeedback
from tem_tf.native import ops
from tem_tf.options import Options
from tem_tf.packing import Segments, densify, pack, total_size
from tem_tf.replica_state import ReplicaState
from tem_tf.sparse_gradient import SparseGradient

Gradient = tf.Tensor | tf.IndexedSlices

_LARGEST = 2**31 - 1  # Positions are 32-bit integers.
_COMPRESSORS = (
    *(HardThreshold, AdaptiveThreshold),
    *(TopK, TopKSchedule, Accordion),
    RandomK,
)


class Selected(NamedTuple):
    """What a replica sends.

    Attributes:
        message: Entries of the corrected gradient.
        block: float32 (m,). The small gradients, zeros if one is not finite.
        shared: float32 (s,). What the compressor shares.
        nonfinite: int32 scalar. 1 if the gradient was not finite, else 0.
        table: float64 (S, 6), as `metrics.step_table`.
        add_up: Adds messages up, in order, into a list of dense float32 tensors, in the
            places of the gradients.
    """

    message: SparseGradient
    block: tf.Tensor
    shared: tf.Tensor
    nonfinite: tf.Tensor
    table: tf.Tensor
    add_up: Callable[[Sequence[SparseGradient]], list[tf.Tensor]]


def applies(options: Options, segments: Segments, residuals: ReplicaState) -> bool:
    """Whether the native kernels can do what `options` ask for, and are there.

    Compressors and memories of these very types: a subclass may do something else.
    """
    return (
        type(options.compressor) in _COMPRESSORS
        and type(options.kept) is ErrorFeedback
        and options.value_dtype == "float32"
        and options.local_clipnorm is None
        and not options.warmup_steps
        and 0 < total_size(segments) <= _LARGEST
        and all(residuals.is_on_cpu(_name(s.name)) for s in segments)
        and native.library() is not None
    )


def select(
    compressor: Compressor,
    segments: Segments,
    wide: Sequence[Gradient],
    narrow: Sequence[Gradient],
    residuals: ReplicaState,
    step: tf.Tensor,
    state: Any,
    zero_nonfinite: bool,
) -> Selected:
    """Corrects, selects, and updates the residuals in place.

    That is before the exchange: where a NaN on another worker ends the training, this
    worker's residuals have moved on, but no weights.

    Args:
        compressor: One of those that `applies` names.
        segments: Of the wide gradients.
        wide: Gradients that are compressed.
        narrow: Gradients that are sent whole.
        residuals: Where the residuals are.
        step: int64 scalar.
        state: The compressor's, which a selection does not change.
        zero_nonfinite: Whether gradients that are not finite count as zero; else the
            residuals stay as they are.
    """
    library = native.library()
    if library is None:
        raise RuntimeError("The native library is gone; `applies` said it was there.")
    gradients = [_as_dense(gradient) for gradient in wide]
    small = [_as_dense(gradient) for gradient in narrow]
    names = [_name(segment.name) for segment in segments]
    vector = tf.zeros([0])
    if compressor.shares:  # Few do: it takes the gradient as a whole.
        vector, _, _ = zero_unless_finite(pack(gradients), pack(small))

    def corrected() -> tf.Tensor:
        return vector + pack([residuals.read(name) for name in names])

    common: dict[str, Any] = {
        "library": library,
        "gradients": gradients,
        "small": small,
        "residuals": [residuals.handle(name) for name in names],
        "zero_nonfinite": zero_nonfinite,
    }
    size = total_size(segments)
    if isinstance(compressor, (HardThreshold, AdaptiveThreshold)):
        threshold = _threshold(compressor, step, state, corrected)
        found = ops.select_threshold(threshold=threshold, **common)
    elif isinstance(compressor, RandomK):
        found = ops.select_given(given=compressor.draw(size, step), **common)
    else:
        counts = _counts(compressor, segments, step, state)
        found = ops.select_topk(counts=counts, **common)
    message = SparseGradient(found.values, found.indices, size)
    block = tf.ensure_shape(found.block, [sum(math.prod(g.shape) for g in narrow)])
    return Selected(
        message,
        block,
        compressor.share(vector, segments),
        found.nonfinite,
        found.stats,
        _adder(library, gradients),
    )


def _threshold(
    compressor: HardThreshold | AdaptiveThreshold,
    step: tf.Tensor,
    state: Any,
    corrected: Callable[[], tf.Tensor],
) -> tf.Tensor:
    """λ of this step. `corrected`, (n,), is made only while no λ is known."""
    if isinstance(compressor, HardThreshold):
        return tf.cast(strength_at(compressor.threshold, step), tf.float32)
    known = compressor.known(state, tf.float32)
    return tf.cond(known > 0, lambda: known, lambda: compressor.first(corrected()))


def _counts(
    compressor: Compressor, segments: Segments, step: tf.Tensor, state: Any
) -> list[int] | list[tf.Tensor]:
    """k of the whole gradient, or of each variable."""
    size = total_size(segments)
    if isinstance(compressor, TopK):
        sizes = [s.size for s in segments] if compressor.scope == "layer" else [size]
        return [compressor.count(n, step) for n in sizes]
    if isinstance(compressor, TopKSchedule):
        return [compressor.count(size, step)]
    if isinstance(compressor, Accordion):
        return compressor.counts(segments, state)
    raise TypeError(f"There is no native selection for {type(compressor).__name__}.")


def _adder(library: ModuleType, gradients: list[tf.Tensor]) -> Callable:
    def add_up(messages: Sequence[SparseGradient]) -> list[tf.Tensor]:
        values = [message.values for message in messages]
        indices = [message.indices for message in messages]
        return ops.sum_messages(library, values, indices, gradients)

    return add_up


def _as_dense(gradient: Gradient) -> tf.Tensor:
    """Returns a dense float32 tensor; one that is so already, itself."""
    if isinstance(gradient, tf.IndexedSlices):
        gradient = tf.reshape(densify(gradient), gradient.shape)
    return tf.cast(gradient, tf.float32)


def _name(variable: str) -> str:
    return f"residual/{variable}"
