"""Laws of every memory, as a check that a stranger's class can be given.

That nothing is lost is none of them: a memory may decay, or keep an estimate.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tem_tf.aggregation import Aggregator
from tem_tf.compressors import TopK
from tem_tf.layout import Segments, each, make_segments, total_size, unpack
from tem_tf.memory import Memory
from tem_tf.testing import objects
from tem_tf.testing.objects import SMALL, VARIED, copy_of, dyadic
from tem_tf.testing.rounds import exchange
from tem_tf.testing.verdict import Place, require, require_equal, runs, signature

MEMORY_LAWS = {
    **objects.LAWS,
    "init": "`init` must return a dict, by name, of finite float32 scalars and lists "
    "of a vector for each variable, of each variable the same alone as beside others; "
    "`residual` is such a list",
    "state": "structure, shapes and dtypes of the state must stay what `init` returned",
    "vectors": "`compensate` and the direction of `apply` must be finite vectors "
    "float32 by variable",
    "pure": "a memory must not change what it is given",
    "repeatable": "an equal memory must do the same bit for bit",
    "zero": "without a gradient there must be no direction",
    "by variable": "what becomes of a variable must not depend on others; a memory "
    "that looks at all of them may be checked with by_variable=False",
    "redistribute": "`redistribute` must return a state of its own for each of the new "
    "workers, of the structure of the old ones",
    "path": "in a graph, as the optimizer runs it, it must do the same",
}
STEPS = 6
SENDS = TopK(density=0.3)  # By variable, so that variables are independent.
# Of some additions in float32 in another order, by the length of all that was added.
ROUNDING = 1e-5


def check_memory(
    memory: Memory, registered: bool = True, by_variable: bool = True
) -> None:
    """Raises AssertionError if a memory breaks a law that all of them keep.

    The laws, `MEMORY_LAWS`, are tried with Top-k on two workers of this process, on
    matrices, vectors, scalars, empty variables and none. The message says which law is
    broken, and where.

    Args:
        memory: `tem_tf.Memory`.
        registered: Bool, default True. Whether models that were compiled with it are
            to be loaded, for which its class must be registered with Keras.
        by_variable: Bool, default True. Whether each variable goes its own way. False
            for a memory that looks at the gradient as a whole, as at its norm.

    Raises:
        AssertionError: a law is broken.

    Example:

    >>> import tem_tf
    >>> tem_tf.testing.check_memory(tem_tf.DecayingErrorFeedback(0.9))
    """
    copy = copy_of(memory, registered)
    for segments in (VARIED, *SMALL.values()):
        _check_init(memory, Place(memory, segments))
    first, again = (_walk(m, VARIED, "multiples of 1/8") for m in (memory, copy))
    _require_equal("repeatable", first, again, Place(memory, VARIED, workers=2))
    for segments in SMALL.values():
        _walk(memory, segments, "multiples of 1/8")
    _check_zero(memory)
    if by_variable:
        _check_each_variable(memory)
    _check_redistribute(memory)
    _check_path(memory)


class _Step(NamedTuple):
    """Of two workers, what a step yields.

    Attributes:
        corrected: Vectors of each worker.
        directions: Vectors of each worker.
        states: The new ones of each worker.
    """

    corrected: list[Any]
    directions: list[Any]
    states: list[Any]


def _check_init(memory: Memory, place: Place) -> None:
    with runs("init", MEMORY_LAWS["init"], place):
        state = memory.init(place.segments)
        _require("init", isinstance(state, dict), place, type(state).__name__)
        alone = [
            memory.init(make_segments([segment.name], [segment.shape]))
            for segment in place.segments
        ]
        empty = memory.init(())
    same = all(state.keys() == other.keys() for other in (empty, *alone))
    _require(
        "init", same, place, f"names {sorted(state)} and, of none, {sorted(empty)}"
    )
    for key, value in state.items():
        is_list = isinstance(value, list | tuple)
        wanted = [f"float32{[segment.size]}" for segment in place.segments]
        good = isinstance(key, str) and is_list == isinstance(empty[key], list | tuple)
        if is_list:
            good = good and list(map(signature, value)) == wanted
        else:
            good = good and key != "residual" and signature(value) == "float32[]"
        good = good and all(map(_is_finite, tf.nest.flatten(value)))
        _require("init", good, place, f"{key!r}: {signature(value)}")
        parts = [other[key] for other in alone]
        expected = [part[0] for part in parts] if is_list else [value] * len(parts)
        _require_equal("init", expected, value if is_list else parts, place)


def _walk(
    memory: Memory, segments: Segments, data: str, factor: float = 1.0
) -> list[_Step]:
    """Steps of two workers; every one keeps the laws."""
    states = [memory.init(segments) for _ in range(2)]
    place = Place(memory, segments, data, 2)
    steps = []
    for step in range(STEPS):
        gradients = [
            unpack(vector * factor, segments)
            for vector in dyadic(2, total_size(segments), step)
        ]
        steps.append(_step(memory, states, gradients, place._replace(step=step)))
        states = steps[-1].states
    return steps


def _step(
    memory: Memory,
    states: Sequence[Any],
    gradients: Sequence[Sequence[tf.Tensor]],
    place: Place,
) -> _Step:
    """Compensates, exchanges, updates and applies."""
    step = tf.constant(place.step, tf.int64)
    expected = [signature(state) for state in states]
    corrected, directions, new = [], [], []
    for i, state in enumerate(states):
        given = state, list(gradients[i])
        corrected.append(_unchanged(memory.compensate, given, step, place, i))
        _check_vectors(corrected[-1], place._replace(worker=i))
    sending = place._replace(subject=SENDS)
    done = exchange(SENDS, [() for _ in states], corrected, sending)
    for i, state in enumerate(states):
        given = state, list(corrected[i]), done.own[i]
        state = _unchanged(memory.update, given, step, place, i)
        given = state, list(done.total)
        applied = _unchanged(memory.apply, given, step, place, i)
        where = place._replace(worker=i)
        pair = isinstance(applied, tuple) and len(applied) == 2
        _require("vectors", pair, where, f"{signature(applied)} of `apply`")
        direction, state = applied
        _check_vectors(direction, where)
        received = signature(state)
        _require("state", received == expected[i], where, f"{received}")
        _require("state", all(map(_is_finite, tf.nest.flatten(state))), where, "NaN")
        directions.append(list(direction))
        new.append(state)
    return _Step([list(vectors) for vectors in corrected], directions, new)


def _unchanged(method, given, step, place: Place, worker: int) -> Any:
    """What a method returns, which changes nothing of what it is given."""
    place = place._replace(worker=worker)
    before, shape = tf.nest.flatten(given), signature(given)
    with runs("vectors", MEMORY_LAWS["vectors"], place):
        result = method(*given, step, place.segments)
    after = tf.nest.flatten(given)
    same = shape == signature(given) and all(map(operator.is_, before, after))
    _require("pure", same, place, f"{method.__name__} changed a list or dict")
    return result


def _check_zero(memory: Memory) -> None:
    for step in _walk(memory, VARIED, "zeros", 0.0):
        zeros = tf.nest.map_structure(tf.zeros_like, step.directions)
        _require_equal(
            "zero", zeros, step.directions, Place(memory, VARIED, "zeros", 2)
        )


def _check_each_variable(memory: Memory) -> None:
    """All variables together, and each alone, over steps."""
    together = [memory.init(VARIED) for _ in range(2)]
    alone = {
        segment: [memory.init(_table(segment)) for _ in range(2)] for segment in VARIED
    }
    place = Place(memory, VARIED, "multiples of 1/8", 2)
    for step in range(STEPS):
        gradients = [unpack(v, VARIED) for v in dyadic(2, total_size(VARIED), step)]
        where = place._replace(step=step)
        done = _step(memory, together, gradients, where)
        together = done.states
        for i, segment in enumerate(VARIED):
            own = [[vectors[i]] for vectors in gradients]
            one = _step(
                memory, alone[segment], own, where._replace(segments=_table(segment))
            )
            alone[segment] = one.states
            received = [vectors[i] for vectors in (*done.corrected, *done.directions)]
            _require_equal("by variable", one[:2], received, where)


def _table(segment) -> Segments:
    return make_segments([segment.name], [segment.shape])


def _check_redistribute(memory: Memory) -> None:
    place = Place(memory, VARIED, "multiples of 1/8", 2)
    states = _walk(memory, VARIED, "multiples of 1/8")[-1].states
    expected = signature(states[0])
    for before, workers in ((2, 3), (2, 1), (1, 2), (2, 2)):
        with runs("redistribute", MEMORY_LAWS["redistribute"], place):
            found = list(memory.redistribute(states[:before], workers))
        good = len({id(state) for state in found}) == len(found) == workers
        received = [signature(state) for state in found]
        good = good and all(shapes == expected for shapes in received)
        finite = all(map(_is_finite, tf.nest.flatten(found)))
        told = f"from {before} to {workers} workers: {received}"
        _require("redistribute", good and finite, place, told)


def _check_path(memory: Memory) -> None:
    """One replica, in a graph, against the same steps here."""
    law, shapes = "path", [segment.shape for segment in VARIED]
    place = Place(memory, VARIED, "multiples of 1/8, in a graph", 1)
    with runs(law, MEMORY_LAWS[law], place):
        aggregator = Aggregator(SENDS, memory)
        variables = [tf.Variable(tf.zeros(shape)) for shape in shapes]
        aggregator.build(variables, [segment.name for segment in VARIED])
        step_in_graph = tf.function(
            lambda *x: aggregator.aggregate(*x), autograph=False
        )
    states, longest = [memory.init(VARIED)], 0.0
    for step in range(3):
        gradient = unpack(dyadic(1, total_size(VARIED), step)[0], VARIED)
        where = place._replace(step=step)
        done = _step(memory, states, [gradient], where)
        states = done.states
        with runs(law, MEMORY_LAWS[law], where):
            number = tf.constant(step, tf.int64)
            found = step_in_graph(each(tf.reshape, gradient, shapes), number)
        expected = each(tf.reshape, done.directions[0], shapes)
        longest += max(float(tf.norm(vector)) for vector in done.corrected[0])
        require_equal(law, MEMORY_LAWS[law], expected, found, where, ROUNDING * longest)


def _check_vectors(vectors: Any, place: Place) -> None:
    listed = isinstance(vectors, list | tuple)
    found = list(map(signature, vectors)) if listed else signature(vectors)
    wanted = [f"float32{[segment.size]}" for segment in place.segments]
    _require("vectors", found == wanted, place, str(found))
    _require("vectors", all(map(_is_finite, vectors)), place, "NaN or Inf")


def _require(law: str, holds: Any, place: Place, received: str) -> None:
    require(law, MEMORY_LAWS[law], holds, place, received)


def _require_equal(law: str, expected: Any, received: Any, place: Place) -> None:
    require_equal(law, MEMORY_LAWS[law], expected, received, place)


def _is_finite(leaf: Any) -> bool:
    return bool(np.all(np.isfinite(np.asarray(leaf))))
