"""A list of gradients as one vector, with a table of who owns which stretch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Segment(NamedTuple):
    """The stretch of the packed vector that one variable owns.

    Attributes:
        name: The variable's path, unique within a table.
        offset: Position of its first entry.
        size: Number of its entries; 0 for an empty variable.
    """

    name: str
    offset: int
    size: int

    @property
    def slice(self) -> slice:
        return slice(self.offset, self.offset + self.size)


Segments = tuple[Segment, ...]


def make_segments(names: Sequence[str], sizes: Sequence[int]) -> Segments:
    """Lays variables end to end, in the given order.

    >>> make_segments(["kernel", "bias"], [6, 2])[1]
    Segment(name='bias', offset=6, size=2)
    """
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(map(Segment, names, offsets, sizes))


def total_size(segments: Segments) -> int:
    """Number of entries of the packed vector, n."""
    return sum(segment.size for segment in segments)


def densify(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor:
    """Returns a dense gradient; rows that an embedding names twice are summed."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.scatter_nd(
        tf.cast(gradient.indices, tf.int32)[:, tf.newaxis],
        gradient.values,
        tf.cast(gradient.dense_shape, tf.int32),
    )


def pack(gradients: Sequence[tf.Tensor | tf.IndexedSlices]) -> tf.Tensor:
    """Lays gradients end to end in one float32 vector (n,).

    Args:
        gradients: Tensors of any shape and floating dtype, or `IndexedSlices`, whose
            repeated rows are summed.
    """
    if not gradients:
        return tf.zeros([0])
    flat = [tf.cast(tf.reshape(densify(g), [-1]), tf.float32) for g in gradients]
    return tf.concat(flat, axis=0)


def unpack(
    vector: tf.Tensor, segments: Segments, like: Sequence[tf.Variable | tf.Tensor]
) -> list[tf.Tensor]:
    """Cuts a vector (n,) into tensors with the shapes and dtypes of `like`."""
    return [
        tf.cast(tf.reshape(vector[segment.slice], reference.shape), reference.dtype)
        for segment, reference in zip(segments, like, strict=True)
    ]
