"""A list of gradients in its parts, with a table of who owns which stretch.

Gradients of float32, bfloat16 and float16 are compressed, the large ones, or ride whole
beside what is compressed, the small ones. All others, of 64 bits or complex, go whole
and in a dtype of their own: a cast would take their range or their imaginary part.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Gradient = tf.Tensor | tf.IndexedSlices

# A cast to float32 takes nothing from these.
COMPRESSED_DTYPES = (tf.float32, tf.bfloat16, tf.float16)


class Segment(NamedTuple):
    """The stretch of the packed vector that one variable owns.

    Attributes:
        name: The variable's path, unique within a table.
        offset: Position of its first entry.
        shape: The variable's.
    """

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries; 0 for an empty variable."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        return slice(self.offset, self.offset + self.size)


Segments = tuple[Segment, ...]


def make_segments(
    names: Sequence[str], shapes: Sequence[Sequence[int] | tf.TensorShape]
) -> Segments:
    """Lays variables end to end, in the given order.

    >>> make_segments(["kernel", "bias"], [(3, 2), (2,)])[1]
    Segment(name='bias', offset=6, shape=(2,))
    """
    segments, offset = [], 0
    for name, shape in zip(names, shapes, strict=True):
        segments.append(Segment(name, offset, tuple(map(int, shape))))
        offset += segments[-1].size
    return tuple(segments)


def total_size(segments: Segments) -> int:
    """Number of entries of the packed vector, n."""
    return sum(segment.size for segment in segments)


def each(function: Callable, *lists: Sequence) -> list:
    """Applies a function to every segment's vectors: [f(a, b), …]."""
    return [function(*parts) for parts in zip(*lists, strict=True)]


def pack(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Lays vectors, or tensors of any shape, end to end in one: (n,)."""
    if not vectors:
        return tf.zeros([0])
    flat = [tf.reshape(vector, [-1]) for vector in vectors]
    return flat[0] if len(flat) == 1 else tf.concat(flat, axis=0)


def unpack(vector: tf.Tensor, segments: Segments) -> list[tf.Tensor]:
    """Cuts a vector (n,) into the segments' vectors."""
    if len(segments) < 2:
        return [vector][: len(segments)]
    return tf.split(vector, [segment.size for segment in segments])


def as_dense(gradient: Gradient, shape: Sequence[int]) -> tf.Tensor:
    """Returns a dense gradient; rows that an embedding names twice are summed.

    Args:
        gradient: Of a shape that may not be known, as numpy code leaves it.
        shape: Its variable's.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.ensure_shape(gradient, shape)
    indices = tf.cast(gradient.indices, tf.int32)[:, tf.newaxis]
    return tf.scatter_nd(indices, gradient.values, shape)


def reals(tensor: tf.Tensor) -> list[tf.Tensor]:
    """The tensor, or its real and its imaginary part."""
    if tensor.dtype.is_complex:
        return [tf.math.real(tensor), tf.math.imag(tensor)]
    return [tensor]


def values_of(gradient: Gradient) -> tf.Tensor:
    """The entries that are there: all, or those of some rows."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def with_values(gradient: Gradient, values: tf.Tensor) -> Gradient:
    """A gradient with other entries in the same places."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return values


def live_entries(dense: tf.Tensor, live: tf.Tensor | None) -> tf.Tensor:
    """What lives of a tensor: all of it, or a vector of the entries at `live`."""
    return dense if live is None else tf.gather(tf.reshape(dense, [-1]), live)


def with_dead_entries(
    tensor: tf.Tensor, live: tf.Tensor | None, shape: Sequence[int]
) -> tf.Tensor:
    """The other way round: of a shape, 0 where nothing lives."""
    if live is None:
        return tensor
    whole = tf.scatter_nd(live[:, tf.newaxis], tensor, [math.prod(shape)])
    return tf.reshape(whole, shape)


def when_ready(gradients: Sequence[Any]) -> contextlib.AbstractContextManager:
    """In a graph, keeps what is made within waiting for the gradients.

    `fit` finds the end of a data set of unknown length by a step that fails for want of
    a batch. What needs nothing of a batch, as a counter, would count that step, and on
    some workers perhaps not.

    Args:
        gradients: Tensors, slices, or None.
    """
    parts = tf.nest.flatten(list(gradients), expand_composites=True)
    return tf.control_dependencies([part for part in parts if tf.is_tensor(part)])


class Parts(NamedTuple):
    """Gradients of one replica, dense, each of its variable's shape.

    Attributes:
        large: float32. Those that are compressed.
        small: float32. Those that ride whole, without indices.
        other: Of other dtypes, which are kept. They go whole.
    """

    large: list[tf.Tensor]
    small: list[tf.Tensor]
    other: list[tf.Tensor]


class Layout(NamedTuple):
    """What part each gradient belongs to, and the tables of the parts.

    A variable of which not all entries live is a vector of those that do.

    Attributes:
        places: Of each part, which gradients are in it.
        segments: The table of the large ones.
        small: That of the small ones.
        other: That of those of other dtypes.
        shapes: Of the gradients.
        live: Of each gradient the positions of its live entries, int32; None: all live.
    """

    places: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    segments: Segments
    small: Segments
    other: Segments
    shapes: tuple[tuple[int, ...], ...]
    live: tuple[tf.Tensor | None, ...]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        shapes: Sequence[Any],
        dtypes: Sequence[tf.DType],
        dense_below: int,
        live: Sequence[tf.Tensor | None] | None = None,
    ) -> Layout:
        """Sorts gradients by dtype and size.

        Args:
            names: Paths of their variables.
            shapes: Static.
            dtypes: Of the gradients.
            dense_below: Those with fewer entries are small.
            live: As the attribute. Default: all entries live.
        """
        live = [None] * len(names) if live is None else live
        own = [
            tuple(map(int, shape if places is None else places.shape))
            for shape, places in zip(shapes, live, strict=True)
        ]
        places: tuple[list[int], list[int], list[int]] = ([], [], [])
        for i, (shape, dtype) in enumerate(zip(own, dtypes, strict=True)):
            compressed = tf.as_dtype(dtype) in COMPRESSED_DTYPES
            is_small = math.prod(shape) < dense_below
            places[(1 if is_small else 0) if compressed else 2].append(i)
        tables = [
            make_segments([names[i] for i in part], [own[i] for i in part])
            for part in places
        ]
        parts = (tuple(places[0]), tuple(places[1]), tuple(places[2]))
        whole = tuple(tuple(map(int, shape)) for shape in shapes)
        return cls(parts, *tables, shapes=whole, live=tuple(live))

    @property
    def variables(self) -> Segments:
        """All tables, one after the other: the rows of what is accounted."""
        return self.segments + self.small + self.other

    def split(self, gradients: Sequence[Gradient]) -> Parts:
        """The gradients in their parts; repeated rows are summed."""
        large, small, other = (
            [self._live_of(i, gradients[i]) for i, _ in part] for part in self._parts()
        )
        wide = functools.partial(tf.cast, dtype=tf.float32)
        return Parts(each(wide, large), each(wide, small), other)

    def join(self, parts: Parts, gradients: Sequence[Gradient]) -> list[tf.Tensor]:
        """The other way round.

        Args:
            parts: Tensors of any shapes with the entries of the tables.
            gradients: What was split; dtypes of the result are theirs.
        """
        joined: list[Any] = [None] * len(gradients)
        for part, tensors in zip(self._parts(), parts, strict=True):
            for (i, segment), tensor in zip(part, tensors, strict=True):
                whole = self._whole_of(i, tf.reshape(tensor, segment.shape))
                joined[i] = tf.cast(whole, gradients[i].dtype)
        return joined

    def _live_of(self, i: int, gradient: Gradient) -> tf.Tensor:
        """What is exchanged of the i-th gradient."""
        return live_entries(as_dense(gradient, self.shapes[i]), self.live[i])

    def _whole_of(self, i: int, tensor: tf.Tensor) -> tf.Tensor:
        """The i-th gradient, 0 where nothing lives."""
        return with_dead_entries(tensor, self.live[i], self.shapes[i])

    def _parts(self) -> list[list[tuple[int, Segment]]]:
        """Of each part, places in the list of gradients and segments."""
        tables = (self.segments, self.small, self.other)
        return [
            list(zip(places, table, strict=True))
            for places, table in zip(self.places, tables, strict=True)
        ]
