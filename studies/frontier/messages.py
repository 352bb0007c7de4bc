"""Messages of many workers at once: what is selected, what values are rounded to.

The numbers are those of `tem_tf`'s TopK, HardThreshold and wire format for float32,
int4, int2 and sign values; the layout is for an accelerator: nothing is sorted, and
nothing as long as the model is scattered.
"""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from configurations import LEVELS, Configuration
from model import BLOCK

GROUP = 64  # Sent values that share a scale.
_PART = 512  # Entries whose counts, three in a number of 32 bits, are added up.
_PLACES = 2.0**12  # Levels are multiples of its inverse.
_LEAST_SCALE, _GREATEST_SCALE = 2.0**-119, 2.0**123
_MOST_LEVELS = 8


class Settings(NamedTuple):
    """How C configurations compress.

    Attributes:
        everything: bool (C,). Whether all entries are sent.
        by_block: bool (C,). Whether every block sends its own largest.
        wanted: int32 (C, B). How many: of each block, or of the model in all B.
        fixed: bool (C,). Whether `cut` says what is sent.
        cut: float32 (C,).
        exact: bool (C,). Whether values stay float32.
        levels: float32 (C, 8). e_i - 1; the last again where there are fewer.
        log_bits: float32 (C, D). Logarithm of bits per parameter of a message.
        log_entries: float32 (D,). Logarithm of the entries that those are for.
    """

    everything: jax.Array
    by_block: jax.Array
    wanted: jax.Array
    fixed: jax.Array
    cut: jax.Array
    exact: jax.Array
    levels: jax.Array
    log_bits: jax.Array
    log_entries: jax.Array


class Compressed(NamedTuple):
    """Messages of C configurations, W workers each.

    Attributes:
        message: float32 (C, W, n). As decoded.
        bits: float32 (C,). Of a worker's message by the parameters, the mean.
        entries: float32 (C,). Share of the entries that is sent, the mean.
        cut: float32 (C,). The least magnitude that may be sent, the mean.
    """

    message: jax.Array
    bits: jax.Array
    entries: jax.Array
    cut: jax.Array


def settings_of(
    configurations: Sequence[Configuration], size: int, table: pathlib.Path
) -> Settings:
    """What `compress` needs.

    Args:
        configurations: C of them.
        size: Parameters of the model, padding apart.
        table: wire_bits.csv.
    """
    blocks = -(-size // BLOCK)
    lengths = [min(BLOCK, size - block * BLOCK) for block in range(blocks)]

    def wanted(one: Configuration) -> list[int]:
        if one.rule == "block":
            return [_share(one.density, length) for length in lengths]
        return [_share(one.density, size)] * blocks

    def levels(one: Configuration) -> list[float]:
        own = LEVELS.get(one.value_bits, (0.0,))
        return [*own, *own[-1:] * (_MOST_LEVELS - len(own))]

    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # The table is of the whole model: smaller ones, of rehearsals, take it by density.
    entries = [float(row["density"]) * size for row in rows]
    bits = [
        [float(row[f"bits_{one.value_bits}"]) for row in rows] for one in configurations
    ]
    return Settings(
        everything=jnp.array([_sends_all(one) for one in configurations]),
        by_block=jnp.array([one.rule == "block" for one in configurations]),
        wanted=jnp.array([wanted(one) for one in configurations], jnp.int32),
        fixed=jnp.array([one.rule == "threshold" for one in configurations]),
        cut=jnp.array([one.cut for one in configurations], jnp.float32),
        exact=jnp.array([one.value_bits == 32 for one in configurations]),
        levels=jnp.array([levels(one) for one in configurations], jnp.float32),
        log_bits=jnp.array(np.log(bits), jnp.float32),
        log_entries=jnp.array(np.log(entries), jnp.float32),
    )


def _share(density: float, size: int) -> int:
    return max(1, int(density * size + 1e-9))


def _sends_all(one: Configuration) -> bool:
    return one.rule != "threshold" and one.density == 1


def compress(values: jax.Array, settings: Settings, size: int) -> Compressed:
    """Messages of values (C, W, n), of which `size` are entries and the others 0."""
    configurations, workers, length = values.shape
    shape = (configurations, workers, length // BLOCK, BLOCK)
    bits = jax.lax.bitcast_convert_type(jnp.abs(values), jnp.uint32).reshape(shape)
    least = _largest_of(bits, settings.wanted, settings.by_block)
    fixed = jax.lax.bitcast_convert_type(settings.cut, jnp.uint32)
    least = jnp.where(_for(settings.fixed, 3), _for(fixed, 3), least)
    sent = bits >= jnp.maximum(least, 1)[..., None]  # Zeros are not sent,
    sent = sent | _for(settings.everything, 4)  # but where all are.
    sent = sent.reshape(values.shape) & (jnp.arange(length) < size)
    counts = sent.sum(-1)
    rounded = _rounded(values, sent, counts, settings.levels)
    message = jnp.where(_for(settings.exact, 3), values, rounded)
    logs = jnp.log(jnp.maximum(counts, 1).astype(jnp.float32))
    log_bits = jax.vmap(jnp.interp, (0, None, 0))(
        logs, settings.log_entries, settings.log_bits
    )
    cuts = jax.lax.bitcast_convert_type(least, jnp.float32).mean((1, 2))
    return Compressed(
        jnp.where(sent, message, 0.0),
        jnp.exp(log_bits).mean(1),
        counts.mean(1) / size,
        jnp.where(settings.everything, 0.0, cuts),
    )


def _for(numbers: jax.Array, dimensions: int) -> jax.Array:
    """Numbers (C,) beside an array of so many dimensions."""
    return numbers.reshape(-1, *[1] * (dimensions - 1))


def _largest_of(bits: jax.Array, wanted: jax.Array, by_block: jax.Array) -> jax.Array:
    """The least of the `wanted` largest, as bits: uint32 (C, W, B).

    Magnitudes are ordered as their bits are. Two bits of it are found at a time, from
    the highest on: the greatest number that so many are not below.

    Args:
        bits: uint32 (C, W, B, 4096).
        wanted: int32 (C, B).
        by_block: bool (C,).
    """
    parts = bits.reshape(*bits.shape[:-1], BLOCK // _PART, _PART)

    def two_bits(number: jax.Array, least: jax.Array) -> jax.Array:
        shift = (30 - 2 * number).astype(jnp.uint32)
        packed = jnp.zeros_like(parts)
        for digit in range(3):
            beyond = (
                parts >= (least + (jnp.uint32(digit + 1) << shift))[..., None, None]
            )
            packed += beyond.astype(jnp.uint32) << (10 * digit)
        packed = packed.sum(-1, dtype=jnp.uint32)
        digits = jnp.zeros_like(least)
        for digit in range(3):
            counts = ((packed >> (10 * digit)) & 1023).sum(-1).astype(jnp.int32)
            in_all = counts.sum(-1, keepdims=True)
            counts = jnp.where(_for(by_block, 3), counts, in_all)
            digits += (counts >= wanted[:, None]).astype(jnp.uint32)
        return least + (digits << shift)

    return jax.lax.fori_loop(0, 16, two_bits, jnp.zeros(bits.shape[:-1], jnp.uint32))


def _rounded(
    values: jax.Array, sent: jax.Array, counts: jax.Array, levels: jax.Array
) -> jax.Array:
    """Values (C, W, n) as they are decoded: tem_tf/wire/few_bits.py.

    Sent values stand in groups of 64, in their order. Of 64 entries side by side those
    that are sent are in one group or in two, one after the other: sums of these two
    are found in place, and only they are added to the groups' sums.
    """
    rows = values.reshape(*values.shape[:2], -1, GROUP)
    chosen = sent.reshape(rows.shape)
    magnitudes = jnp.where(chosen, jnp.abs(rows), 0.0)
    # Inclusive counts by a product of zeros and ones, which is exact.
    ones = jnp.triu(jnp.ones((GROUP, GROUP), jnp.bfloat16))
    up_to = jnp.matmul(
        chosen.astype(jnp.bfloat16), ones, preferred_element_type=jnp.float32
    ).astype(jnp.int32)
    number = up_to[..., -1]
    start = jnp.cumsum(number, -1) - number
    first = start // GROUP
    in_first = up_to <= (GROUP - start % GROUP)[..., None]
    of_first = jnp.where(in_first, magnitudes, 0.0).sum(-1)
    of_second = jnp.where(in_first, 0.0, magnitudes).sum(-1)

    def by_group(first: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
        sums = jnp.zeros(first.size + 1)
        sums = sums.at[first].add(one, indices_are_sorted=True)
        return sums.at[first + 1].add(other, indices_are_sorted=True)

    sums = jax.vmap(jax.vmap(by_group))(first, of_first, of_second)
    sizes = counts[..., None] - GROUP * jnp.arange(sums.shape[-1])
    scales = sums / jnp.clip(sizes, 1, GROUP)
    scales = jnp.minimum(scales, _GREATEST_SCALE)
    scales = jax.lax.reduce_precision(scales, exponent_bits=8, mantissa_bits=7)
    scales = jnp.where(scales < _LEAST_SCALE, 0.0, scales)
    scale = jnp.where(
        in_first,
        jnp.take_along_axis(scales, first, -1)[..., None],
        jnp.take_along_axis(scales, first + 1, -1)[..., None],
    )
    relative = magnitudes / jnp.where(scale > 0, scale, 1.0)
    counted = chosen & (scale > 0)
    deviations = jnp.where(counted, jnp.abs(relative - 1), 0.0).sum((-2, -1))
    mean = deviations / jnp.maximum(counted.sum((-2, -1)), 1)
    spread = jnp.clip(jnp.round(mean * (64 * math.e)), 1, 127) / 128
    table = 1 + spread[..., None] * levels[:, None]
    table = jnp.floor(table * _PLACES + 0.5) / _PLACES  # (C, W, 8).
    level = jnp.zeros_like(relative)
    for lower in range(_MOST_LEVELS - 1):
        low, high = table[..., lower, None, None], table[..., lower + 1, None, None]
        level += jnp.where(relative >= (low + high) / 2, high - low, 0.0)
    level += table[..., :1, None]
    signed = jnp.where(rows < 0, -scale, scale) * level
    return signed.reshape(values.shape)
