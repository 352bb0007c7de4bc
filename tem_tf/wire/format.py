"""The words of one message of entries: exact, self-describing, never empty.

A payload is a vector of 32-bit words, because TensorFlow's collectives carry int32 but
neither bytes nor bfloat16, and fail on zero-length tensors:

    6 words         header: lengths, codes, flags such as "my gradient was not finite"
    index words     indices: gaps in a Rice code, a bitmap, or nothing
    value words     float32, two 16-bit values to a word, or scales and codes
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

from tem_tf.sparse_gradient import MaskedGradient, SparseGradient
from tem_tf.wire import few_bits, index_codes, value_types
from tem_tf.wire.header import (
    BAD_CODES,
    BAD_LENGTHS,
    EMPTY,
    ENTRIES,
    HEADER_WORDS,
    NONFINITE,
    WRITE,
    checked,
    known_flags,
    read_header,
    with_header,
)
from tem_tf.wire.index_codes import ALL, BITMAP, GAPS, SHARED
from tem_tf.wire.value_types import VALUE_DTYPES


class Payload(NamedTuple):
    """A decoded payload.

    Attributes:
        message: The sparse part.
        block: float32 (m,). The dense part.
        entries: int32 scalar. k, of which the message has more where all travel.
        words: int32 scalar. Length without padding.
        flags: int32 scalar. `NONFINITE`, `EMPTY`, both or 0.
    """

    message: SparseGradient
    block: tf.Tensor
    entries: tf.Tensor
    words: tf.Tensor
    flags: tf.Tensor

    @property
    def nonfinite(self) -> tf.Tensor:
        """int32 scalar, 1 if the sender's gradient was not finite, else 0."""
        return self.flags & NONFINITE

    @property
    def empty(self) -> tf.Tensor:
        """int32 scalar, 1 if the sender's batch was empty, else 0."""
        return self.flags // EMPTY


def rounded(
    message: Any,
    value_dtype: str,
    library: ModuleType | None = None,
    seed: tf.Tensor | None = None,
) -> Any:
    """Returns a message with the values that the others will decode.

    To be called before the residual is computed, so that what rounding takes away is
    kept. Messages that are no entries have a code of their own, and stay what they are.

    Args:
        message: Of any kind.
        value_dtype: One of `VALUE_DTYPES`.
        library: As in `encode`.
        seed: int32 (2,). Of rounding by chance in few bits. Default: to nearest.
    """
    if isinstance(message, MaskedGradient):
        return message._replace(vector=_rounded_vector(message, value_dtype))
    if not isinstance(message, SparseGradient):
        return message
    if seed is not None:
        grid = message.grid or value_types.grid_of(message.values, value_dtype)
        uniform = tf.random.stateless_uniform(tf.shape(message.values), seed)
        values = few_bits.drawn_to(message.values, grid, value_dtype, uniform)
        return message._replace(values=values, grid=grid)
    levels = value_types.levels(value_dtype)
    if library is not None and levels and message.grid is None:
        values, *grid = library.tem_tf_round_few_bits(
            message.values, value_type=VALUE_DTYPES.index(value_dtype), levels=levels
        )
        return message._replace(values=values, grid=value_types.Grid(*grid))
    grid = message.grid or value_types.grid_of(message.values, value_dtype)
    values = value_types.round_values(message.values, value_dtype, grid)
    return message._replace(values=values, grid=grid)


def _rounded_vector(message: MaskedGradient, value_dtype: str) -> tf.Tensor:
    if value_types.has_zero(value_dtype):  # Zeros change neither scale nor rounding.
        return value_types.round_values(message.vector, value_dtype)
    # Entries are in groups as they would travel: one after another, then zeros.
    size = message.mask.shape[0]
    place = tf.cumsum(tf.cast(message.mask, tf.int32)) - 1
    place = tf.where(message.mask, place, size)[:, tf.newaxis]  # The last is dropped.
    values = tf.scatter_nd(place, message.vector, [size + 1])[:size]
    grid = value_types.grid_of(values, value_dtype, message.entries())
    values = value_types.round_values(values, value_dtype, grid)
    back = tf.gather_nd(tf.pad(values, [[0, 1]]), place)
    return tf.where(message.mask, back, tf.zeros_like(back))


def encode(
    message: SparseGradient,
    block: tf.Tensor,
    flags: tf.Tensor,
    value_dtype: str = "float32",
    shared: bool = False,
    library: ModuleType | None = None,
) -> tf.Tensor:
    """Writes a message into one buffer.

    Args:
        message: k entries of a vector of n, in ascending order of their indices.
        block: float32 (m,).
        flags: int32 scalar. `NONFINITE`, `EMPTY`, both or 0.
        value_dtype: One of `VALUE_DTYPES`: how the entries' values travel. The block
            stays float32: nothing keeps what rounding would take from it.
        shared: Whether every receiver knows the indices, so that none travel; then
            they may be in any order.
        library: The native ops, which give the same words sooner; None: TensorFlow's.

    Returns:
        int32 (words,).

    Raises:
        tf.errors.InvalidArgumentError: when run, if indices are not ascending numbers
            in [0, n), a flag does not exist, or the payload would be longer than
            2^31 - 1 words.
    """
    size, count = message.size, tf.size(message.values)
    indices, values = message.indices, message.values
    value_type = VALUE_DTYPES.index(value_dtype)
    grid = message.grid or value_types.grid_of(values, value_dtype)
    if library is not None:
        scales, spread = grid or (tf.zeros([0]), tf.constant(0))
        return library.tem_tf_encode(
            *(values, indices, block, flags, scales, spread),
            size=size,
            value_type=value_type,
            shared=shared,
            levels=value_types.levels(value_dtype),
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
        code = _choose_code(count, size, value_dtype)
        code = checked(code, ascending, _NOT_ASCENDING, WRITE)
        index_words, low_bits, values = tf.switch_case(
            code,
            {
                GAPS: lambda: tf.cond(count > 0, gaps, lambda: nothing(values)),
                BITMAP: bitmap,
                ALL: everything,
            },
        )
    value_words, scale = value_types.encode_values(values, value_dtype, grid)
    codes = (
        code
        + (value_type << 4)
        + tf.bitwise.left_shift(low_bits, 8)
        + tf.bitwise.left_shift(scale, 24)
    )
    return with_header(
        [index_words, value_words],
        block,
        size=size,
        count=count,
        codes=codes,
        flags=flags,
    )


def words_of(
    message: MaskedGradient, block_size: int, value_dtype: str = "float32"
) -> tf.Tensor:
    """How many words `encode` would write, from a mask and without writing them.

    Args:
        message: k entries of a vector of n.
        block_size: m.
        value_dtype: As in `encode`.

    Returns:
        int32 scalar.
    """
    size, count = message.mask.shape[0], tf.cast(message.entries(), tf.int64)

    def of_values(number: tf.Tensor | int) -> tf.Tensor | int:
        return value_types.words_of_values(number, value_dtype)

    words = of_values(count)
    if not message.known:
        code = _choose_code(message.entries(), size, value_dtype)
        bitmap = tf.cast(index_codes.words_of_bits(size), tf.int64)
        gaps = index_codes.words_of_gaps(message.mask)
        sparse = words + tf.where(code == BITMAP, bitmap, gaps)
        words = tf.where(code == ALL, tf.cast(of_values(size), tf.int64), sparse)
    return HEADER_WORDS + block_size + tf.cast(words, tf.int32)


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
        tf.errors.InvalidArgumentError: when run, if the payload is not of this format,
            version and kind, does not have these sizes, is cut short, or its indices
            are not ascending numbers within the vector.
    """
    expected = VALUE_DTYPES.index(value_dtype)
    shared = shared_indices is not None
    if library is not None:
        values, indices, *rest = library.tem_tf_decode(
            *(payload, tf.size(shared_indices) if shared else -1),
            size=size,
            block_size=block_size,
            value_type=expected,
            levels=value_types.levels(value_dtype),
        )
        indices = shared_indices if shared else indices
        return Payload(SparseGradient(values, indices, size), *rest)
    payload, header = read_header(payload, ENTRIES, size, block_size)
    words, count, code = header.words, header.count, header.code
    low_bits, scale = header.low_bits, header.scale
    payload = checked(payload, header.value_type == expected, _OTHER_VALUES)

    least, greatest = value_types.scales_between(value_dtype)
    payload = checked(
        payload,
        (code <= SHARED)
        & known_flags(header.flags)
        & (low_bits <= tf.where(code == GAPS, index_codes.GREATEST_LOW_BITS, 0))
        & (scale >= least)
        & (scale <= greatest)
        & ((code == SHARED) == shared),
        BAD_CODES,
    )
    good = (count >= 0) & (count <= size) & (words <= tf.size(payload))
    if not value_types.has_zero(value_dtype):
        good &= (code != ALL) | (count == size)
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
    payload = checked(payload, good, BAD_LENGTHS)

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
        payload = checked(payload, good, _BAD_INDICES)
    else:
        indices = shared_indices
    if value_dtype != "float32":
        good = value_types.good_words(value_words, values_sent, value_dtype)
        value_words = checked(value_words, good, _BAD_VALUES)
    values = value_types.decode_values(value_words, values_sent, scale, value_dtype)
    block = tf.bitcast(payload[end:words], tf.float32)
    return Payload(
        SparseGradient(values, indices, size),
        tf.ensure_shape(block, [block_size]),
        count,
        words,
        header.flags,
    )


def _choose_code(count: tf.Tensor, size: int, value_dtype: str) -> tf.Tensor:
    """See `index_codes.choose_code`; ALL may need zeros between the entries."""
    code = index_codes.choose_code(
        count, size, lambda x: value_types.words_of_values(x, value_dtype)
    )
    if value_types.has_zero(value_dtype):
        return code
    # A bitmap takes one more bit for each entry.
    return tf.where((code == ALL) & (count < size), BITMAP, code)


_OTHER_VALUES = (
    "the values of a payload are of another type: do all workers have the same "
    "value_dtype?"
)
_BAD_INDICES = (
    "the indices in a payload are not ascending numbers within the gradient, as many "
    "as its header says."
)
_BAD_VALUES = "unused bits of the values of a payload are not zero, or no scale is so."
_NOT_ASCENDING = (
    "the indices of a message are not ascending numbers within the gradient."
)
