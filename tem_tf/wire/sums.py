"""The payloads of all replicas, decoded and added up in the order of replicas.

    total = ((0 + message_0) + message_1) + ...

By one native op, or by one loop: a step's graph is as large for many replicas as for
two, and no chain of additions is there that TensorFlow's graph optimizer could order
otherwise. So the sum has the same bits on every replica, with kernels and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import tensorflow as tf

from tem_tf.sparse_gradient import SparseGradient
from tem_tf.wire.format import decode
from tem_tf.wire.header import checked
from tem_tf.wire.value_types import VALUE_DTYPES, levels


class Summed(NamedTuple):
    """What all payloads hold together.

    Attributes:
        totals: A float32 tensor for each variable: the sum of the messages.
        block: float32 (m,). Sum of the dense blocks.
        nonfinite: int32 scalar. Payloads whose sender's gradient was not finite.
        empty: int32 scalar. Payloads whose sender's batch was empty.
        entries: int64 scalar. Entries in all messages.
    """

    totals: list[tf.Tensor]
    block: tf.Tensor
    nonfinite: tf.Tensor
    empty: tf.Tensor
    entries: tf.Tensor


def sum_payloads(
    rows: tf.Tensor,
    sizes: Sequence[int],
    block_size: int,
    value_dtype: str = "float32",
    shared_indices: tf.Tensor | None = None,
    like: Sequence[tf.Tensor] | None = None,
    library: ModuleType | None = None,
    threads: int = 0,
) -> Summed:
    """Decodes payloads of entries and adds them up, each entry in its variable's place.

    Args:
        rows: int32 (R, words). A payload of `wire.encode` in each row, all for a vector
            of n = sum of `sizes`; R need not be known before it runs.
        sizes: Entries of each variable, in the order of the vector.
        block_size: m.
        value_dtype: How values travel.
        shared_indices: int32 (k,) where the senders' `shared` was true, else None.
        like: A float32 tensor for each variable, as large as `sizes` say: the totals
            have their shapes, and with kernels also their buffers, where nobody else
            needs them. Default: totals are vectors.
        library: The native ops, which give the same bits sooner; None: TensorFlow's.
        threads: How many the native op takes at most; 0 for all that TensorFlow has.

    Raises:
        tf.errors.InvalidArgumentError: when run, if `wire.decode` refuses a payload, or
            shared indices are not within the vector.
    """
    if library is None:
        return _by_loop(rows, sizes, block_size, value_dtype, shared_indices, like)
    shared = shared_indices is not None
    return Summed(
        *library.tem_tf_sum_payloads(
            rows=rows,
            shared_indices=shared_indices if shared else tf.zeros([0], tf.int32),
            like=list(like or ()),
            sizes=list(sizes),
            N=len(sizes),
            block_size=block_size,
            value_type=VALUE_DTYPES.index(value_dtype),
            levels=levels(value_dtype),
            shared=shared,
            threads=threads,
        )
    )


def _by_loop(
    rows: tf.Tensor,
    sizes: Sequence[int],
    block_size: int,
    value_dtype: str,
    shared_indices: tf.Tensor | None,
    like: Sequence[tf.Tensor] | None,
) -> Summed:
    """By TensorFlow's operations.

    In place, in a buffer that nobody else has: tf.tensor_scatter_nd_add would copy the
    vector for every row.
    """
    size = sum(sizes)
    if shared_indices is not None:  # Adding in place would take them modulo n.
        within = tf.reduce_all((shared_indices >= 0) & (shared_indices < size))
        rows = checked(rows, within, _BEYOND)

    def plus(total: tf.Tensor, message: SparseGradient) -> tf.Tensor:
        def entries() -> tf.Tensor:
            return tf.raw_ops.InplaceAdd(x=total, i=message.indices, v=message.values)

        if shared_indices is not None:
            return entries()
        everything = tf.size(message.values) == size
        return tf.cond(everything, lambda: total + message.values, entries)

    def add_next(
        row: tf.Tensor,
        total: tf.Tensor,
        block: tf.Tensor,
        nonfinite: tf.Tensor,
        empty: tf.Tensor,
        entries: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        received = decode(rows[row], size, block_size, value_dtype, shared_indices)
        return (
            row + 1,
            tf.ensure_shape(plus(total, received.message), [size]),
            block + received.block,
            nonfinite + received.nonfinite,
            empty + received.empty,
            entries + tf.cast(received.entries, tf.int64),
        )

    nothing = tf.constant(0)
    start = (
        nothing,
        tf.raw_ops.Empty(shape=[size], dtype=tf.float32, init=True),  # Zeros.
        tf.zeros([block_size]),
        *(nothing, nothing, tf.constant(0, tf.int64)),
    )
    count = tf.shape(rows)[0]
    _, total, *others = tf.while_loop(
        lambda row, *_: row < count, add_next, start, parallel_iterations=1
    )
    return Summed(_split(total, sizes, like), *others)


_BEYOND = "shared indices are not numbers within the gradient."


def _split(
    total: tf.Tensor, sizes: Sequence[int], like: Sequence[tf.Tensor] | None
) -> list[tf.Tensor]:
    """The parts of a vector, in the shapes of `like`."""
    parts = tf.split(total, list(sizes)) if sizes else []
    if like is None:
        return parts
    return [
        tf.reshape(part, one.shape if one.shape.is_fully_defined() else tf.shape(one))
        for part, one in zip(parts, like, strict=True)
    ]
