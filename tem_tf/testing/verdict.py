"""How a broken law is told: which one, on what input, expected and received."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tem_tf.layout import Segments

# How lines begin that tell where, not what.
_PLACES = ("File ", "[[", "Detected at node", "Stack trace", "tf.")


class Place(NamedTuple):
    """Where a law is tried.

    Attributes:
        subject: The compressor or memory.
        segments: Of the variables.
        data: What the gradients are, in words.
        workers: How many there are; 0 where there are none.
        step: Number of the step; None where there is none.
        worker: Which worker; None: all of them.
    """

    subject: Any
    segments: Segments = ()
    data: str = ""
    workers: int = 0
    step: int | None = None
    worker: int | None = None

    def __str__(self) -> str:
        shapes = ", ".join(f"{s.name} {s.shape}" for s in self.segments)
        words = [f"variables: {shapes or 'none'}"]
        if self.data:
            words.append(f"gradients: {self.data}")
        if self.workers:
            words.append(f"workers: {self.workers}")
        if self.step is not None:
            words.append(f"step {self.step}")
        if self.worker is not None:
            words.append(f"worker {self.worker}")
        return "; ".join(words)


def fail(law: str, rule: str, place: Place, received: str) -> None:
    """Raises AssertionError."""
    name = type(place.subject).__name__
    raise AssertionError(
        f"{name} breaks the law `{law}`: {rule}. Received: {received}. On {place}."
    )


def require(law: str, rule: str, holds: Any, place: Place, received: str) -> None:
    """Raises AssertionError unless the law holds there."""
    if not holds:
        fail(law, rule, place, received)


@contextlib.contextmanager
def runs(law: str, rule: str, place: Place) -> Iterator[None]:
    """Turns whatever is raised within into the AssertionError of a law."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        name = type(place.subject).__name__
        raise AssertionError(
            f"{name} breaks the law `{law}`: {rule}. Received: "
            f"{type(error).__name__}: {_cause(error)}. On {place}."
        ) from error


def _cause(error: Exception) -> str:
    """What an error says, without the places in a graph that TensorFlow lists."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_PLACES)]
    ends = dict.fromkeys([said[0], said[-1]]) if said else {}
    return " … ".join(textwrap.shorten(line, 300, placeholder=" …") for line in ends)


def require_equal(
    law: str,
    rule: str,
    expected: Any,
    received: Any,
    place: Place,
    tolerance: Sequence[float] | float = 0.0,
) -> None:
    """Raises AssertionError unless two nests hold the same numbers; NaN never is.

    Args:
        law: Its name.
        rule: It in words.
        expected: A nest of arrays or tensors.
        received: Likewise.
        place: Where.
        tolerance: Of the difference, one for all or one for each leaf.
    """
    wanted, found = tf.nest.flatten(expected), tf.nest.flatten(received)
    require(
        law,
        rule,
        len(wanted) == len(found),
        place,
        f"{len(found)} tensors where {len(wanted)} were expected",
    )
    tolerances = np.broadcast_to(np.asarray(tolerance, float), [len(wanted)])
    for i, (one, other) in enumerate(zip(wanted, found, strict=True)):
        one, other = np.asarray(one), np.asarray(other)
        if one.shape != other.shape:
            fail(law, rule, place, f"shape {other.shape}, expected {one.shape}")
        same = one == other
        if tolerances[i]:
            gap = np.abs(other.astype(float) - one.astype(float))
            same |= gap <= tolerances[i]
        if not np.all(same):
            entry = tuple(map(int, np.argwhere(~same)[0]))
            fail(
                law,
                rule,
                place,
                f"{other[entry]!s}, expected {one[entry]!s}, at entry {list(entry)} of "
                f"tensor {i} ({np.count_nonzero(~same)} of {same.size} differ)",
            )


def signature(nest: Any) -> Any:
    """Structure, shapes and dtypes of a nest, comparable and readable."""
    if isinstance(nest, dict):
        return {key: signature(value) for key, value in nest.items()}
    if isinstance(nest, list | tuple):
        return type(nest).__name__, [signature(value) for value in nest]
    if tf.is_tensor(nest):
        return f"{nest.dtype.name}{list(nest.shape)}"
    return type(nest).__name__
