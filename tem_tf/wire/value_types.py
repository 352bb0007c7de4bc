"""How values travel: as float32, in 16 bits, or in 8, 4, 2 or 1 (`few_bits`).

bfloat16 has float32's exponents and 8 significant bits. float16 has 11 and few
exponents, so all values v of a message share a scale 2^s, and v·2^-s is what is
rounded: neither a λ of 1e-6 underflows nor does a large value overflow. The scale is
that of the largest magnitude, so that v·2^-s < 2^15. Values below 2^-29 of the largest
keep fewer than 11 bits, and below 2^-39 of it none.

Both round to nearest, ties to even; finite values beyond the largest of the type become
that one. In 16 bits subnormal values count as zero, as in TensorFlow's arithmetic. The
native twin is `native/src/wire_values.h`.
"""

from __future__ import annotations

import tensorflow as tf

from tem_tf.wire import few_bits
from tem_tf.wire.few_bits import Grid

# Names, in the order of their numbers on the wire.
VALUE_DTYPES = ("float32", "bfloat16", "float16", *few_bits.BITS)

# Exponents s: the least for which every float16 times 2^s is a normal float32 or zero,
# and that of the largest float32.
LEAST_SCALE = -101
GREATEST_SCALE = 113

_MAGNITUDE, _SIGN = 0x7FFFFFFF, 0x8000
_INFINITY, _LEAST_NORMAL = 0x7F800000, 0x00800000
# Bits of the largest float32 that the type holds: 8, and 11, ones at 2^127.
_LARGEST = {"bfloat16": 0x7F7F0000, "float16": 0x7F7FE000}
_NAN = {"bfloat16": 0x7FC0, "float16": 0x7E00}


def words_of_values(count: tf.Tensor | int, value_dtype: str) -> tf.Tensor | int:
    """32-bit words that `count` values take; the last is filled up with zeros."""
    if value_dtype in few_bits.BITS:
        codes = few_bits.words_of_codes(count, value_dtype)
        return few_bits.words_of_scales(count) + codes
    return count if value_dtype == "float32" else (count + 1) // 2


def has_zero(value_dtype: str) -> bool:
    """Whether every message may have zeros among its values."""
    return value_dtype not in few_bits.BITS


def levels(value_dtype: str) -> tuple[float, ...]:
    """What the native ops need to know of few bits: see `few_bits.levels`."""
    return few_bits.levels(value_dtype) if value_dtype in few_bits.BITS else ()


def grid_of(
    values: tf.Tensor, value_dtype: str, count: tf.Tensor | None = None
) -> Grid | None:
    """What values are rounded to: see `few_bits.grid_of`; None where each has its own.

    Args:
        values: float32 (m,).
        value_dtype: One of `VALUE_DTYPES`.
        count: As there.
    """
    if value_dtype in few_bits.BITS:
        return few_bits.grid_of(values, count)
    return None


def encode_values(
    values: tf.Tensor, value_dtype: str, grid: Grid | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Rounds values and lays their bits end to end.

    Args:
        values: float32 (k,).
        value_dtype: One of `VALUE_DTYPES`.
        grid: `grid_of` the values before they were rounded. Default: of these.

    Returns:
        int32 words, and int32 scale: s of float16, the spread of few bits, else 0.
    """
    if value_dtype in few_bits.BITS:
        grid = grid or few_bits.grid_of(values)
        return few_bits.encode_values(values, grid, value_dtype), grid.spread
    if value_dtype == "float32":
        return tf.bitcast(values, tf.int32), tf.constant(0)
    bits = tf.bitcast(values, tf.int32)
    magnitude = tf.minimum(bits & _MAGNITUDE, _INFINITY + 1)  # One NaN is enough.
    largest = tf.minimum(magnitude, _LARGEST[value_dtype])
    saturated = tf.where(magnitude < _INFINITY, largest, magnitude)
    if value_dtype == "bfloat16":
        scale = tf.constant(0)
        codes = _round_at(tf.where(saturated < _LEAST_NORMAL, 0, saturated), 16)
    else:
        scale = _scale(saturated)
        scaled = tf.bitcast(saturated, tf.float32) * _power_of_two(-scale)
        codes = tf.bitcast(tf.cast(scaled, tf.float16), tf.uint16)
        codes = tf.cast(codes, tf.int32)
    codes = tf.where(magnitude > _INFINITY, _NAN[value_dtype], codes)
    codes |= tf.bitwise.right_shift(bits, 16) & _SIGN
    codes = tf.pad(codes, [[0, tf.size(codes) % 2]])
    return tf.bitcast(tf.reshape(tf.cast(codes, tf.uint16), [-1, 2]), tf.int32), scale


def decode_values(
    words: tf.Tensor, count: tf.Tensor, scale: tf.Tensor, value_dtype: str
) -> tf.Tensor:
    """Reads what `encode_values` wrote: float32 (count,)."""
    if value_dtype in few_bits.BITS:
        return few_bits.decode_values(words, count, scale, value_dtype)
    if value_dtype == "float32":
        return tf.bitcast(words, tf.float32)
    codes = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:count]
    if value_dtype == "bfloat16":
        bits = tf.bitwise.left_shift(tf.cast(codes, tf.int32), 16)
        return tf.bitcast(bits, tf.float32)
    halves = tf.cast(tf.bitcast(codes, tf.float16), tf.float32)
    return halves * _power_of_two(scale)


def scales_between(value_dtype: str) -> tuple[int, int]:
    """The least and the greatest scale that `encode_values` returns."""
    if value_dtype in few_bits.BITS:
        return few_bits.LEAST_SPREAD, few_bits.GREATEST_SPREAD
    return (LEAST_SCALE, GREATEST_SCALE) if value_dtype == "float16" else (0, 0)


def good_words(words: tf.Tensor, count: tf.Tensor, value_dtype: str) -> tf.Tensor:
    """Whether `encode_values` can have written the words of so many values: bool."""
    if value_dtype in few_bits.BITS:
        return few_bits.good_words(words, count, value_dtype)
    if value_dtype == "float32":
        return tf.constant(True)
    last = tf.concat([[0], words], axis=0)[-1]
    return (count % 2 == 0) | (tf.bitwise.right_shift(last, 16) == 0)


def round_values(
    values: tf.Tensor, value_dtype: str, grid: Grid | None = None
) -> tf.Tensor:
    """Returns values (k,) as the others will decode them; twice changes nothing.

    Args:
        values: float32 (k,).
        value_dtype: One of `VALUE_DTYPES`.
        grid: Theirs, or of what they were rounded from. Default: `grid_of` them.
    """
    if value_dtype in few_bits.BITS:
        return few_bits.round_to(values, grid or few_bits.grid_of(values), value_dtype)
    if value_dtype == "float32":
        return values
    words, scale = encode_values(values, value_dtype)
    rounded = decode_values(words, tf.size(values), scale, value_dtype)
    return tf.ensure_shape(rounded, values.shape)


def _round_at(bits: tf.Tensor, cut: int) -> tf.Tensor:
    """Bits of positive floats without the last `cut`: to nearest, ties to even."""
    odd = tf.bitwise.right_shift(bits, cut) & 1
    return tf.bitwise.right_shift(bits + (2 ** (cut - 1) - 1) + odd, cut)


def _scale(magnitude: tf.Tensor) -> tf.Tensor:
    """The exponent s for float32 bits (k,): int32 scalar.

    From the exponent of the largest magnitude after rounding it to 11 bits, so that
    rounding a message twice is rounding it once.
    """
    largest = tf.reduce_max(tf.concat([[0], magnitude], axis=0))
    exponent = tf.bitwise.right_shift(_round_at(largest, 13), 10) - 127
    return tf.clip_by_value(exponent - 14, LEAST_SCALE, GREATEST_SCALE)


def _power_of_two(exponent: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(tf.bitwise.left_shift(exponent + 127, 23), tf.float32)
