"""An exchange of weights in pieces, beside the steps of LocalUpdates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf import _internals
from tem_tf.agreed_branches import one_agreed
from tem_tf.layout import live_entries, pack, with_dead_entries
from tem_tf.local_beginning import Beginning, value_here
from tem_tf.local_exchange import LocalExchange
from tem_tf.masks import Masks


class Begun(NamedTuple):
    """An exchange of a piece that runs beside a local step.

    Attributes:
        piece: int32 scalar. Which one; as many as there are: none.
        vectors: Of each dtype the mean movement of the piece's variables and then how
            far this replica had moved, end to end.
    """

    piece: tf.Tensor
    vectors: list[tf.Tensor]


class Streaming:
    """Exchanges weights in pieces, each while the next local step is computed.

    Piece p of P is due after p·H/P, p·H/P + H, … local steps. In the step that follows:

    1. once its batch is there, what the piece has moved is sent and summed, while the
       gradient is computed from the same weights;
    2. then the inner optimizer takes its step;
    3. the outer optimizer takes its own, from where all began, and the worker goes on
       with that and what 2 has added.

    Args:
        exchange: Of weights.
        began: The weights from which all have moved.
        masks: What lives of variables.
        local_steps: H.
        fragments: P.
        trained: Variables by name.
    """

    def __init__(
        self,
        exchange: LocalExchange,
        began: Beginning,
        masks: Masks,
        local_steps: int,
        fragments: int,
        trained: Mapping[str, Any],
    ):
        self._exchange, self._began, self._masks = exchange, began, masks
        sizes = {name: math.prod(one.shape) for name, one in trained.items()}
        self._local_steps, self._pieces = local_steps, pieces_of(sizes, fragments)
        # By the steps taken, modulo H. In most of them nothing is due.
        count = len(self._pieces)
        self._due = [count] * local_steps
        for piece in range(count):
            self._due[piece * local_steps // count] = piece

    def begin(self, trained: Mapping[str, Any]) -> Begun:
        """1, before the step; replica context, on all replicas.

        Args:
            trained: Variables by name, all that the step updates.
        """
        dtypes = _dtypes(trained)
        pieces = [self._of(piece, trained) for piece in self._pieces]
        room = {dtype: 0 for dtype in dtypes}
        if _internals.in_xla():  # There all branches have results of one shape.
            for dtype in dtypes:
                sizes = [_size(piece.values(), dtype) for piece in pieces]
                room[dtype] = 2 * max(sizes)

        def beginning(piece: Mapping[str, Any]) -> Callable[[], list[tf.Tensor]]:
            def begin() -> list[tf.Tensor]:
                moved = self._exchange.moved(piece) if piece else []
                both = [*self._exchange.mean_of(moved, piece), *moved] if piece else []
                return [_packed(both, dtype, room[dtype]) for dtype in dtypes]

            return begin

        taken = self._began.taken()
        due = tf.gather(tf.constant(self._due), taken % self._local_steps)
        due = tf.where(taken > 0, due, len(pieces))
        return Begun(due, one_agreed(due, [beginning(one) for one in [*pieces, {}]]))

    def end(self, begun: Begun, trained: Mapping[str, Any]) -> None:
        """3, after the step.

        Args:
            begun: What `begin` has returned.
            trained: As there.
        """
        dtypes = _dtypes(trained)

        def ending(number: int) -> Callable[..., list[tf.Tensor]]:
            piece = self._of(self._pieces[number], trained)
            variables = list(piece.values())

            def end(*vectors: tf.Tensor) -> list[tf.Tensor]:
                parts = _taken_apart(vectors, dtypes, [*variables, *variables])
                means, moved = parts[: len(variables)], parts[len(variables) :]
                self._end(means, moved, piece)
                if number == 0:
                    self._exchange.average_statistics()
                return []

            return end

        endings = [ending(number) for number in range(len(self._pieces))]
        one_agreed(begun.piece, [*endings, lambda *_: []], begun.vectors)

    def _end(
        self,
        means: Sequence[tf.Tensor],
        moved: Sequence[tf.Tensor],
        piece: Mapping[str, Any],
    ) -> None:
        names, variables = list(piece), list(piece.values())
        # What the step has added since; nothing where nothing lives.
        before = self._began.weights(names)
        starts = [b - m for b, m in zip(before, moved, strict=True)]
        live = self._masks.live(names)
        added = [
            with_dead_entries(live_entries(value_here(v) - start, at), at, v.shape)
            for v, start, at in zip(variables, starts, live, strict=True)
        ]
        if self._exchange.nonfinite == "zero":
            finite = self._exchange.is_finite(added)
            added = [tf.where(finite, one, tf.zeros_like(one)) for one in added]
            self._exchange.reset_slots_unless(finite)
        self._exchange.take_outer_step(means, piece)
        common = [value_here(variable) for variable in variables]
        self._began.set(names, common)
        for variable, value, more in zip(variables, common, added, strict=True):
            variable.assign(value + more)

    def _of(self, names: Sequence[str], trained: Mapping[str, Any]) -> dict[str, Any]:
        """A piece's variables, without those of layers that are frozen."""
        return {name: trained[name] for name in names if name in trained}


def pieces_of(sizes: Mapping[str, int], number: int) -> list[list[str]]:
    """Shares variables out to at most so many pieces, of sizes that are much alike.

    The largest first, each to the piece that is smallest by then.

    Args:
        sizes: Entries of variables by name.
        number: At least 1.

    >>> pieces_of({"a": 1, "b": 5, "c": 2, "d": 4}, 2)
    [['a', 'b'], ['c', 'd']]
    """
    names, found = list(sizes), [[] for _ in range(min(number, len(sizes)))]
    totals = [0] * len(found)
    for name in sorted(names, key=lambda name: -sizes[name]):
        least = totals.index(min(totals))
        totals[least] += sizes[name]
        found[least].append(name)
    ordered = [sorted(piece, key=names.index) for piece in found]
    return sorted(ordered, key=lambda piece: names.index(piece[0]))


def _dtypes(trained: Mapping[str, Any]) -> list[tf.DType]:
    return list(dict.fromkeys(tf.as_dtype(v.dtype) for v in trained.values()))


def _size(variables: Iterable[Any], dtype: tf.DType) -> int:
    """Entries of the variables of a dtype."""
    of_dtype = [v for v in variables if tf.as_dtype(v.dtype) == dtype]
    return sum(math.prod(variable.shape) for variable in of_dtype)


def _packed(tensors: Sequence[tf.Tensor], dtype: tf.DType, room: int) -> tf.Tensor:
    """Those of a dtype end to end, and zeros up to a length."""
    vector = pack([tf.zeros([0], dtype), *(t for t in tensors if t.dtype == dtype)])
    return tf.pad(vector, [[0, room - vector.shape[0]]]) if room else vector


def _taken_apart(
    vectors: Sequence[tf.Tensor], dtypes: Sequence[tf.DType], like: Sequence[Any]
) -> list[Any]:
    """The tensors that were packed, of the shapes and dtypes of variables."""
    found: list[Any] = [None] * len(like)
    for vector, dtype in zip(vectors, dtypes, strict=True):
        offset = 0
        for i, variable in enumerate(like):
            if tf.as_dtype(variable.dtype) == dtype:
                end = offset + math.prod(variable.shape)
                found[i] = tf.reshape(vector[offset:end], variable.shape)
                offset = end
    return found
