"""The message of a sparsifier: some entries of a vector, with their positions.

`SparseGradient` has so many entries as are sent; `MaskedGradient` is the same in shapes
that hang on no value, which is all that XLA compiles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class SparseGradient(NamedTuple):
    """k entries of a vector of n; every other entry is zero.

    Attributes:
        values: float32 (k,). The entries, in the order of `indices`.
        indices: int32 (k,). Their positions, distinct, in [0, size); ascending unless
            they are known to all.
        size: Int. n, the length of the vector.
        known: Bool. Whether all replicas send the entries at these very positions, so
            that none travel and values can be summed on the way.
        grid: To which the values are rounded, where that is to be known when they are
            written; see `wire.rounded`.
        whole: Bool. Whether these are all n entries, in their order.

    Example:

    >>> gradient = SparseGradient(tf.constant([5.0]), tf.constant([2]), size=4)
    >>> gradient.to_dense().numpy()
    array([0., 0., 5., 0.], dtype=float32)
    """

    values: tf.Tensor
    indices: tf.Tensor
    size: int
    known: bool = False
    grid: Any = None
    whole: bool = False

    @classmethod
    def from_mask(cls, vector: tf.Tensor, mask: tf.Tensor) -> SparseGradient:
        """Keeps the entries of `vector` (n,) at which `mask` (n,) is true."""
        indices = tf.cast(tf.reshape(tf.where(mask), [-1]), tf.int32)
        return cls(tf.gather(vector, indices), indices, vector.shape[0])

    def entries(self) -> tf.Tensor:
        """k: int32 scalar."""
        return tf.size(self.values)

    def to_dense(self) -> tf.Tensor:
        """Returns the vector (n,) that this message stands for."""
        if self.whole:
            return self.values
        return tf.scatter_nd(self.indices[:, tf.newaxis], self.values, [self.size])

    def add_to(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns `vector` (n,) plus this message."""
        return tf.tensor_scatter_nd_add(
            vector, self.indices[:, tf.newaxis], self.values
        )

    def to_masked(self) -> MaskedGradient:
        """Returns the same in shapes that hang on no index, if k does not."""
        at = self.indices[:, tf.newaxis]
        mask = tf.zeros([self.size], tf.bool)
        mask = tf.tensor_scatter_nd_update(
            mask, at, tf.ones_like(self.indices, tf.bool)
        )
        return MaskedGradient(self.to_dense(), mask, self.known)


class MaskedGradient(NamedTuple):
    """Some entries of a vector of n; every other entry is zero.

    Attributes:
        vector: float32 (n,). The entries, at their positions, and zeros elsewhere.
        mask: Bool (n,). Which entries these are; they may be zero.
        known: As of `SparseGradient`.
    """

    vector: tf.Tensor
    mask: tf.Tensor
    known: bool = False

    def entries(self) -> tf.Tensor:
        """k: int32 scalar."""
        return tf.reduce_sum(tf.cast(self.mask, tf.int32))

    def to_dense(self) -> tf.Tensor:
        """Returns the vector (n,) that this message stands for."""
        return self.vector


Entries = SparseGradient | MaskedGradient
