"""How ascending indices travel: as gaps in a Rice code, as a bitmap, or not at all.

Of k indices in [0, n) the gaps g_i = index_i - index_(i-1) - 1 are written as their l
low bits, all of them first, and then each g_i >> l in unary: so many zeros and a one.

    bits = k·(l + 1) + Σ (g_i >> l)  <=  k·(l + 1) + ((n - k) >> l)

The bound is Elias-Fano's length with the same l. Random indices take about 0.1 bits
each more than log2 C(n, k)/k; those of gradients, of which some regions have more, lie
between that and the bound. l is the one that takes the fewest bits. Everything here is
vectorised over k and n; the native twin is `native/src/wire_indices.h`.

References:
    Rice and Plaunt, IEEE Transactions on Communication Technology 19(6), 1971.
    Elias, Journal of the ACM 21(2), 1974, for the bound.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# Numbers on the wire. ALL: values for all n entries. SHARED: the receiver knows the
# indices, because all workers send the same.
GAPS, BITMAP, ALL, SHARED = range(4)
GREATEST_LOW_BITS = 30  # 2^30 is the largest power of two below 2^31 - 1.
_ROW = 32  # Our choice: of 8, 32, 64 and 1024 with XLA on a CPU the fastest, with 64.


def words_of_bits(bits: tf.Tensor | int) -> tf.Tensor | int:
    """32-bit words that hold so many bits."""
    return (bits + 31) // 32


def gap_bits_at_most(
    count: tf.Tensor, size: int, low_bits: tf.Tensor | None = None
) -> tf.Tensor:
    """Bits that gaps take at most: int64 scalar.

    Args:
        count: int32 or int64 scalar, k > 0.
        size: n.
        low_bits: int32 or int64 scalar, l. Default: Elias-Fano's, the best in general.
    """
    count = tf.cast(count, tf.int64)
    given = _first_low_bits(count, size) if low_bits is None else low_bits
    shift = tf.cast(given, tf.int64)
    return count * (shift + 1) + _shifted(size - count, shift)


def choose_code(
    count: tf.Tensor,
    size: int,
    words_of_values: Callable[[tf.Tensor | int], tf.Tensor | int],
) -> tf.Tensor:
    """The code of a message, from k and n alone: int32 scalar.

    ALL if values for all entries take no more words than k values and their indices
    can, else BITMAP if that takes no more words than gaps can, else GAPS.

    Args:
        count: int32 scalar, k.
        size: n.
        words_of_values: From a number of values to that of words they take.
    """
    count = tf.cast(count, tf.int64)
    gaps = words_of_bits(gap_bits_at_most(count, size))
    gaps = tf.where(count > 0, gaps, tf.zeros_like(gaps))
    bitmap = words_of_bits(size)
    sparse = words_of_values(count) + tf.minimum(gaps, bitmap)
    dense = words_of_values(size)
    return tf.where(dense <= sparse, ALL, tf.where(bitmap <= gaps, BITMAP, GAPS))


def encode_gaps(indices: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Writes int32 indices (k,), k > 0, as gaps: int32 words, and l (int32 scalar)."""
    wide = tf.cast(indices, tf.int64)
    gaps = wide - tf.concat([[-1], wide[:-1]], axis=0) - 1
    count = tf.size(gaps, tf.int64)
    low_bits, bits = _fewest_bits(gaps, count, size)
    lows = gaps & (_shifted(1, low_bits, left=True) - 1)
    ends = count * low_bits + tf.cumsum(_shifted(gaps, low_bits) + 1) - 1
    words = _write_bits(
        tf.concat([lows, tf.ones_like(ends)], axis=0),
        tf.concat([tf.range(count) * low_bits, ends], axis=0),
        words_of_bits(bits),
    )
    return words, tf.cast(low_bits, tf.int32)


def decode_gaps(
    words: tf.Tensor, count: tf.Tensor, size: int, low_bits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads what `encode_gaps` wrote.

    Args:
        words: int32, those of the indices and no others; at most as many as
            `gap_bits_at_most` allows.
        count: int32 scalar, k; 0 with no words.
        size: n.
        low_bits: int32 scalar, l.

    Returns:
        int32 indices, and whether they are (k,) indices, ascending, in [0, n), with
        all unused bits zero.
    """
    count, low_bits = tf.cast(count, tf.int64), tf.cast(low_bits, tf.int64)
    start = count * low_bits
    whole = start // 32
    ends = 32 * whole + _ones(words[whole:])
    ends = tf.boolean_mask(ends, ends >= start)
    last = tf.reduce_max(tf.concat([[start - 1], ends], axis=0))
    fits = words_of_bits(last + 1) == tf.size(words, tf.int64)
    good = (tf.size(ends, tf.int64) == count) & fits
    count = tf.where(good, count, tf.zeros_like(count))  # Of garbage nothing is read.
    ends = ends[:count]

    quotients = ends - tf.concat([[start - 1], ends], axis=0)[:-1] - 1
    at = tf.range(count) * low_bits
    # Two words, so that the low bits lie within; the sign is beyond them.
    longer = tf.concat([words, [0]], axis=0)
    pairs = tf.bitcast(tf.stack([longer[:-1], longer[1:]], axis=1), tf.int64)
    lows = _shifted(tf.gather(pairs, at // 32), at % 32)
    lows &= _shifted(1, low_bits, left=True) - 1
    indices = tf.cumsum(_shifted(quotients, low_bits, left=True) + lows + 1) - 1
    good &= tf.reduce_all(indices[-1:] < size)
    return tf.cast(indices, tf.int32), good


def words_of_gaps(mask: tf.Tensor) -> tf.Tensor:
    """Words that `encode_gaps` would write of the indices at which a mask is true.

    Args:
        mask: Bool (n,).

    Returns:
        int64 scalar, 0 where the mask is false everywhere.
    """
    size = mask.shape[0]
    positions = tf.range(size)
    last = _running_maximum(tf.where(mask, positions, -1))
    gaps = positions - tf.concat([[-1], last[:-1]], axis=0) - 1
    count = tf.reduce_sum(tf.cast(mask, tf.int64))
    return words_of_bits(_fewest_bits(tf.where(mask, gaps, 0), count, size)[1])


def encode_bitmap(indices: tf.Tensor, size: int) -> tf.Tensor:
    """Writes int32 indices (k,) as one bit for each of n entries: int32 words."""
    positions = tf.cast(indices, tf.int64)
    return _write_bits(tf.ones_like(positions), positions, words_of_bits(size))


def decode_bitmap(
    words: tf.Tensor, count: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads what `encode_bitmap` wrote; returns as `decode_gaps` does."""
    ones = _ones(words)
    good = (tf.size(ones) == count) & tf.reduce_all(ones[-1:] < size)
    return tf.cast(ones, tf.int32), good


def _first_low_bits(count: tf.Tensor, size: int) -> tf.Tensor:
    """Elias-Fano's l: the largest with k·2^l <= n - k, 0 if there is none: int64."""
    shifts = tf.range(1, GREATEST_LOW_BITS + 1, dtype=tf.int64)
    fits = _shifted(count, shifts, left=True) <= size - count
    return tf.reduce_sum(tf.cast(fits, tf.int64))


def _fewest_bits(
    gaps: tf.Tensor, count: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The l that takes the fewest bits, the smaller one of two, and the bits: int64.

    The number of bits is convex in l, so going down from one above Elias-Fano's finds
    it, usually at once.

    Args:
        gaps: Integers, `count` gaps and any number of zeros.
        count: int64 scalar.
        size: n.
    """

    def bits_with(low_bits: tf.Tensor) -> tf.Tensor:
        return count * (low_bits + 1) + tf.reduce_sum(_shifted(gaps, low_bits))

    def go_on(low_bits: tf.Tensor, bits: tf.Tensor, fewer: tf.Tensor) -> tf.Tensor:
        return (low_bits > 0) & (fewer <= bits)

    def lower(
        low_bits: tf.Tensor, bits: tf.Tensor, fewer: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return low_bits - 1, fewer, bits_with(tf.maximum(low_bits - 2, 0))

    first = tf.minimum(_first_low_bits(count, size) + 1, GREATEST_LOW_BITS)
    start = first, bits_with(first), bits_with(tf.maximum(first - 1, 0))
    low_bits, bits, _ = tf.while_loop(go_on, lower, start)
    return low_bits, bits


def _running_maximum(numbers: tf.Tensor) -> tf.Tensor:
    """Of each of int32 numbers (n,) >= -1 the greatest up to it.

    By rows, and what is before a row by the last of each row, likewise.
    """
    size = numbers.shape[0]
    rows = -(-size // _ROW)
    numbers = tf.pad(numbers, [[0, rows * _ROW - size]], constant_values=-1)
    numbers, reach = tf.reshape(numbers, [rows, _ROW]), 1
    while reach < _ROW:  # Each is the greatest of the last `reach` of its row.
        earlier = tf.pad(numbers[:, :-reach], [[0, 0], [reach, 0]], constant_values=-1)
        numbers, reach = tf.maximum(numbers, earlier), 2 * reach
    if rows > 1:
        before = tf.concat([[-1], _running_maximum(numbers[:-1, -1])], axis=0)
        numbers = tf.maximum(numbers, before[:, tf.newaxis])
    return tf.reshape(numbers, [-1])[:size]


def _write_bits(values: tf.Tensor, positions: tf.Tensor, length: tf.Tensor | int):
    """Writes int64 values of up to 31 bits at bit positions: int32 words (length,).

    No two overlap, so that adding words is joining their bits.
    """
    moved = _shifted(values, positions % 32, left=True)
    halves = tf.reshape(tf.bitcast(moved, tf.int32), [-1])  # Low word, high word.
    first = positions // 32
    at = tf.reshape(tf.stack([first, first + 1], axis=1), [-1])
    # The high word of the last value is zero, and may be one beyond the end. Five times
    # as fast as tf.scatter_nd.
    return tf.math.unsorted_segment_sum(halves, at, length + 1)[:-1]


def _ones(words: tf.Tensor) -> tf.Tensor:
    """Positions of the one bits of int32 words, ascending: int64."""
    bits = tf.bitwise.right_shift(words[:, tf.newaxis], tf.range(32)) & 1
    return tf.reshape(tf.where(tf.reshape(bits, [-1])), [-1])


def _shifted(values: tf.Tensor | int, bits: tf.Tensor, left: bool = False) -> tf.Tensor:
    """int64 values moved by so many bits."""
    shift = tf.bitwise.left_shift if left else tf.bitwise.right_shift
    return shift(tf.cast(values, tf.int64), bits)
