"""One exchange of several workers, worker by worker, with the laws of what is said.

No collective and no vectorised call: each worker is asked in turn, its messages are
written into the frames that travel and read by another one, and what they decode to is
added up in the order of workers. It is what `transport` and `simulation` must be equal
to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tem_tf import wire
from tem_tf.compressors import (
    At,
    AtLeast,
    Broadcast,
    Compressor,
    Done,
    Gather,
    Heard,
    Largest,
    Message,
    Selection,
    Sparsifier,
    Sum,
    check_asked,
    check_own,
)
from tem_tf.layout import pack, total_size, unpack
from tem_tf.sparse_gradient import SparseGradient
from tem_tf.testing.verdict import (
    Place,
    fail,
    require,
    require_equal,
    runs,
    signature,
)

LAWS = {
    "asks": "`compress` must take gradients of all shapes, zeros and empty ones, and "
    "return tem_tf.Gather, Sum, Broadcast or at last Done",
    "rounds": "number, kinds, shapes and roots of what is asked for must be equal on "
    "all workers and must not depend on values",
    "pure": "`compress` must not change what it is given",
    "message": "a message must have a `kind` in [1, 15], `entries` in [0, n] and as "
    "`to_dense` a vector float32 (n,)",
    "code": "`decode` of what `encode` returned, int32 (words,), must give `to_dense` "
    "bit for bit",
    "length": "with `fixed_length` all messages must take equally many words",
    "entries": "indices must be int32, distinct and in [0, n), values float32",
    "known": "positions that do not travel must be the same on all workers",
    "rule": "a sparsifier must send the entries that its rule names, unchanged; of "
    "equals those of lower index",
    "total": "all workers must have the same total, finite vectors float32 by variable",
    "own": "what leaves must be finite vectors float32 by variable",
}


class Exchanged(NamedTuple):
    """What an exchange yields.

    Attributes:
        own: Of each worker, vectors, one for each segment.
        total: Vectors that all have.
        states: Of each worker.
        kinds: Names of what was asked for, with shapes.
        words: Words of every message of fixed length.
    """

    own: list[list[tf.Tensor]]
    total: list[tf.Tensor]
    states: list[Any]
    kinds: list[str]
    words: list[int]


def exchange(
    compressor: Compressor,
    states: Sequence[Any],
    corrected: Sequence[Sequence[tf.Tensor]],
    place: Place,
    wired: bool = False,
) -> Exchanged:
    """Runs all rounds of one step.

    Args:
        compressor: What the workers send.
        states: Of each worker.
        corrected: Of each worker, vectors, one for each segment.
        place: Where; `segments` and `step` are taken from it.
        wired: Whether messages go through the frames that travel.

    Raises:
        AssertionError: a law is broken.
    """
    segments, step = place.segments, tf.constant(place.step or 0, tf.int64)
    workers = range(len(states))
    shares = [
        compressor.share(states[i], corrected[i], step, segments) for i in workers
    ]
    shared = tf.add_n(list(map(tf.convert_to_tensor, shares)))
    heard: list[tuple[Heard, ...]] = [() for _ in workers]
    own: list[Any] = [None for _ in workers]
    kinds, words = [], []
    while True:
        said = [
            _ask(compressor, states[i], corrected[i], step, heard[i], place, i)
            for i in workers
        ]
        kinds.append(_kind_of(said, place))
        first = said[0]
        if isinstance(first, Done):
            with runs("own", LAWS["own"], place):
                for i in workers:
                    own[i] = own[i] if said[i].own is None else list(said[i].own)
                    check_own(own[i] or not segments)
                    _check_vectors("own", own[i], place._replace(worker=i))
                    _check_vectors("total", said[i].total, place._replace(worker=i))
            for i in workers:
                where = place._replace(worker=i)
                require_equal(
                    *("total", LAWS["total"], first.total, said[i].total, where)
                )
            new = [asked.state for asked in said]
            return Exchanged(own, list(first.total), new, kinds, words)
        if isinstance(first, Gather):
            if isinstance(compressor, Sparsifier):
                _check_rule(compressor, states, corrected, said, step, place)
            messages = [asked.message for asked in said]
            dense, count, lengths = _gathered(messages, place, wired)
            words += lengths
            own = [unpack(vector, segments) for vector in dense]
            total = unpack(_added(dense), segments)
        elif isinstance(first, Sum):
            columns = zip(*(asked.values for asked in said), strict=True)
            total = [_added(column) for column in columns]
            count = len(said) * sum(int(tf.size(value)) for value in first.values)
        else:
            root = int(first.root)
            require("rounds", LAWS["rounds"], root >= 0, place, f"root={root}")
            root %= len(said)
            total = list(said[root].values)
            count = sum(int(tf.size(value)) for value in total)
        entries = tf.constant(count, tf.int64)
        heard = [
            (*heard[i], Heard(total, entries, len(said), shared, said[i].carry))
            for i in workers
        ]


def _ask(compressor, state, corrected, step, heard, place: Place, worker: int) -> Any:
    """Asks one worker and sees that it changes nothing of what it is given."""
    place = place._replace(worker=worker)
    vectors = list(corrected)
    given = state, vectors, [(*answer.total, answer.carry) for answer in heard]
    before = tf.nest.flatten(given)
    numbers = [np.array(leaf) for leaf in before]
    with runs("asks", LAWS["asks"], place):
        asked = compressor.compress(state, vectors, step, place.segments, heard)
        check_asked(asked, len(heard))
    after = tf.nest.flatten(given)
    same = len(before) == len(after) and all(map(lambda a, b: a is b, before, after))
    require("pure", LAWS["pure"], same, place, "a list or dict with other tensors")
    require_equal("pure", LAWS["pure"], numbers, after, place)
    return asked


def _kind_of(said: Sequence[Any], place: Place) -> str:
    """What is asked for, in words that must be the same on all workers."""
    words = []
    for asked in said:
        text = type(asked).__name__
        if isinstance(asked, Sum | Broadcast):
            dtypes = (tf.float32,) if isinstance(asked, Sum) else (tf.float32, tf.int32)
            good = all(tf.is_tensor(v) and v.dtype in dtypes for v in asked.values)
            shown = str(signature(list(asked.values)))
            require("rounds", LAWS["rounds"], good, place, f"{text} of {shown}")
            text += f" of {shown}"
        if isinstance(asked, Broadcast):
            text += f" from {int(asked.root)}"
        if isinstance(asked, Gather):
            text += f" of {type(asked.message).__name__}"
        words.append(text)
    rule = LAWS["rounds"]
    require(
        "rounds", rule, len(set(words)) == 1, place, " and ".join(sorted(set(words)))
    )
    return words[0].partition(" from ")[0]  # A root may follow the step.


def _gathered(
    messages: list[Any], place: Place, wired: bool
) -> tuple[list[tf.Tensor], int, list[int]]:
    """What each message decodes to, the entries of all, and words of fixed lengths."""
    size, count = total_size(place.segments), 0
    dense, words = [], []
    for worker, message in enumerate(messages):
        here = place._replace(worker=worker)
        with runs("message", LAWS["message"], here):
            vector, entries = message.to_dense(), int(message.entries())
        good = vector.dtype == tf.float32 and vector.shape == [size]
        received = f"{entries} entries, {signature(vector)}"
        good = good and 0 <= entries <= size
        require("message", LAWS["message"], good, here, received)
        if isinstance(message, Message):
            kind = type(message).kind
            good = isinstance(kind, int) and 1 <= kind <= wire.GREATEST_KIND
            require("message", LAWS["message"], good, here, f"kind={kind}")
            if wired:
                decoded, length = _through_the_wire(messages, worker, here)
                require_equal("code", LAWS["code"], vector, decoded, here)
                words += [length] if message.fixed_length else []
        else:
            _check_entries(message, here)
        dense.append(vector)
        count += entries
    sparse = [m.to_sparse() if isinstance(m, Selection) else m for m in messages]
    if isinstance(sparse[0], SparseGradient) and sparse[0].known:
        for worker, message in enumerate(sparse):
            here = place._replace(worker=worker)
            expected = sparse[0].indices
            require_equal("known", LAWS["known"], expected, message.indices, here)
    return dense, count, words


def _through_the_wire(
    messages: Sequence[Message], worker: int, place: Place
) -> tuple[tf.Tensor, int]:
    """What another worker decodes, and the number of words of the body."""
    message, size = messages[worker], total_size(place.segments)
    with runs("code", LAWS["code"], place):
        body = message.encode()
        good = body.dtype == tf.int32 and body.shape.rank == 1
        require("code", LAWS["code"], good, place, str(signature(body)))
        sent = wire.frame(message.kind, size, message.entries(), body, tf.zeros([3]), 0)
        padded = sent if message.fixed_length else tf.pad(sent, [[0, 5]])
        opened = wire.open_frame(padded, message.kind, size, 3)
        reader = messages[(worker + 1) % len(messages)]
        return reader.decode(opened.body).to_dense(), int(tf.size(body))


def _check_entries(message: Any, place: Place) -> None:
    """Of a `Selection` or `SparseGradient`."""
    if isinstance(message, Selection):
        message = message.to_sparse()
    indices = np.asarray(message.indices)
    good = message.indices.dtype == tf.int32 and message.values.dtype == tf.float32
    good = good and indices.shape == message.values.shape and indices.ndim == 1
    good = good and len(set(indices.tolist())) == indices.size
    good = good and np.all((indices >= 0) & (indices < message.size))
    good = good and (message.known or np.all(np.diff(indices) > 0))
    require("entries", LAWS["entries"], good, place, f"indices {indices[:8].tolist()}")


def _check_rule(compressor, states, corrected, said, step, place: Place) -> None:
    """Of a sparsifier: what it sends is what its rule names, by numpy."""
    for worker, asked in enumerate(said):
        here = place._replace(worker=worker)
        vectors = list(corrected[worker])
        message = asked.message
        if isinstance(message, Selection):
            rule = message.rule
        else:
            rule = compressor.rule(states[worker], vectors, step, place.segments)
        expected = _named(rule, [np.asarray(vector) for vector in vectors])
        require_equal("rule", LAWS["rule"], expected, message.to_dense(), here)


def _named(rule: Any, vectors: list[np.ndarray]) -> np.ndarray:
    """The entries that a rule names, of vectors laid end to end; 0 elsewhere."""
    vector = np.concatenate([np.zeros(0, np.float32), *vectors])
    kept = np.zeros(vector.shape, bool)
    if isinstance(rule, AtLeast):
        kept = np.abs(vector) >= np.float32(rule.threshold)
    elif isinstance(rule, At):
        kept[np.asarray(rule.positions)] = True
    elif isinstance(rule, Largest):
        parts = [vector] if len(rule.counts) == 1 else vectors
        start = 0
        for part, count in zip(parts, rule.counts, strict=True):
            block = rule.block or max(part.size, 1)
            for at in range(0, part.size, block):
                here = part[at : at + block]
                few = int(count)
                if here.size < block:
                    few = max(1, few * here.size // block)
                order = np.argsort(-np.abs(here), kind="stable")[:few]
                kept[start + at + order] = True
            start += part.size
    return np.where(kept, vector, np.float32(0))


def _check_vectors(law: str, vectors: Any, place: Place) -> None:
    """They are finite, float32, and one for each segment."""
    found = [f"{v.dtype.name}{list(v.shape)}" for v in vectors]
    wanted = [f"float32{[segment.size]}" for segment in place.segments]
    require(law, LAWS[law], found == wanted, place, str(found))
    if not np.all(np.isfinite(pack(vectors))):
        fail(law, LAWS[law], place, "NaN or Inf")


def _added(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """One after the other, in the order of workers."""
    total = tf.zeros_like(vectors[0])
    for vector in vectors:
        total = total + vector
    return total
