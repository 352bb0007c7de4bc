"""Runs one method with one compressor over all simulated workers, and measures it.

The workers are the rows of one matrix: their gradients are one gather or one matrix
product, each round of the compressor is one vectorised call, and many iterations run in
one graph loop. Points are kept every few iterations, and f at all of them is one matrix
product afterwards, which costs a twentieth of as many products with a vector; a second
thread computes it while the next iterations run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from tem_studies.convex.methods import (
    Cost,
    Draw,
    Method,
    Setting,
    State,
    full_gradients,
)
from tem_studies.convex.problem import Problem
from tem_studies.convex.schedules import ScheduledTopK
from tem_studies.convex.trace import Recorder, Trace
from tem_studies.refusal import Refusal
from tem_tf.compressors import Compressor, Gather, Selection
from tem_tf.layout import Segments, make_segments, total_size
from tem_tf.simulation import exchange, repeat
from tem_tf.sparse_gradient import SparseGradient

# Iterations in one call of the graph. A run that diverges is noticed one call later.
_CHUNK = 500
_SCHEDULED_CHUNK = 100  # Short, so that a large k at the start is over soon.


@functools.lru_cache(maxsize=256)
def check_compressor(compressor: Compressor, dimension: int) -> Segments:
    """Returns the table of the one vector that this model is.

    Raises:
        Refusal: the compressor needs several variables, or not float32's like.
    """
    segments = make_segments(["weights"], [(dimension,)])

    def send() -> tf.Tensor:
        states = repeat(compressor.init(segments), 1)
        vector = [tf.ones([1, dimension], tf.float64)]
        step = tf.constant(0, tf.int64)
        return exchange(compressor, states, vector, step, segments).own[0]

    try:  # Dtypes and shapes are known before it runs.
        graph = tf.function(send, autograph=False).get_concrete_function()
        sent = graph.structured_outputs
    except Exception as error:
        raise Refusal(
            "`compressor` must work on one float64 vector: logistic regression has "
            f"no layers. Received: compressor={compressor!r} ({error})."
        ) from error
    if sent.dtype != tf.float64 or sent.shape != (1, dimension):
        raise Refusal(
            "`compressor` must return a float64 vector of the size it was given. "
            f"Received: compressor={compressor!r}, which made {sent.dtype.name} "
            f"{tuple(sent.shape[1:])} of float64 {(dimension,)}."
        )
    return segments


@functools.lru_cache(maxsize=256)
def sends_places(compressor: Compressor, segments: Segments) -> bool:
    """Whether positions travel beside the values: not where all workers know them."""
    state, step = compressor.init(segments), tf.constant(0, tf.int64)
    vector = [tf.zeros([total_size(segments)], tf.float64)]
    asked = compressor.compress(state, vector, step, segments)
    return (
        isinstance(asked, Gather)
        and isinstance(asked.message, Selection | SparseGradient)
        and not asked.message.known
    )


def draws(method: Method, problem: Problem, iterations: int, seed: int) -> Draw:
    """All random examples and coins of a run: (iterations, workers) each."""
    generator = np.random.default_rng(seed)
    shape = (iterations, problem.workers)
    example = generator.integers(problem.local, size=shape, dtype=np.int32)
    renews = np.zeros(shape, bool)
    if method.estimator == "lsvrg":
        renews = generator.random(shape) < 1 / problem.local
    return Draw(example, renews)


def run(
    problem: Problem,
    method: Method,
    compressor: Compressor,
    *,
    start: np.ndarray,
    iterations: int,
    interval: int,
    step_size: float = 1.0,
    seed: int = 0,
    schedule: np.ndarray | None = None,
    progress: Callable[[int], None] = lambda step: None,
) -> Trace:
    """Runs a method from `start`.

    Args:
        problem: The examples of each worker.
        method: What the workers compute.
        compressor: What they send. It sees p_i, one vector of size d. What it sends
            is counted as the entries that are not 0 of what its messages decode to.
        start: float64 (d,).
        iterations: Int >= 1, a multiple of `interval`.
        interval: Iterations between two records.
        step_size: In units of γ = 1/(L + l2).
        seed: Of examples, coins and the quantiser.
        schedule: int32 (iterations, workers). If given, Top-k with these k_t takes the
            compressor's place.
        progress: Called with the iterations done.

    Raises:
        Refusal: the compressor does not work here.
        ValueError: `iterations` and `interval` do not fit together.
    """
    if iterations < 1 or interval < 1 or iterations % interval:
        raise ValueError(
            "`iterations` must be a positive multiple of `interval`. "
            f"Received: iterations={iterations}, interval={interval}."
        )
    dimension, workers = problem.dimension, problem.workers
    segments = check_compressor(compressor, dimension)
    if method.momentum is not None:  # it compresses gradients, not γ times them
        compressor = compressor.scaled(1 / (step_size * problem.step_size))
    kept = repeat(compressor.init(segments), workers)
    if schedule is not None:
        kept = {"schedule": tf.constant(schedule.T, tf.int32)}
    minimum = problem.minimum
    l2, star = tf.constant(minimum.l2, tf.float64), None
    if method.estimator == "star":
        star = full_gradients(problem.signed, l2, tf.constant(minimum.point))
    setting = Setting(
        problem.signed,
        l2,
        tf.constant(step_size * problem.step_size, tf.float64),
        star,
        tf.constant(seed, tf.int32),
    )
    drawn = draws(method, problem, iterations, seed)
    shape = tuple(problem.signed.shape)
    state = method.init(setting, tf.constant(start, tf.float64), kept)
    has_places = schedule is not None or sends_places(compressor, segments)
    recorder = Recorder(problem, method, has_places, start)
    chunk = _SCHEDULED_CHUNK if schedule is not None else _CHUNK
    chunk = max(chunk // interval, 1) * interval
    with ThreadPoolExecutor(1) as beside:
        recorded = beside.submit(lambda: True)
        for first in range(0, iterations, chunk):
            part = slice(first, min(first + chunk, iterations))
            chosen = compressor
            if schedule is not None:
                chosen = _rung(schedule[part], dimension)
            advance = _compiled(method, chosen, interval, segments, shape)
            state, *measured = advance(
                state,
                setting,
                Draw(*(tf.constant(array[part]) for array in drawn)),
                tf.constant(first, tf.int64),
            )
            if not recorded.result():
                break
            arrays = [tensor.numpy() for tensor in measured]
            recorded = beside.submit(recorder.add, *arrays, interval)
            progress(part.stop)
        recorded.result()
    return recorder.trace()


def _rung(schedule: np.ndarray, dimension: int) -> ScheduledTopK:
    """The least power of two that is enough, so that few graphs are built."""
    largest = max(int(schedule.max()), 1)
    return ScheduledTopK(min(1 << (largest - 1).bit_length(), dimension))


@functools.lru_cache(maxsize=256)
def _compiled(
    method: Method,
    compressor: Compressor,
    interval: int,
    segments: Segments,
    shape: tuple[int, ...],
) -> Callable[..., tuple[State, tf.Tensor, tf.Tensor, tf.Tensor]]:
    """The graph of many iterations; examples and state are its arguments."""
    # A graph for each shape of the examples: within one, only the number of iterations
    # varies, so that retracing can leave that one open.
    del shape

    def compress(
        corrected: tf.Tensor, new: tf.Tensor, states: Any, step: tf.Tensor
    ) -> tuple[tf.Tensor, Any, tf.Tensor]:
        sent = exchange(compressor, states, [corrected], step, segments, [new])
        (own,) = sent.own
        if compressor.lossless:
            entries = tf.fill([own.shape[0]], float(own.shape[1]))
            return own, sent.states, tf.cast(entries, tf.float64)
        is_sent = tf.cast(tf.not_equal(own, 0), tf.float64)
        return own, sent.states, tf.reduce_sum(is_sent, axis=1)

    def measure(error: tf.Tensor, cost: Cost) -> tf.Tensor:
        squares = tf.square(error)
        squared = tf.reduce_sum(squares, axis=1)
        return tf.stack(
            [
                tf.reduce_mean(cost.quantised),
                tf.reduce_mean(cost.gradients),
                tf.reduce_mean(squared),
                tf.reduce_max(squared),
                # Exactly max|e|: in binary floating point √(x²) is |x|.
                tf.sqrt(tf.reduce_max(squares)),
            ]
        )

    @tf.function(reduce_retracing=True, autograph=False)
    def advance(
        state: State, setting: Setting, drawn: Draw, first: tf.Tensor
    ) -> tuple[State, tf.Tensor, tf.Tensor, tf.Tensor]:
        iterations = tf.shape(drawn.example)[0]
        records = iterations // interval
        float64 = functools.partial(tf.TensorArray, tf.float64)

        def iterate(i, state, entries, measures):
            step = first + tf.cast(i, tf.int64)
            draw = Draw(drawn.example[i], drawn.renews[i])
            state, cost = method.iterate(
                state, setting, draw, step, lambda p, g, c: compress(p, g, c, step)
            )
            entries = entries.write(i, cost.entries)
            measures = measures.write(i, measure(state["error"], cost))
            return i + 1, state, entries, measures

        def record(r, i, state, points, entries, measures):
            i, state, entries, measures = tf.while_loop(
                lambda i, *_: i < (r + 1) * interval,
                iterate,
                (i, state, entries, measures),
            )
            points = points.write(r, state["x"])
            return r + 1, i, state, points, entries, measures

        _, _, state, points, entries, measures = tf.while_loop(
            lambda r, *_: r < records,
            record,
            (
                tf.constant(0),
                tf.constant(0),
                state,
                float64(records),
                float64(iterations),
                float64(iterations),
            ),
        )
        return state, points.stack(), entries.stack(), measures.stack()

    return advance
