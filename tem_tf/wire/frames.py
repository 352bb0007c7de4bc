"""Messages that are no entries: a body that its writer and reader alone understand.

The header is that of all messages, and the dense block comes last, so that whatever a
compressor sends is told from garbage, other versions and other models' gradients:

    6 words         header, with the kind of message
    b words         body
    m words         dense block, float32
    any words       padding
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tem_tf.wire.header import (
    BAD_CODES,
    BAD_LENGTHS,
    ENTRIES,
    GREATEST_KIND,
    HEADER_WORDS,
    checked,
    known_flags,
    read_header,
    with_header,
)


class Frame(NamedTuple):
    """What a framed payload holds.

    Attributes:
        body: int32 (b,).
        block: float32 (m,). The dense part.
        count: int32 scalar. k, the entries that the message stands for.
        words: int32 scalar. Length without padding.
        flags: int32 scalar. `NONFINITE`, `EMPTY`, both or 0.
    """

    body: tf.Tensor
    block: tf.Tensor
    count: tf.Tensor
    words: tf.Tensor
    flags: tf.Tensor


def frame(
    kind: int,
    size: int,
    count: tf.Tensor | int,
    body: tf.Tensor,
    block: tf.Tensor,
    flags: tf.Tensor | int,
) -> tf.Tensor:
    """Writes a body and the dense block beside it into one buffer.

    Args:
        kind: Int in [1, 15]. Whose body it is; no two of a program are the same.
        size: n, the size of the gradient that the message is for.
        count: int32 scalar, k in [0, n]: entries that the message stands for.
        body: int32 (b,).
        block: float32 (m,).
        flags: int32 scalar. `NONFINITE`, `EMPTY`, both or 0.

    Returns:
        int32 (words,).

    Raises:
        ValueError: `kind` is none of these.
        tf.errors.InvalidArgumentError: when run, if k is out of range, a flag does not
            exist, or the payload would be longer than 2^31 - 1 words.
    """
    _require_framed(kind)
    count, flags = tf.convert_to_tensor(count), tf.convert_to_tensor(flags)
    return with_header(
        [body], block, size=size, count=count, codes=kind << 20, flags=flags
    )


def open_frame(payload: tf.Tensor, kind: int, size: int, block_size: int) -> Frame:
    """Reads what `frame` wrote.

    Args:
        payload: int32 (words,), may be followed by padding.
        kind: That the reader expects.
        size: n that the reader expects.
        block_size: m that the reader expects.

    Raises:
        ValueError: `kind` is not in [1, 15].
        tf.errors.InvalidArgumentError: when run, if the payload is not of this format,
            version and kind, does not have these sizes, or is cut short.
    """
    _require_framed(kind)
    payload, header = read_header(payload, kind, size, block_size)
    words, count = header.words, header.count
    unused = header.code | header.value_type | header.low_bits | header.scale
    good = (unused == 0) & known_flags(header.flags)
    payload = checked(payload, good, BAD_CODES)
    # Never overflows: m is the reader's own.
    good = (words >= HEADER_WORDS + block_size) & (words <= tf.size(payload))
    good &= (count >= 0) & (count <= size)
    payload = checked(payload, good, BAD_LENGTHS)
    end = words - block_size
    block = tf.bitcast(payload[end:words], tf.float32)
    return Frame(
        payload[HEADER_WORDS:end],
        tf.ensure_shape(block, [block_size]),
        count,
        words,
        header.flags,
    )


def _require_framed(kind: int) -> None:
    if not ENTRIES < kind <= GREATEST_KIND:
        raise ValueError(
            f"`kind` must be in [{ENTRIES + 1}, {GREATEST_KIND}]. Received: "
            f"kind={kind}. Kind {ENTRIES} is entries: `wire.encode` writes them."
        )
