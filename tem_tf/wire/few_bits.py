"""Values in 1, 2, 4 or 8 bits: a sign, and one of few magnitudes times a group's mean.

Values stand in groups of 64, in the order in which they travel. Each group has a scale
s, the mean of its magnitudes as bfloat16; all groups of a message share a spread ρ in
(0, 1], which says how the magnitudes |v|/s lie about their mean. With b bits there are
2^(b-1) of them, and the nearest is taken:

    level_i = 1 + ρ·(e_i - 1)        value = ±s·level_i

e_i are the levels of least mean square error for the exponential distribution of mean 1
(Lloyd and Max). What a threshold or the largest k let pass is about t + β·Exp(1), with
the smallest magnitude t: relative to its mean that is 1 + ρ·(Exp(1) - 1), ρ = β/(t+β),
so the levels are those of least error for it; all entries of a Laplace distribution
have ρ = 1. Of it the mean of ||v|/s - 1| is 2ρ/e, from which ρ is found.
docs/few-bits.md has the derivation, and the errors for other distributions.

The mean of a group is a fixed tree of additions and ρ is found in integers, so that
they are the same bits with any number of threads, and in the native twin
(`native/src/wire_few_bits.h`). Scales lie in [2^-119, 2^123] or are 0, so that every
decoded value is a normal float32 or 0.

References:
    Max, IRE Transactions on Information Theory 6(1), 1960.
    Lloyd, IEEE Transactions on Information Theory 28(2), 1982.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import tensorflow as tf

BITS = {"int8": 8, "int4": 4, "int2": 2, "sign": 1}
GROUP = 64  # Values that share a scale.
# 128·ρ. Not 0, of which all levels would be one, with several codes.
LEAST_SPREAD, GREATEST_SPREAD = 1, 127
# Bits of the scales 2^-119 and 2^123 as bfloat16. Levels lie between 2^-7 and 2^4.
LEAST_SCALE, GREATEST_SCALE = 0x0400, 0x7D00

# Deviations are added up in integers, in units of 2^-12; 128·e/2 in those of 2^-8.
_UNIT_BITS, _FACTOR_BITS = 12, 8
_FACTOR = round(128 * math.e / 2 * 2**_FACTOR_BITS)
# Levels are multiples of 2^-12, so that products with a scale are exact: XLA may round
# a product and a sum with it once, others twice.
_PLACES = 2.0**12


class Grid(NamedTuple):
    """What values of a message are rounded to multiples of.

    Attributes:
        scales: float32 (G,), each a bfloat16. G = ⌈k/64⌉.
        spread: int32 scalar, 128·ρ.
    """

    scales: tf.Tensor
    spread: tf.Tensor


def words_of_scales(count: tf.Tensor | int) -> tf.Tensor | int:
    """32-bit words that the scales of so many values take, two to a word."""
    return ((count + GROUP - 1) // GROUP + 1) // 2


def words_of_codes(count: tf.Tensor | int, value_dtype: str) -> tf.Tensor | int:
    """32-bit words that the codes of so many values take."""
    at_once = 32 // BITS[value_dtype]
    return (count + at_once - 1) // at_once


def levels(value_dtype: str) -> tuple[float, ...]:
    """e_i - 1 of the exponential distribution, ascending, as multiples of 2^-12."""
    return _levels(2 ** (BITS[value_dtype] - 1))


@functools.cache
def _levels(number: int) -> tuple[float, ...]:
    # From the last cell, which has no end, downwards: what lies beyond any point is
    # distributed alike. In a cell of width w the mean is `mean(w)` from its beginning.
    def mean(width: float) -> float:
        return 1 - width / math.expm1(width)

    above = [1.0]  # Of each cell: from its beginning to its level.
    widths: list[float] = []
    for _ in range(number - 1):
        low, high = 1e-9, 64.0
        for _ in range(200):  # width - mean(width) grows with the width.
            width = (low + high) / 2
            low, high = (
                (low, width) if width - mean(width) > above[-1] else (width, high)
            )
        widths.append(low)
        above.append(mean(low))
    found, begin = [], 0.0
    for distance, width in zip(above[::-1], [*widths[::-1], 0.0], strict=True):
        found.append(round((begin + distance - 1) * _PLACES) / _PLACES)
        begin += width
    return tuple(found)


def grid_of(values: tf.Tensor, count: tf.Tensor | None = None) -> Grid:
    """The grid that values are to be rounded to.

    Args:
        values: float32 (m,), finite.
        count: int32 scalar. The first so many are meant, and the others are 0. Default:
            all. For where m must be static, as under XLA.
    """
    count = tf.size(values) if count is None else count
    groups = _grouped(values)
    number = tf.shape(groups)[0]
    within = tf.range(number * GROUP) < count
    within = tf.reshape(within, [number, GROUP])
    sizes = tf.reduce_sum(tf.cast(within, tf.int32), axis=1)
    magnitudes = tf.abs(groups)
    # TensorFlow would make a product of a quotient by a constant, in graphs alone.
    shares = 1 / tf.cast(tf.maximum(sizes, 1), tf.float32)
    means = _tree_sum(magnitudes) * shares
    scales = _to_scales(means)
    relative = magnitudes / _divisors(scales)[:, tf.newaxis]
    counts = within & (scales > 0)[:, tf.newaxis]
    deviations = tf.where(counts, tf.abs(relative - 1), tf.zeros_like(relative))
    # A mean over 64 magnitudes bounds their deviations by 128.
    deviations = tf.minimum(_tree_sum(deviations), 2.0 * GROUP)
    total = tf.reduce_sum(tf.cast(tf.round(deviations * 2**_UNIT_BITS), tf.int64))
    unit = tf.maximum(tf.reduce_sum(tf.cast(counts, tf.int64)), 1)
    unit *= 2 ** (_UNIT_BITS + _FACTOR_BITS)
    spread = (total * _FACTOR + unit // 2) // unit
    spread = tf.clip_by_value(spread, LEAST_SPREAD, GREATEST_SPREAD)
    spread = tf.cast(spread, tf.int32)
    return Grid(scales, spread)


def round_to(values: tf.Tensor, grid: Grid, value_dtype: str) -> tf.Tensor:
    """Values (k,) as the others will decode them; twice changes nothing."""
    rounded = _values(_codes(values, grid, value_dtype), grid, value_dtype)
    return tf.ensure_shape(rounded, values.shape)


def drawn_to(
    values: tf.Tensor, grid: Grid, value_dtype: str, uniform: tf.Tensor
) -> tf.Tensor:
    """Values (k,) rounded by chance to a level below or above, so that means are kept.

    But for those beyond the least and the greatest level, which become that one.

    Args:
        values: float32 (k,).
        grid: Theirs.
        value_dtype: A key of `BITS`.
        uniform: float32 (k,) in [0, 1).
    """
    levels = _magnitudes(grid.spread, value_dtype)
    scales = _of_each(grid.scales, tf.size(values))
    relative = tf.abs(values) / _divisors(scales)
    last = 2 ** (BITS[value_dtype] - 1) - 1
    above = tf.searchsorted(levels, relative, side="right")
    low = tf.gather(levels, tf.maximum(above - 1, 0))
    high = tf.gather(levels, tf.minimum(above, last))
    width = tf.where(high > low, high - low, tf.ones_like(low))
    level = tf.where(relative - low > uniform * width, high, low)
    rounded = tf.where(values < 0, -level, level) * scales
    return tf.ensure_shape(rounded, values.shape)


def encode_values(values: tf.Tensor, grid: Grid, value_dtype: str) -> tf.Tensor:
    """Writes the scales and codes of values (k,): int32 words."""
    bits = BITS[value_dtype]
    scales = tf.bitwise.right_shift(tf.bitcast(grid.scales, tf.int32), 16)
    codes = _codes(values, grid, value_dtype)
    return tf.concat([_pack(scales, 16), _pack(codes, bits)], axis=0)


def decode_values(
    words: tf.Tensor, count: tf.Tensor, spread: tf.Tensor, value_dtype: str
) -> tf.Tensor:
    """Reads what `encode_values` wrote: float32 (count,)."""
    groups, end = (count + GROUP - 1) // GROUP, words_of_scales(count)
    scales = tf.bitcast(
        tf.bitwise.left_shift(_unpack(words[:end], 16, groups), 16), tf.float32
    )
    codes = _unpack(words[end:], BITS[value_dtype], count)
    return _values(codes, Grid(scales, spread), value_dtype)


def good_words(words: tf.Tensor, count: tf.Tensor, value_dtype: str) -> tf.Tensor:
    """Whether scales are such as are written, and unused bits 0: bool scalar."""
    groups, end = (count + GROUP - 1) // GROUP, words_of_scales(count)
    scales = _unpack(words[:end], 16, 2 * end)
    at_once = 32 // BITS[value_dtype]
    codes = _unpack(words[end:], BITS[value_dtype], at_once * tf.size(words[end:]))
    known = (scales == 0) | ((scales >= LEAST_SCALE) & (scales <= GREATEST_SCALE))
    return (
        tf.reduce_all(known)
        & tf.reduce_all(scales[groups:] == 0)
        & tf.reduce_all(codes[count:] == 0)
    )


def _grouped(values: tf.Tensor) -> tf.Tensor:
    """Values (m,) and zeros after them: (⌈m/64⌉, 64)."""
    padded = tf.pad(values, [[0, -tf.size(values) % GROUP]])
    return tf.reshape(padded, [-1, GROUP])


def _tree_sum(groups: tf.Tensor) -> tf.Tensor:
    """Sums of 64 each, by halves: (G, 64) to (G,)."""
    half = GROUP // 2
    while half:
        groups = groups[:, :half] + groups[:, half : 2 * half]
        half //= 2
    return groups[:, 0]


def _to_scales(means: tf.Tensor) -> tf.Tensor:
    """float32 >= 0 as the nearest bfloat16, ties to even, within the bounds or 0."""
    bits = tf.minimum(tf.bitcast(means, tf.int32), GREATEST_SCALE << 16)
    odd = tf.bitwise.right_shift(bits, 16) & 1
    code = tf.bitwise.right_shift(bits + 0x7FFF + odd, 16)
    code = tf.where(code < LEAST_SCALE, tf.zeros_like(code), code)
    return tf.bitcast(tf.bitwise.left_shift(code, 16), tf.float32)


def _divisors(scales: tf.Tensor) -> tf.Tensor:
    return tf.where(scales > 0, scales, tf.ones_like(scales))


def _magnitudes(spread: tf.Tensor, value_dtype: str) -> tf.Tensor:
    """level_i: float32 (2^(b-1),)."""
    density = tf.cast(spread, tf.float32) * 2.0**-7
    exact = 1 + density * tf.constant(levels(value_dtype), tf.float32)
    return tf.floor(exact * _PLACES + 0.5) * (1 / _PLACES)


def _of_each(scales: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The scale of each of so many values."""
    return tf.repeat(scales, GROUP)[:count]


def _codes(values: tf.Tensor, grid: Grid, value_dtype: str) -> tf.Tensor:
    """The code of each value: int32 (k,)."""
    bits = BITS[value_dtype]
    groups = _grouped(values)
    relative = tf.abs(groups) / _divisors(grid.scales)[:, tf.newaxis]
    magnitudes = _magnitudes(grid.spread, value_dtype)
    middles = (magnitudes[:-1] + magnitudes[1:]) * 0.5
    if bits <= 4:
        nearest = tf.zeros_like(relative, tf.int32)
        for middle in tf.unstack(middles, num=2 ** (bits - 1) - 1):
            nearest += tf.cast(relative >= middle, tf.int32)
    else:
        flat = tf.reshape(relative, [-1])
        nearest = tf.searchsorted(middles, flat, side="right")
        nearest = tf.reshape(nearest, tf.shape(groups))
    negative = (groups < 0) & (grid.scales > 0)[:, tf.newaxis]
    signs = tf.cast(negative, tf.int32) * 2 ** (bits - 1)
    return tf.reshape(nearest + signs, [-1])[: tf.size(values)]


def _values(codes: tf.Tensor, grid: Grid, value_dtype: str) -> tf.Tensor:
    sign = 2 ** (BITS[value_dtype] - 1)
    level = tf.gather(_magnitudes(grid.spread, value_dtype), codes & (sign - 1))
    values = level * _of_each(grid.scales, tf.size(codes))
    return tf.where(codes & sign > 0, -values, values)


def _pack(codes: tf.Tensor, bits: int) -> tf.Tensor:
    """Codes of so many bits, end to end: int32 words, filled up with zeros."""
    at_once = 32 // bits
    rows = tf.reshape(tf.pad(codes, [[0, -tf.size(codes) % at_once]]), [-1, at_once])
    return tf.reduce_sum(tf.bitwise.left_shift(rows, _places(bits)), axis=1)


def _unpack(words: tf.Tensor, bits: int, count: tf.Tensor) -> tf.Tensor:
    """The first so many codes: int32 (count,)."""
    codes = tf.bitwise.right_shift(words[:, tf.newaxis], _places(bits))
    return tf.reshape(codes & (2**bits - 1), [-1])[:count]


def _places(bits: int) -> tf.Tensor:
    return tf.range(0, 32, bits)[tf.newaxis]
