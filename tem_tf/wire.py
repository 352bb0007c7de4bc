"""The words of one message: exact, self-describing, never empty.

A payload is a vector of 32-bit words, because TensorFlow's collectives carry int32 but
neither bytes nor bfloat16, and fail on zero-length tensors:

    6 words         header: lengths, codes, "my gradient was not finite"
    index words     indices: gaps in a Rice code, a bitmap, or nothing
    value words     float32, or two 16-bit values to a word
    m words         dense block (small variables, sent whole), float32
    any words       padding, up to the longest payload of the step

docs/wire-format.md has it byte by byte. Indices are exact; values are, too, once
`rounded` has made them what the others will decode. The native twin is
`native/src/wire_code.h`: the same words, and the same payloads refused.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf import index_codes, value_types
from tem_tf.index_codes import ALL, BITMAP, GAPS, SHARED
from tem_tf.sparse_gradient import SparseGradient
from tem_tf.value_types import VALUE_DTYPES

# "TEM", then the version. Version 1 had 32 bits for every index and value.
MAGIC = int.from_bytes(b"\x02MET", "little")
HEADER_WORDS = 6
NONFINITE = 1
MOST_WORDS = 2**31 - 1  # Lengths are int32.


class Payload(NamedTuple):
    """A decoded payload.

    Attributes:
        message: The sparse part.
        block: float32 (m,). The dense part.
        entries: int32 scalar. k, of which the message has more where all travel.
        words: int32 scalar. Length without padding.
        nonfinite: int32 scalar, 1 if the sender's gradient was not finite, else 0.
    """

    message: SparseGradient
    block: tf.Tensor
    entries: tf.Tensor
    words: tf.Tensor
    nonfinite: tf.Tensor


def rounded(message: Any, value_dtype: str) -> Any:
    """Returns a message with the values that the others will decode.

    To be called before the residual is computed, so that what rounding takes away is
    kept. Messages that are no `SparseGradient` are summed in float32 on the way, and
    stay what they are.
    """
    if not isinstance(message, SparseGradient):
        return message
    values = value_types.round_values(message.values, value_dtype)
    return message._replace(values=values)


def encode(
    message: SparseGradient,
    block: tf.Tensor,
    nonfinite: tf.Tensor,
    value_dtype: str = "float32",
    shared: bool = False,
    library: ModuleType | None = None,
) -> tf.Tensor:
    """Writes a message into one buffer.

    Args:
        message: k entries of a vector of n, in ascending order of their indices.
        block: float32 (m,).
        nonfinite: int32 scalar, 0 or 1.
        value_dtype: "float32", "bfloat16" or "float16": how the entries' values travel.
            The block stays float32: nothing keeps what rounding would take from it.
        shared: Whether every receiver knows the indices, so that none travel; then
            they may be in any order.
        library: The native ops, which give the same words sooner; None: TensorFlow's.

    Returns:
        int32 (words,).

    Raises:
        tf.errors.InvalidArgumentError: when run, if indices are not ascending numbers
            in [0, n), or the payload would be longer than 2^31 - 1 words.
    """
    size, count = message.size, tf.size(message.values)
    indices, values = message.indices, message.values
    value_type = VALUE_DTYPES.index(value_dtype)
    if library is not None:
        return library.tem_tf_encode(
            *(values, indices, block, nonfinite),
            size=size,
            value_type=value_type,
            shared=shared,
        )

    def gaps() -> tuple[tf.Tensor, ...]:
        words, low_bits = index_codes.encode_gaps(indices, size)
        return words, low_bits, values

    def nothing(values: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tf.zeros([0], tf.int32), tf.constant(0), values

    def bitmap() -> tuple[tf.Tensor, ...]:
        return index_codes.encode_bitmap(indices, size), tf.constant(0), values

    def everything() -> tuple[tf.Tensor, ...]:
        dense = tf.tensor_scatter_nd_update(
            tf.zeros([size]), indices[:, tf.newaxis], values
        )
        return nothing(dense)

    if shared:
        code = tf.constant(SHARED)
        index_words, low_bits, values = nothing(values)
    else:
        steps = tf.concat([[-1], indices, [size]], axis=0)
        ascending = tf.reduce_all(steps[1:] > steps[:-1])
        code = index_codes.choose_code(
            count, size, lambda x: value_types.words_of_values(x, value_dtype)
        )
        code = _checked(code, ascending, _NOT_ASCENDING, _WRITE)
        index_words, low_bits, values = tf.switch_case(
            code,
            {
                GAPS: lambda: tf.cond(count > 0, gaps, lambda: nothing(values)),
                BITMAP: bitmap,
                ALL: everything,
            },
        )
    value_words, scale = value_types.encode_values(values, value_dtype)
    body = [index_words, value_words, tf.bitcast(block, tf.int32)]
    words = HEADER_WORDS + sum(tf.size(part, tf.int64) for part in body)
    codes = (
        code
        + (value_type << 4)
        + tf.bitwise.left_shift(low_bits, 8)
        + tf.bitwise.left_shift(nonfinite * NONFINITE, 16)
        + tf.bitwise.left_shift(scale, 24)
    )
    words = tf.cast(_checked(words, words <= MOST_WORDS, _TOO_LONG, _WRITE), tf.int32)
    header = [MAGIC, words, size, count, tf.size(block), codes]
    return tf.concat([tf.stack(header), *body], axis=0)


def decode(
    payload: tf.Tensor,
    size: int,
    block_size: int,
    value_dtype: str = "float32",
    shared_indices: tf.Tensor | None = None,
    library: ModuleType | None = None,
) -> Payload:
    """Reads what `encode` wrote.

    Args:
        payload: int32 (words,), may be followed by padding.
        size: n that the reader expects.
        block_size: m that the reader expects.
        value_dtype: The type of values that the reader expects.
        shared_indices: int32 (k,) where the sender's `shared` was true, else None.
        library: As in `encode`.

    Returns:
        The message adds up to the encoder's; its indices are ascending unless they are
        shared. Where values of all entries travel, all n are in it.

    Raises:
        tf.errors.InvalidArgumentError: when run, if the payload is not of this format
            and version, does not have these sizes, is cut short, or its indices are
            not ascending numbers within the vector.
    """
    expected = VALUE_DTYPES.index(value_dtype)
    shared = shared_indices is not None
    if library is not None:
        values, indices, *rest = library.tem_tf_decode(
            *(payload, tf.size(shared_indices) if shared else -1),
            size=size,
            block_size=block_size,
            value_type=expected,
        )
        indices = shared_indices if shared else indices
        return Payload(SparseGradient(values, indices, size), *rest)
    payload = _checked(payload, tf.size(payload) >= HEADER_WORDS, _TOO_SHORT)
    payload = _checked(payload, payload[0] == MAGIC, _NOT_OURS)
    _, words, n, count, m, codes = tf.unstack(payload[:HEADER_WORDS], HEADER_WORDS)
    payload = _checked(payload, (n == size) & (m == block_size), _OTHER_SIZES)
    code, low_bits = codes & 15, tf.bitwise.right_shift(codes, 8) & 255
    value_type = tf.bitwise.right_shift(codes, 4) & 15
    flags = tf.bitwise.right_shift(codes, 16) & 255
    scale = tf.bitwise.right_shift(codes, 24)  # With its sign.
    payload = _checked(payload, value_type == expected, _OTHER_VALUES)

    half = value_dtype == "float16"
    least, greatest = value_types.LEAST_SCALE, value_types.GREATEST_SCALE
    payload = _checked(
        payload,
        (code <= SHARED)
        & (flags <= NONFINITE)
        & (low_bits <= tf.where(code == GAPS, index_codes.GREATEST_LOW_BITS, 0))
        & (scale >= (least if half else 0))
        & (scale <= (greatest if half else 0))
        & ((code == SHARED) == shared),
        _BAD_CODES,
    )
    good = (count >= 0) & (count <= size) & (words <= tf.size(payload))
    if shared_indices is not None:
        good &= count == tf.size(shared_indices)
    values_sent = tf.where(code == ALL, size, count)
    value_words = value_types.words_of_values(
        tf.cast(values_sent, tf.int64), value_dtype
    )
    index_words = tf.cast(words, tf.int64) - HEADER_WORDS - value_words - block_size
    bits = index_codes.gap_bits_at_most(count, size, low_bits)
    bitmap_words = tf.where(code == BITMAP, index_codes.words_of_bits(size), 0)
    good &= tf.where(
        code == GAPS,
        (index_words >= 0) & (index_words <= index_codes.words_of_bits(bits)),
        index_words == tf.cast(bitmap_words, tf.int64),
    )
    payload = _checked(payload, good, _BAD_LENGTHS)

    start = HEADER_WORDS + tf.cast(index_words, tf.int32)
    end = words - block_size
    index_words, value_words = payload[HEADER_WORDS:start], payload[start:end]
    if shared_indices is None:
        indices, good = tf.switch_case(
            code,
            {
                GAPS: lambda: index_codes.decode_gaps(
                    index_words, count, size, low_bits
                ),
                BITMAP: lambda: index_codes.decode_bitmap(index_words, count, size),
                ALL: lambda: (tf.range(size), tf.constant(True)),
            },
        )
        payload = _checked(payload, good, _BAD_INDICES)
    else:
        indices = shared_indices
    if value_dtype != "float32":
        unused = tf.where(
            values_sent % 2 == 1, tf.bitwise.right_shift(payload[:end][-1], 16), 0
        )
        value_words = _checked(value_words, unused == 0, _BAD_VALUES)
    values = value_types.decode_values(value_words, values_sent, scale, value_dtype)
    block = tf.bitcast(payload[end:words], tf.float32)
    return Payload(
        SparseGradient(values, indices, size),
        tf.ensure_shape(block, [block_size]),
        count,
        words,
        flags & NONFINITE,
    )


_READ, _WRITE = "tem_tf cannot read the wire", "tem_tf cannot write the wire"
_TOO_SHORT = "a payload is shorter than its header"
_NOT_OURS = (
    "a payload is not of this wire format and version: do all workers run the same "
    "tem_tf?"
)
_OTHER_SIZES = (
    "a payload is for a gradient of another size: do all workers train the same model?"
)
_OTHER_VALUES = (
    "the values of a payload are of another type: do all workers have the same "
    "value_dtype?"
)
_BAD_CODES = "the header of a payload has codes that do not exist"
_BAD_LENGTHS = "the lengths in the header of a payload do not agree"
_BAD_INDICES = (
    "the indices in a payload are not ascending numbers within the gradient, as many "
    "as its header says"
)
_BAD_VALUES = "unused bits of the values of a payload are not zero"


_NOT_ASCENDING = (
    "the indices of a message are not ascending numbers within the gradient"
)
_TOO_LONG = "a message takes more than 2^31 - 1 words"


def _checked(
    tensor: tf.Tensor, condition: tf.Tensor, otherwise: str, doing: str = _READ
) -> tf.Tensor:
    """Returns a tensor from which nothing is computed unless the condition holds."""
    # The op itself: tf.debugging.Assert makes a tf.cond of every check in a graph.
    check = tf.raw_ops.Assert(condition=condition, data=[f"{doing}: {otherwise}."])
    with tf.control_dependencies([check]):
        return tf.identity(tensor)
