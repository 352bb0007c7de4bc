"""The bytes of one message: exact, self-describing, never empty.

A payload is a vector of 32-bit words, because TensorFlow's collectives carry int32 but
neither bytes nor bfloat16, and fail on zero-length tensors:

    word 0          magic: the letters "TEM" and the version of the format, 1
    word 1          length of the payload in words, padding excluded
    word 2          n, the size of the vector
    word 3          k, the number of entries
    word 4          m, the size of the dense block (small variables, sent whole)
    word 5          flags: bit 0, "my gradient was not finite"
    k words         indices, int32
    k words         values, float32
    m words         dense block, float32
    any zeros       padding, up to the longest payload of the step

All integers are little-endian and below 2**31.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tem_tf.sparse_gradient import SparseGradient

MAGIC = int.from_bytes(b"\x01MET", "little")
HEADER_WORDS = 6
WORD_BYTES = 4
NONFINITE = 1


class Payload(NamedTuple):
    """A decoded payload.

    Attributes:
        message: The sparse part.
        block: float32 (m,). The dense part.
        words: int32 scalar. Length without padding.
        nonfinite: int32 scalar, 1 if the sender's gradient was not finite, else 0.
    """

    message: SparseGradient
    block: tf.Tensor
    words: tf.Tensor
    nonfinite: tf.Tensor


def encode(
    message: SparseGradient, block: tf.Tensor, nonfinite: tf.Tensor
) -> tf.Tensor:
    """Writes a message into one buffer.

    Args:
        message: k entries of a vector of n.
        block: float32 (m,).
        nonfinite: int32 scalar, 0 or 1.

    Returns:
        int32 (6 + 2k + m,).
    """
    count, block_size = tf.size(message.values), tf.size(block)
    header = tf.stack(
        [
            MAGIC,
            HEADER_WORDS + 2 * count + block_size,
            message.size,
            count,
            block_size,
            nonfinite * NONFINITE,
        ]
    )
    values, block = (tf.bitcast(x, tf.int32) for x in (message.values, block))
    return tf.concat([header, message.indices, values, block], axis=0)


def decode(payload: tf.Tensor, size: int, block_size: int) -> Payload:
    """Reads what `encode` wrote.

    Args:
        payload: int32 (words,), may be followed by padding.
        size: n that the reader expects.
        block_size: m that the reader expects.

    Raises:
        tf.errors.InvalidArgumentError: when run, if the payload is not of this format
            and version, does not have these sizes, is cut short, or names an entry
            outside the vector.
    """
    _require(tf.size(payload) >= HEADER_WORDS, "a payload is shorter than its header")
    header = payload[:HEADER_WORDS]
    words, count = header[1], header[3]
    _require(
        header[0] == MAGIC,
        "a payload is not of this wire format and version: do all workers run the "
        "same tem_tf?",
    )
    _require(
        (header[2] == size) & (header[4] == block_size),
        f"a payload is not for a gradient of {size} + {block_size} entries: do all "
        "workers train the same model?",
    )
    _require(
        (count >= 0)
        & (count <= size)
        & (words == HEADER_WORDS + 2 * count + block_size)
        & (words <= tf.size(payload)),
        "the lengths in a payload's header do not agree",
    )
    body = payload[HEADER_WORDS:]
    indices = body[:count]
    _require(
        tf.reduce_all((indices >= 0) & (indices < size)),
        "a payload names an entry outside the gradient",
    )
    values = tf.bitcast(body[count : 2 * count], tf.float32)
    block = tf.bitcast(body[2 * count : 2 * count + block_size], tf.float32)
    block = tf.ensure_shape(block, [block_size])
    message = SparseGradient(values, indices, size)
    return Payload(message, block, words, header[5] & NONFINITE)


def _require(condition: tf.Tensor, otherwise: str) -> None:
    tf.debugging.Assert(condition, [f"tem_tf cannot read the wire: {otherwise}."])
