"""How many words a gather has room for: learnt from what all replicas wanted to send.

TensorFlow fixes the size of a collective by its instance key, and all replicas must
agree on both before they know one another's payloads. So sizes stand on a ladder, one
key to a rung, and every replica learns the same rung from the lengths L_i that came
with the last gather:

    target = max L_i + max L_i / 8
    demand = max(target, demand - (demand - target) / 16)
    capacity = the lowest rung that is not below the demand

Integer arithmetic on what all replicas have received: they agree without asking.
"""

from __future__ import annotations

import math

import tensorflow as tf

# Eight rungs to a doubling, our choice: 4 % of padding on average, 9 % at most.
_RUNGS_PER_DOUBLING = 8
# Our choices. Room for a payload that is an eighth longer than the longest of late: a
# longer one costs a second collective at that step, never its entries. After a peak
# the demand falls to within a tenth of what is wanted in about twice sixteen steps for
# each factor of ten.
_ROOM = 8
_DECAY = 16

LADDER: tuple[int, ...] = tuple(
    sorted(
        {
            math.ceil(2 ** (i / _RUNGS_PER_DOUBLING))
            for i in range(31 * _RUNGS_PER_DOUBLING)
        }
    )
)
"""Capacities in words, from 1 to nearly 2**31."""


def rung_of(words: tf.Tensor) -> tf.Tensor:
    """The lowest rung with room for so many words, else the last: int32 scalar.

    It is an index in `LADDER`.

    >>> LADDER[int(rung_of(tf.constant(1000, tf.int64)))]
    1024
    """
    words = tf.cast(words, tf.int64)[tf.newaxis]
    rung = tf.searchsorted(tf.constant(LADDER, tf.int64), words)[0]
    return tf.minimum(rung, len(LADDER) - 1)


def capacity_of(rung: tf.Tensor) -> tf.Tensor:
    """Words on a rung: int32 scalar."""
    return tf.gather(tf.constant(LADDER, tf.int32), rung)


def padded(words: int) -> int:
    """Words that a gather takes once it has learnt that payloads have so many."""
    wanted = words + 1 + (words + 1) // _ROOM
    return next(rung for rung in LADDER if rung >= wanted)


def next_demand(demand: tf.Tensor, longest: tf.Tensor) -> tf.Tensor:
    """The words to have room for at the next step.

    Args:
        demand: int64 scalar, what this function returned at the last step; 0 at first.
        longest: int64 scalar, the longest payload of this step.
    """
    target = longest + longest // _ROOM
    # Rounded up, so that it arrives.
    excess = tf.maximum(demand - target, 0)
    return tf.maximum(target, demand - (excess + _DECAY - 1) // _DECAY)
