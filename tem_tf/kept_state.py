"""What the path of a gradient keeps on each replica from one step to the next.

The memory's state, by variable; the compressor's; and the demands of the exchange.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf.compressors import MOST_ROUNDS, Compressor
from tem_tf.layout import Segments, make_segments
from tem_tf.memory import Memory
from tem_tf.replica_state import ReplicaState

_DEMANDS = "exchange/demands"


class Kept(NamedTuple):
    """States of one replica.

    Attributes:
        memory: The memory's; empty where it was updated in place.
        compressor: The compressor's.
    """

    memory: dict[str, Any]
    compressor: Any


class KeptState:
    """Reads and writes the states of some variables in a replica's state.

    Args:
        state: Where they are kept.
        memory: Whose state.
        compressor: Whose state.
    """

    def __init__(self, state: ReplicaState, memory: Memory, compressor: Compressor):
        self._state, self._memory, self._compressor = state, memory, compressor
        self._scalars: dict[str, bool] = {}  # Keys of the memory's state: is it one?
        self._leaves: dict[Segments, tuple[list[str], Any]] = {}
        self._whole: Segments | None = None  # What was built first.

    def build(self, segments: Segments) -> None:
        """Makes the memory of the variables that have none yet."""
        self._whole = self._whole or segments
        self._demands(segments)
        # A user's own may begin with what each worker draws for itself.
        is_ours = type(self._memory).__module__.startswith(f"{__package__}.")
        for key, value in self._memory.init(()).items():
            self._scalars[key] = not isinstance(value, (list, tuple))
            if self._scalars[key]:
                value = tf.convert_to_tensor(value)
                _check(self._memory, key, value, [])
                self._state.add(f"memory/{key}", value, is_alike=is_ours)
        # One by one: slices of one vector would be views of it, which would stay as a
        # whole beside what the first step makes each variable's own.
        for segment in segments:
            alone = make_segments([segment.name], [segment.shape])
            for key, value in self._memory.init(alone).items():
                if not self._scalars[key]:
                    _check(self._memory, key, value[0], [segment.size])
                    self._state.add_each(f"memory/{key}", alone, value, is_ours)

    def demands(self, segments: Segments) -> tf.Tensor:
        """How many words each round of an exchange shall have room for: int64 (8,).

        Of so many variables: what some of them need says little about others.
        """
        return self._state.read(self._demands(segments))

    def read(self, segments: Segments) -> Kept:
        """This replica's states; replica context."""
        memory = {
            key: self._state.read(f"memory/{key}")
            if is_scalar
            else self._state.read_each(f"memory/{key}", segments)
            for key, is_scalar in self._scalars.items()
        }
        names, structure = self._compressor_names(segments)
        leaves = [self._state.read(name) for name in names]
        return Kept(memory, tf.nest.pack_sequence_as(structure, leaves))

    def write(self, segments: Segments, kept: Kept, demands: tf.Tensor) -> None:
        """Sets this replica's states; replica context."""
        self.write_memory(segments, kept.memory)
        names, structure = self._compressor_names(segments)
        _check_same(self._compressor, structure, kept.compressor)
        for name, leaf in zip(names, tf.nest.flatten(kept.compressor), strict=True):
            self._state.assign(name, leaf)
        self._state.assign(self._demands(segments), demands)

    def write_memory(self, segments: Segments, memory: dict[str, Any]) -> None:
        """Sets the memory's alone."""
        for key, value in memory.items():
            if self._scalars[key]:
                self._state.assign(f"memory/{key}", value)
            else:
                self._state.assign_each(f"memory/{key}", segments, value)

    def _demands(self, segments: Segments) -> str:
        """Their name; made on first use."""
        name = _DEMANDS
        if segments != self._whole:
            name += f"/{_table(segments)}"
        if name not in self._state:
            with tf.init_scope():
                zeros = tf.zeros([MOST_ROUNDS], tf.int64)
                self._state.add(name, zeros, is_alike=True)
        return name

    def _compressor_names(self, segments: Segments) -> tuple[list[str], Any]:
        """Names of the leaves of the compressor's state, made on first use.

        A compressor's state is about the gradient as a whole, so that training another
        set of variables starts it anew.
        """
        if segments not in self._leaves:
            with tf.init_scope():
                state = self._compressor.init(segments)
                leaves = tf.nest.flatten(state)
                names = [
                    f"compressor/{i}/{_table(segments)}" for i in range(len(leaves))
                ]
                for name, leaf in zip(names, leaves, strict=True):
                    self._state.add(name, tf.convert_to_tensor(leaf))
            structure = tf.nest.map_structure(lambda _: None, state)
            self._leaves[segments] = names, structure
        return self._leaves[segments]


def _table(segments: Segments) -> str:
    return "+".join(segment.name for segment in segments)


def _check_same(compressor: Compressor, structure: Any, state: Any) -> None:
    try:
        tf.nest.assert_same_structure(structure, state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The state in tem_tf.Done of {type(compressor).__name__} must have the "
            f"structure of that of `init`. Received: {state!r}"
        ) from error


def _check(memory: Memory, key: str, value: Any, shape: list[int]) -> None:
    if tf.convert_to_tensor(value).shape != shape:
        raise ValueError(
            "A memory's state must hold scalars, and lists of a vector for each "
            f"segment. Received: {type(memory).__name__}.init()[{key!r}] of shape "
            f"{tuple(value.shape)} where {tuple(shape)} was expected."
        )
