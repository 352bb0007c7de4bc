"""The six words at the head of every payload, and why a payload is refused.

docs/wire-format.md has them byte by byte. The native twin is in
`native/src/wire_code.h`: the same words, and the same refusals in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

HEADER_WORDS = 6
# Version 1 had 32 bits for every index and value, version 2 one kind of message.
VERSION = 3
MAGIC = int.from_bytes(bytes([VERSION]) + b"MET", "little")  # "TEM", read backwards.
MOST_WORDS = 2**31 - 1  # Lengths are int32.

# Kinds of message. Those of 1 to 15 have a body that only their readers understand.
ENTRIES = 0
GREATEST_KIND = 15

# Flags, each one bit.
NONFINITE = 1  # The sender's gradient was not finite.
EMPTY = 2  # The sender's batch was empty.
_ALL_FLAGS = NONFINITE | EMPTY

READ, WRITE = "tem_tf cannot read the wire", "tem_tf cannot write the wire"
BAD_CODES = "the header of a payload has codes that do not exist."
BAD_LENGTHS = "the lengths in the header of a payload do not agree."
_TOO_SHORT = "a payload is shorter than its header."
_NOT_OURS = (
    "a payload is not of the wire format of tem_tf: do all workers run the same tem_tf?"
)
_OTHER_VERSION = (
    "a payload is of wire format ",
    f"; this tem_tf reads {VERSION}: do all workers run the same tem_tf?",
)
_OTHER_KIND = (
    "a payload has a message of kind ",
    " where one of kind {} is read: do all workers have the same compressor?",
)
_OTHER_SIZES = (
    "a payload is for a gradient of another size: do all workers train the same model?"
)
_BAD_FLAGS = "a message has flags that do not exist."
_BAD_COUNT = "a message has fewer entries than none, or more than its gradient."
_TOO_LONG = "a message takes more than 2^31 - 1 words."


class Header(NamedTuple):
    """What the words of a header say, each an int32 scalar.

    Attributes:
        words: Length of the payload without padding.
        count: k, the entries that the message stands for.
        code: How indices travel.
        value_type: How values travel.
        low_bits: l, of a gap.
        flags: `NONFINITE`, `EMPTY`, both or 0.
        scale: s, of float16 values.
    """

    words: tf.Tensor
    count: tf.Tensor
    code: tf.Tensor
    value_type: tf.Tensor
    low_bits: tf.Tensor
    flags: tf.Tensor
    scale: tf.Tensor


def with_header(
    body: Sequence[tf.Tensor],
    block: tf.Tensor,
    *,
    size: int,
    count: tf.Tensor,
    codes: tf.Tensor | int,
    flags: tf.Tensor,
) -> tf.Tensor:
    """Puts a header, the parts of a body and the dense block end to end.

    Args:
        body: int32 vectors.
        block: float32 (m,).
        size: n.
        count: int32 scalar, k.
        codes: int32 scalar. The sixth word, but for the flags.
        flags: int32 scalar.

    Returns:
        int32 (words,).

    Raises:
        tf.errors.InvalidArgumentError: when run, if k is not in [0, n], a flag does not
            exist, or there would be more than 2^31 - 1 words.
    """
    parts = [*body, tf.bitcast(block, tf.int32)]
    words = HEADER_WORDS + sum(tf.size(part, tf.int64) for part in parts)
    words = checked(words, flags & ~_ALL_FLAGS == 0, _BAD_FLAGS, WRITE)
    words = checked(words, (count >= 0) & (count <= size), _BAD_COUNT, WRITE)
    words = checked(words, words <= MOST_WORDS, _TOO_LONG, WRITE)
    codes += tf.bitwise.left_shift(flags, 16)
    header = [MAGIC, tf.cast(words, tf.int32), size, count, tf.size(block), codes]
    return tf.concat([tf.stack(header), *parts], axis=0)


def read_header(
    payload: tf.Tensor, kind: int, size: int, block_size: int
) -> tuple[tf.Tensor, Header]:
    """Reads the header of a payload of one kind for a gradient of one size.

    Args:
        payload: int32 (words,), may be followed by padding.
        kind: That the reader expects.
        size: n that the reader expects.
        block_size: m that the reader expects.

    Returns:
        The payload, of which nothing is read if it is refused, and its header, whose
        lengths and codes, flags apart, are not checked yet.

    Raises:
        tf.errors.InvalidArgumentError: when run, if the payload is not of this format,
            version and kind, or does not have these sizes.
    """
    payload = checked(payload, tf.size(payload) >= HEADER_WORDS, _TOO_SHORT)
    magic = payload[0]
    payload = checked(payload, magic & ~255 == MAGIC & ~255, _NOT_OURS)
    payload = checked(payload, magic == MAGIC, _named(_OTHER_VERSION, magic & 255))
    _, words, n, count, m, codes = tf.unstack(payload[:HEADER_WORDS], HEADER_WORDS)

    def field(first: int, bits: int) -> tf.Tensor:
        return tf.bitwise.right_shift(codes, first) & (2**bits - 1)

    before, after = _OTHER_KIND
    other_kind = _named((before, after.format(kind)), field(20, 4))
    payload = checked(payload, field(20, 4) == kind, other_kind)
    payload = checked(payload, (n == size) & (m == block_size), _OTHER_SIZES)
    flags = field(16, 4)
    header = Header(
        words=words,
        count=count,
        code=field(0, 4),
        value_type=field(4, 4),
        low_bits=field(8, 8),
        flags=flags,
        scale=tf.bitwise.right_shift(codes, 24),  # With its sign.
    )
    return payload, header


def known_flags(flags: tf.Tensor) -> tf.Tensor:
    """Whether there are no others: bool scalar."""
    return flags <= _ALL_FLAGS


def checked(
    tensor: tf.Tensor,
    condition: tf.Tensor,
    otherwise: str | tf.Tensor,
    doing: str = READ,
) -> tf.Tensor:
    """Returns a tensor from which nothing is computed unless the condition holds."""
    said = f"{doing}: " + otherwise
    # The op itself: tf.debugging.Assert makes a tf.cond of every check in a graph.
    check = tf.raw_ops.Assert(condition=condition, data=[said])
    with tf.control_dependencies([check]):
        return tf.identity(tensor)


def _named(around: tuple[str, str], number: tf.Tensor) -> tf.Tensor:
    """A text with a number in it that is known when it runs."""
    return tf.strings.join([around[0], tf.strings.as_string(number), around[1]])
