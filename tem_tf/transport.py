"""What becomes of all replicas' messages: their sum, equal on all of them.

There are two ways. Gathered, every replica sends its own entries, and each decodes and
adds up all payloads in the same order; reduced, all send the same coordinates, and the
values are added on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf import native, wire
from tem_tf.compressors import Message
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps, Traffic
from tem_tf.sparse_gradient import SparseGradient, sum_in_order


class Received(NamedTuple):
    """What all replicas sent together, equal on all of them.

    Attributes:
        total: float32 (n,). Sum of the decoded messages; on the fast path a list of
            tensors, one for each variable.
        block: float32 (m,). Sum of the dense blocks.
        nonfinite: int32 scalar. Number of replicas whose gradient was not finite.
        entries: int64 scalar. Entries in the messages of all replicas, blocks apart.
        words: int32 scalar. 32-bit words that this replica contributed.
        traffic: What the exchange added to that, and learnt.
    """

    total: Any
    block: tf.Tensor
    nonfinite: tf.Tensor
    entries: tf.Tensor
    words: tf.Tensor
    traffic: Traffic


def send(
    aggregation: str,
    value_dtype: str,
    exchange: SparsifiedCrossDeviceOps,
    message: Message,
    block: tf.Tensor,
    nonfinite: tf.Tensor,
    demand: tf.Tensor,
    add_up: Callable[[list[Any]], Any] = sum_in_order,
) -> Received:
    """Sends a message and the dense block beside it; replica context, on all replicas.

    All-reduce sums in float32, so entries of 16 bits are gathered always.

    Args:
        aggregation: "gather" or "reduce", as of the compressor.
        value_dtype: How entries travel.
        exchange: Whose collectives are used.
        message: This replica's.
        block: float32 (m,). Variables that are sent whole.
        nonfinite: int32 scalar, 1 if this replica's gradient was not finite, else 0.
        demand: int64 scalar. See `SparsifiedCrossDeviceOps.gather_payloads`.
        add_up: Sums decoded messages in the order of replicas.
    """
    shared = aggregation == "reduce"
    if not isinstance(message, SparseGradient) or (shared and value_dtype == "float32"):
        return _reduce(exchange, message, block, nonfinite, demand, add_up)
    return _gather(
        exchange, message, block, nonfinite, demand, add_up, value_dtype, shared
    )


def _gather(
    exchange: SparsifiedCrossDeviceOps,
    message: SparseGradient,
    block: tf.Tensor,
    nonfinite: tf.Tensor,
    demand: tf.Tensor,
    add_up: Callable[[list[Any]], Any],
    value_dtype: str,
    shared: bool,
) -> Received:
    """Every replica sends its own entries: encode, all-gather, decode and sum."""
    library = native.library()
    payload = wire.encode(message, block, nonfinite, value_dtype, shared, library)
    shared_indices = message.indices if shared else None
    gathered = exchange.gather_payloads(payload, demand)
    messages, sum_of_blocks = [], tf.zeros_like(block)
    nonfinite, entries = tf.constant(0), tf.constant(0, tf.int64)
    for row in tf.unstack(gathered.rows):
        received = wire.decode(
            row, message.size, block.shape[0], value_dtype, shared_indices, library
        )
        messages.append(received.message)
        sum_of_blocks += received.block
        nonfinite += received.nonfinite
        entries += tf.cast(received.entries, tf.int64)
    total = add_up(messages)
    words, traffic = tf.size(payload), gathered.traffic
    return Received(total, sum_of_blocks, nonfinite, entries, words, traffic)


def _reduce(
    exchange: SparsifiedCrossDeviceOps,
    message: Message,
    block: tf.Tensor,
    nonfinite: tf.Tensor,
    demand: tf.Tensor,
    add_up: Callable[[list[Any]], Any],
) -> Received:
    """All replicas send the same coordinates: all-reduce of the values alone."""
    flag = tf.cast(nonfinite, tf.float32)[tf.newaxis]
    sent = tf.concat([message.values, block, flag], axis=0)
    summed = exchange.reduce_values(sent)
    count, words = tf.size(message.values), tf.size(sent)
    total = add_up([message._replace(values=summed[:count])])
    sum_of_blocks = tf.reshape(summed[count:-1], block.shape)
    nonfinite = tf.cast(summed[-1], tf.int32)
    entries = exchange.replicas() * tf.cast(count, tf.int64)
    traffic = Traffic.none(demand)
    return Received(total, sum_of_blocks, nonfinite, entries, words, traffic)
