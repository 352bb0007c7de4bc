"""The message of a sparsifier: some entries of a vector, with their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class SparseGradient(NamedTuple):
    """k entries of a vector of n; every other entry is zero.

    Attributes:
        values: float32 (k,). The entries, in the order of `indices`.
        indices: int32 (k,). Their positions, distinct, in [0, size); ascending unless
            all workers share them.
        size: int. n, the length of the vector.

    Example:

    >>> gradient = SparseGradient(tf.constant([5.0]), tf.constant([2]), size=4)
    >>> gradient.to_dense().numpy()
    array([0., 0., 5., 0.], dtype=float32)
    """

    values: tf.Tensor
    indices: tf.Tensor
    size: int

    @classmethod
    def from_mask(cls, vector: tf.Tensor, mask: tf.Tensor) -> SparseGradient:
        """Keeps the entries of `vector` (n,) at which `mask` (n,) is true."""
        indices = tf.cast(tf.reshape(tf.where(mask), [-1]), tf.int32)
        return cls(tf.gather(vector, indices), indices, vector.shape[0])

    def to_dense(self) -> tf.Tensor:
        """Returns the float32 vector (n,) that this message stands for."""
        return tf.scatter_nd(self.indices[:, tf.newaxis], self.values, [self.size])

    def add_to(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns `vector` (n,) plus this message."""
        return tf.tensor_scatter_nd_add(
            vector, self.indices[:, tf.newaxis], self.values
        )


class DenseGradient(NamedTuple):
    """The message of a compressor that sends every entry.

    Attributes:
        values: float32 (n,).
    """

    values: tf.Tensor

    def to_dense(self) -> tf.Tensor:
        """Returns the float32 vector (n,)."""
        return self.values


def sum_in_order(messages: Sequence[Any]) -> tf.Tensor:
    """Sums messages into one vector (n,), each without an entry twice.

    In the order given: the same floating-point sum on every replica and device.
    """
    total = messages[0].to_dense()
    for message in messages[1:]:
        total = message.add_to(total)
    return total
