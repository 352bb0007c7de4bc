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
    Compressor,
    HardThreshold,
    RandomK,
    TopK,
    TopKSchedule,
)
from tem_tf.compressors.schedules import strength_at
from tem_tf.memory import ErrorFeedback
from tem_tf.native import ops
from tem_tf.options import Options
from tem_tf.packing import Segments, densify, total_size
from tem_tf.replica_state import ReplicaState
from tem_tf.sparse_gradient import SparseGradient

Gradient = tf.Tensor | tf.IndexedSlices

_LARGEST = 2**31 - 1  # Positions are 32-bit integers.
_COMPRESSORS = (HardThreshold, TopK, TopKSchedule, Accordion, RandomK)


class Selected(NamedTuple):
    """What a replica sends.

    Attributes:
        message: Entries of the corrected gradient.
        block: float32 (m,). The small gradients, zeros if one is not finite.
        nonfinite: int32 scalar. 1 if the gradient was not finite, else 0.
        table: float64 (S, 6), as `metrics.step_table`.
        add_up: Adds messages up, in order, into a list of dense float32 tensors, in the
            places of the gradients.
    """

    message: SparseGradient
    block: tf.Tensor
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
    found = _select(
        compressor,
        segments,
        step,
        state,
        library=library,
        gradients=gradients,
        small=[_as_dense(gradient) for gradient in narrow],
        residuals=[residuals.handle(_name(s.name)) for s in segments],
        zero_nonfinite=zero_nonfinite,
    )
    message = SparseGradient(found.values, found.indices, total_size(segments))
    size = sum(math.prod(gradient.shape) for gradient in narrow)
    block = tf.ensure_shape(found.block, [size])
    add_up = _adder(library, gradients)
    return Selected(message, block, found.nonfinite, found.stats, add_up)


def _select(
    compressor: Compressor,
    segments: Segments,
    step: tf.Tensor,
    state: Any,
    **common: Any,
) -> ops.Selected:
    size = total_size(segments)
    if isinstance(compressor, HardThreshold):
        threshold = tf.cast(strength_at(compressor.threshold, step), tf.float32)
        return ops.select_threshold(threshold=threshold, **common)
    if isinstance(compressor, TopK):
        sizes = [s.size for s in segments] if compressor.scope == "layer" else [size]
        counts = [compressor.count(n, step) for n in sizes]
        return ops.select_topk(counts=counts, **common)
    if isinstance(compressor, TopKSchedule):
        return ops.select_topk(counts=[compressor.count(size, step)], **common)
    if isinstance(compressor, Accordion):
        return ops.select_topk(counts=compressor.counts(segments, state), **common)
    if isinstance(compressor, RandomK):
        return ops.select_given(given=compressor.draw(size, step), **common)
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
