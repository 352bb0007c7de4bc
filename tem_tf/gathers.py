"""How a vector of every replica reaches all others: directly, or round a ring.

Round a ring, as TensorFlow gathers, each vector is passed on from neighbour to
neighbour and waits at each of them; over a link with a delay of 50 ms eight replicas
need 0.41 s for one word. Directly every replica sends to all others at once and has all
answers after one round trip, 0.11 s there. But then all arrive together: what is much
longer than a link's queue is lost and sent again, so that a ring is faster. Either way
as many bytes travel, and all replicas have the same rows (benchmarks/gathers.py).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tem_tf import _collective_internals

DIRECT_BYTES = 1 << 17
"""The most that one replica receives from all others directly.

Measured for four and eight replicas over 5 to 100 Mbit/s: directly is faster up to
84,000 bytes everywhere, and slower from 340,000 on. Our choice between.
"""


def is_direct(replicas: int, size: int) -> bool:
    """Whether vectors of so many bytes go directly; a ring of two does so anyway."""
    return replicas > 2 and size <= _most_direct(replicas)


def _most_direct(replicas: int) -> int:
    """Bytes of each replica."""
    return DIRECT_BYTES // (replicas - 1)


def bare_gather(
    strategy: tf.distribute.Strategy,
) -> Callable[[tf.Tensor, int | tf.Tensor], tf.Tensor] | None:
    """One bare gather along axis 0 of vectors of one length, in the better way.

    Returns:
        As `_collective_internals.collective_all_gather`. A key is always used with one
        length, and so with one of the two collectives.
    """
    ring = _collective_internals.collective_all_gather(strategy)
    direct = _collective_internals.collective_all_to_all(strategy)
    replicas = strategy.num_replicas_in_sync
    if ring is None or direct is None or replicas <= 2:
        return ring

    def to_all(vector: tf.Tensor, key: int | tf.Tensor) -> tf.Tensor:
        return tf.reshape(direct(tf.tile(vector[tf.newaxis], [replicas, 1]), key), [-1])

    def gather(vector: tf.Tensor, key: int | tf.Tensor) -> tf.Tensor:
        length, each = vector.shape[0], vector.dtype.size
        if length is not None:
            way = to_all if is_direct(replicas, length * each) else ring
            return way(vector, key)
        # Equal on all replicas, as the length is.
        return tf.cond(
            tf.size(vector) <= _most_direct(replicas) // each,
            lambda: to_all(vector, key),
            lambda: ring(vector, key),
        )

    return gather
