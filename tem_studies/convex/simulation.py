"""Runs one method with one compressor over all simulated workers, and measures it.

The workers are the rows of one matrix: their gradients are one gather or one matrix
product, the compressor runs under `tf.vectorized_map`, and many iterations run in one
graph loop. Points are kept every few iterations, and f at all of them is one matrix
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
from tem_tf.compressors import Compressor, Observed
from tem_tf.packing import Segments, make_segments

# Iterations in one call of the graph. A run that diverges is noticed one call later.
_CHUNK = 500
_SCHEDULED_CHUNK = 100  # Short, so that a large k at the start is over soon.


def check_compressor(compressor: Compressor, dimension: int) -> Segments:
    """Returns the table of the one vector that this model is.

    Raises:
        ValueError: the compressor needs several variables, or not float32's like.
    """
    segments = make_segments(["weights"], [dimension])
    try:
        state = compressor.init(segments)
        sent, _ = compressor.approximate(
            state, tf.ones([dimension], tf.float64), tf.constant(0, tf.int64), segments
        )
    except Exception as error:
        raise ValueError(
            "`compressor` must work on one float64 vector: logistic regression has "
            f"no layers. Received: compressor={compressor!r} ({error})."
        ) from error
    if sent.dtype != tf.float64 or sent.shape != (dimension,):
        raise ValueError(
            "`compressor` must return a float64 vector of the size it was given. "
            f"Received: compressor={compressor!r}, which made {sent.dtype.name} "
            f"{tuple(sent.shape)} of float64 {(dimension,)}."
        )
    return segments


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
        compressor: What they send. Its `approximate` sees p_i, of size d.
        start: float64 (d,).
        iterations: Int >= 1, a multiple of `interval`.
        interval: Iterations between two records.
        step_size: In units of γ = 1/(L + l2).
        seed: Of examples, coins and the quantiser.
        schedule: int32 (iterations, workers). If given, Top-k with these k_t takes the
            compressor's place.
        progress: Called with the iterations done.

    Raises:
        ValueError: the compressor does not work here, or `iterations` and `interval`
            do not fit together.
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
    kept = tf.nest.map_structure(
        lambda x: tf.repeat(x[tf.newaxis], workers, axis=0), compressor.init(segments)
    )
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
    recorder = Recorder(problem, method, compressor, schedule is not None, start)
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
        def one(row: tuple[tf.Tensor, Any]) -> tuple[tf.Tensor, Any]:
            return compressor.approximate(row[1], row[0], step, segments)

        if tf.nest.flatten(states):
            sent, states = tf.vectorized_map(one, (corrected, states))
        else:
            sent = tf.vectorized_map(lambda p: one((p, states))[0], corrected)
        if compressor.lossless:
            entries = tf.fill([corrected.shape[0]], float(corrected.shape[1]))
            return sent, states, tf.cast(entries, tf.float64)
        is_sent = tf.cast(tf.not_equal(sent, 0), tf.float64)
        entries = tf.reduce_sum(is_sent, axis=1)
        if compressor.observes:
            states = observe(new, sent, entries, states, step)
        return sent, states, entries

    def observe(
        new: tf.Tensor,
        sent: tf.Tensor,
        entries: tf.Tensor,
        states: Any,
        step: tf.Tensor,
    ) -> Any:
        shares = tf.vectorized_map(lambda g: compressor.share(g, segments), new)
        observed = Observed(
            tf.reduce_sum(sent, axis=0),
            tf.cast(tf.reduce_sum(entries), tf.int64),
            new.shape[0],
            tf.reduce_sum(shares, axis=0),
        )
        return tf.vectorized_map(
            lambda state: compressor.observe(state, observed, step, segments), states
        )

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
