"""Laws of every compressor, as a check that a stranger's class can be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tem_tf import simulation
from tem_tf.aggregation import Aggregator
from tem_tf.compressors import Compressor, Everything
from tem_tf.layout import Segments, each, total_size, unpack
from tem_tf.testing import objects, rounds
from tem_tf.testing.objects import SMALL, VARIED, copy_of, dyadic
from tem_tf.testing.rounds import Exchanged, exchange
from tem_tf.testing.verdict import Place, require, require_equal, runs, signature

COMPRESSOR_LAWS = {
    **objects.LAWS,
    **rounds.LAWS,
    "init": "`init` must return a nest of finite tensors, the same at each call",
    "state": "structure, shapes and dtypes of the state must stay what `init` returned",
    "conservation": "what leaves the workers' corrected gradients must add up to the "
    "total",
    "lossless": "with `lossless` everything must leave at every step",
    "contraction": "what is held back must not be longer than what there was, or error "
    "feedback piles up; a compressor for memory=None may be checked with "
    "contracts=False",
    "warm-up": "after dense steps, which `observe` sees, the state must be such as "
    "`init` returned",
    "repeatable": "an equal compressor must do the same bit for bit",
    "scaled": "`scaled(2**-n)` must do to a gradient times 2**-n what it does to the "
    "gradient, times 2**-n",
    "simulated": "over simulated workers, vectorised, it must do the same; no shape "
    "may depend on values; what cannot be vectorised may be checked with "
    "simulated=False",
    "path": "in a graph, as the optimizer runs it, it must do the same",
}
# Of a sum of some hundred products in float32, by the length of the vectors. Where
# entries are moved unchanged nothing is rounded: gradients are multiples of 1/8.
ROUNDING = 1e-5
FEEDBACK_STEPS = 20


def check_compressor(
    compressor: Compressor,
    registered: bool = True,
    simulated: bool = True,
    contracts: bool = True,
) -> None:
    """Raises AssertionError if a compressor breaks a law that all of them keep.

    The laws, `COMPRESSOR_LAWS`, are tried on one, two and three workers of this
    process, on matrices, vectors, scalars, empty variables and none, and on gradients
    of zeros, of equal magnitudes and with one entry. The message says which law is
    broken, and where.

    Args:
        compressor: `tem_tf.Compressor`.
        registered: Bool, default True. Whether models that were compiled with it are
            to be loaded, for which its class must be registered with Keras.
        simulated: Bool, default True. Whether it is to run over simulated workers, for
            which its operations must be such as `tf.vectorized_map` takes.
        contracts: Bool, default True. Whether it is used with error feedback, for which
            ‖p - C(p)‖ must not exceed ‖p‖.

    Raises:
        AssertionError: a law is broken.

    Example:

    >>> import tem_tf
    >>> tem_tf.testing.check_compressor(tem_tf.TopK(k=3))
    """
    copy = copy_of(compressor, registered)
    for name, segments in {"": VARIED, **SMALL}.items():
        _check_init(compressor, Place(compressor, segments))
        for workers in (2,) if name else (1, 2, 3):
            run = _Run(compressor, segments, workers, contracts)
            for step in range(2 if name else len(GRADIENTS)):
                run.step(*_gradients(step, workers, segments), wired=True)
    first, again = (_trace(c, 1.0, contracts) for c in (compressor, copy))
    place = Place(compressor, VARIED, "of all kinds", 2)
    law = "repeatable"
    require_equal(law, COMPRESSOR_LAWS[law], first, again, place)
    _check_scaled(compressor, 0.25, first, contracts)
    _check_warm_up(compressor)
    _check_feedback(compressor, contracts)
    _check_path(compressor, contracts)
    if simulated:
        _check_simulated(compressor, contracts)


class _Run:
    """Steps of some workers, with their states; every step keeps the laws."""

    def __init__(
        self,
        compressor: Compressor,
        segments: Segments,
        workers: int,
        contracts: bool = True,
    ):
        self.compressor, self.contracts = compressor, contracts
        self.place = Place(compressor, segments, workers=workers)
        self.number = 0
        self.states = [compressor.init(segments) for _ in range(workers)]
        self.kept = signature(self.states[0])
        self.kinds: list[str] | None = None
        self.words: list[int] | None = None
        self.moved = True  # Has every entry so far left whole or not at all?

    def step(
        self,
        data: str,
        corrected: Sequence[Sequence[tf.Tensor]],
        wired: bool = False,
    ) -> Exchanged:
        """Exchanges corrected gradients, of each worker vectors."""
        place = self.place._replace(data=data, step=self.number)
        done = exchange(self.compressor, self.states, corrected, place, wired)
        for worker, state in enumerate(done.states):
            received = signature(state)
            where = place._replace(worker=worker)
            _require("state", received == self.kept, where, f"{received}")
            finite = all(_is_finite(leaf) for leaf in tf.nest.flatten(state))
            _require("state", finite, where, "NaN or Inf")
        kinds = self.kinds or done.kinds
        received = f"{done.kinds}, before: {kinds}"
        _require("rounds", done.kinds == kinds, place, received)
        words = [*(self.words or []), *done.words]
        n = len(kinds)
        alike = len(set(words)) <= sum(kind.startswith("Gather") for kind in kinds)
        _require("length", alike, place, f"{sorted(set(words))} words in {n} rounds")
        self.kinds, self.words, self.states = done.kinds, words, done.states
        self._check_own(corrected, done, place)
        self.number += 1
        return done

    def _check_own(self, corrected, done: Exchanged, place: Place) -> None:
        for worker, (vectors, own) in enumerate(zip(corrected, done.own, strict=True)):
            where = place._replace(worker=worker)
            self.moved = self.moved and all(each(_is_moved, vectors, own))
            if self.compressor.lossless:
                law = "lossless"
                require_equal(law, COMPRESSOR_LAWS[law], list(vectors), own, where)
            before, after = _norm(vectors), _norm(each(tf.subtract, vectors, own))
            if self.contracts:
                holds = after <= before * (1 + ROUNDING)
                _require(
                    "contraction", holds, where, f"‖p - own‖ {after}, ‖p‖ {before}"
                )
        left = [sum(parts) for parts in zip(*done.own, strict=True)]
        lengths = [
            sum(_norm([part]) for part in parts)
            for parts in zip(*corrected, strict=True)
        ]
        law, tolerance = "conservation", self.tolerance(lengths)
        require_equal(law, COMPRESSOR_LAWS[law], left, done.total, place, tolerance)

    def tolerance(self, lengths: Sequence[float]) -> list[float]:
        """Of sums of vectors of these lengths."""
        return [0.0 if self.moved else ROUNDING * length for length in lengths]


def _check_init(compressor: Compressor, place: Place) -> None:
    with runs("init", COMPRESSOR_LAWS["init"], place):
        states = [compressor.init(place.segments) for _ in range(2)]
        leaves = [tf.nest.flatten(state) for state in states]
        good = all(tf.is_tensor(leaf) and _is_finite(leaf) for leaf in leaves[0])
        _require("init", good, place, f"{signature(states[0])}")
        require_equal("init", COMPRESSOR_LAWS["init"], leaves[0], leaves[1], place)


def _trace(compressor: Compressor, factor: float, contracts: bool) -> list[Any]:
    """Of two workers, what has left and what all have at every step, by 1 / factor."""
    run, trace = _Run(compressor, VARIED, 2, contracts), []
    for step in range(len(GRADIENTS)):
        data, corrected = _gradients(step, 2, VARIED)
        scaled = [[vector * factor for vector in vectors] for vectors in corrected]
        done = run.step(data, scaled)
        trace.append([np.asarray(v) / factor for v in tf.nest.flatten(done[:2])])
    return trace


def _check_scaled(
    compressor: Compressor, factor: float, expected: list[Any], contracts: bool
) -> None:
    law, place = "scaled", Place(compressor, VARIED, "of all kinds", 2)
    with runs(law, COMPRESSOR_LAWS[law], place):
        found = _trace(compressor.scaled(factor), factor, contracts)
    require_equal(law, COMPRESSOR_LAWS[law], expected, found, place)


def _check_warm_up(compressor: Compressor) -> None:
    """Dense steps leave the state one that the first sparse step can take."""
    law, place = "warm-up", Place(compressor, VARIED, "in a dense warm-up", 2)
    dense = Everything(compressor)
    states = [compressor.init(VARIED)] * 2
    expected = signature(states[0])
    for step in range(2):
        where = place._replace(step=step)
        with runs(law, COMPRESSOR_LAWS[law], where):
            states = exchange(
                dense, states, _gradients(step, 2, VARIED)[1], where
            ).states
        for state in states:
            received = signature(state)
            _require(law, received == expected, where, f"{received}")


def _check_feedback(compressor: Compressor, contracts: bool) -> None:
    """Twenty steps of one gradient, each of which keeps the laws.

    By conservation what was sent and what is held back are all gradients together.
    """
    data, gradients = _gradients(0, 2, VARIED)
    run = _Run(compressor, VARIED, 2, contracts)
    held = [each(tf.zeros_like, vectors) for vectors in gradients]
    for _ in range(FEEDBACK_STEPS):
        corrected = [each(tf.add, g, m) for g, m in zip(gradients, held, strict=True)]
        done = run.step(f"{data}, always the same, with error feedback", corrected)
        held = [
            each(tf.subtract, p, s) for p, s in zip(corrected, done.own, strict=True)
        ]


def _check_path(compressor: Compressor, contracts: bool) -> None:
    """One replica, in a graph, against the same steps here."""
    law, steps = "path", 3
    place = Place(compressor, VARIED, "multiples of 1/8, in a graph", 1)
    run = _Run(compressor, VARIED, 1, contracts)
    held = each(tf.zeros_like, _gradients(0, 1, VARIED)[1][0])
    with runs(law, COMPRESSOR_LAWS[law], place):
        aggregator = Aggregator(compressor)
        shapes = [segment.shape for segment in VARIED]
        variables = [tf.Variable(tf.zeros(shape)) for shape in shapes]
        aggregator.build(variables, [segment.name for segment in VARIED])
        step_in_graph = tf.function(
            lambda *x: aggregator.aggregate(*x), autograph=False
        )
    for step in range(steps):
        data, (gradient,) = _gradients(step, 1, VARIED)
        corrected = each(tf.add, gradient, held)
        done = run.step(data, [corrected])
        held = each(tf.subtract, corrected, done.own[0])
        where = place._replace(step=step)
        with runs(law, COMPRESSOR_LAWS[law], where):
            shaped = each(tf.reshape, gradient, shapes)
            found = step_in_graph(shaped, tf.constant(step, tf.int64))
        expected = each(tf.reshape, done.total, shapes)
        tolerance = run.tolerance([_norm([vector]) for vector in corrected])
        require_equal(law, COMPRESSOR_LAWS[law], expected, found, where, tolerance)


def _check_simulated(compressor: Compressor, contracts: bool) -> None:
    law, workers = "simulated", 3
    run = _Run(compressor, VARIED, workers, contracts)
    states = simulation.repeat(compressor.init(VARIED), workers)

    @tf.function(autograph=False)
    def in_one(states, rows, step):
        return simulation.exchange(compressor, states, rows, step, VARIED)

    for step in range(2):
        data, corrected = _gradients(4 * step, workers, VARIED)
        done = run.step(data, corrected)
        where = run.place._replace(data=data, step=step)
        rows = [tf.stack(parts) for parts in zip(*corrected, strict=True)]
        number = tf.constant(step, tf.int64)
        with runs(law, COMPRESSOR_LAWS[law], where):
            try:
                found = in_one(states, rows, number)
            except ValueError as error:  # TensorFlow 2.16 to 2.18 lack it.
                if "No pfor vectorization defined for TopKV2" not in str(error):
                    raise
                return
        lengths = [_norm([part]) for part in rows]
        own = [tf.stack(parts) for parts in zip(*done.own, strict=True)]
        expected, received = [*own, *done.total], [*found.own, *found.total]
        tolerance = 2 * run.tolerance(lengths)
        require_equal(
            *(law, COMPRESSOR_LAWS[law], expected, received, where, tolerance)
        )
        states = found.states


def _equal_magnitudes(workers: int, size: int) -> list[tf.Tensor]:
    return [tf.sign(vector) for vector in dyadic(workers, size, seed=2)]


def _one_entry(workers: int, size: int) -> list[tf.Tensor]:
    """Of the last worker alone."""
    last = tf.one_hot(size // 2, size, 2.0) if size else tf.zeros([0])
    return [tf.zeros([size])] * (workers - 1) + [last]


GRADIENTS: dict[str, Callable[[int, int], list[tf.Tensor]]] = {
    "multiples of 1/8": lambda workers, size: dyadic(workers, size, seed=0),
    "zeros": lambda workers, size: [tf.zeros([size])] * workers,
    "equal magnitudes": _equal_magnitudes,
    "one entry of one worker": _one_entry,
    "other multiples of 1/8": lambda workers, size: dyadic(workers, size, 1, 800),
}


def _gradients(
    step: int, workers: int, segments: Segments
) -> tuple[str, list[list[tf.Tensor]]]:
    """In words, and of each worker vectors, one for each segment."""
    data = list(GRADIENTS)[step]
    vectors = GRADIENTS[data](workers, total_size(segments))
    return data, [unpack(vector, segments) for vector in vectors]


def _require(law: str, holds: Any, place: Place, received: str) -> None:
    require(law, COMPRESSOR_LAWS[law], holds, place, received)


def _is_finite(leaf: tf.Tensor) -> bool:
    return not leaf.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(leaf)))


def _is_moved(vector: tf.Tensor, own: tf.Tensor) -> bool:
    return bool(tf.reduce_all((own == 0) | (own == vector)))


def _norm(vectors: Sequence[tf.Tensor]) -> float:
    squares = [np.sum(np.square(np.asarray(v, np.float64))) for v in vectors]
    return float(np.sqrt(np.sum(squares)))
