"""A small real training with simulated workers, to compare thresholds in closed loop.

An MLP of 64-16-10 on the handwritten digits that scikit-learn ships, a share of the
labels random so that gradients do not vanish, SGD with momentum. All of a run is one
graph; compressors run under `tf.vectorized_map`, as in the convex laboratory.
"""

import dataclasses
import operator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import tem_tf
from tem_tf import simulation
from tem_tf.layout import each, make_segments, pack

HIDDEN = 16
SHAPES = [(64, HIDDEN), (HIDDEN,), (HIDDEN, 10), (10,)]
SIZES = [int(np.prod(shape)) for shape in SHAPES]
SIZE = sum(SIZES)
SEGMENTS = make_segments("abcd", SHAPES)


class Run(NamedTuple):
    """`counts` (steps,), mean k_t of a worker; `total_error`; `thresholds` or None."""

    counts: np.ndarray
    total_error: float
    thresholds: np.ndarray

    @property
    def volume(self) -> float:
        return float(self.counts.sum())

    def profile(self, parts: int = 10) -> np.ndarray:
        """Mean k_t of each tenth of the run, as a share of the mean of all."""
        tenths = [part.mean() for part in np.array_split(self.counts, parts)]
        return np.array(tenths) / self.counts.mean()


@dataclasses.dataclass(frozen=True)
class HeldThreshold(tem_tf.Sparsifier):
    """A constant λ that is given with the state: one graph for all λ."""

    def init(self, segments):
        return {"threshold": tf.zeros([], tf.float64)}

    def rule(self, state, corrected, step, segments):
        return tem_tf.AtLeast(state["threshold"])


class Training:
    """Trains with one compressor, from the same start on the same examples.

    Args:
        compressor: What workers send; its state must have `threshold`.
        steps: Int.
        workers: Int.
        noise: Share of random labels.
    """

    def __init__(self, compressor, steps, workers=4, noise=0.3, batch=16):
        self._compressor, self._steps, self._workers = compressor, steps, workers
        rng = np.random.default_rng(0)
        digits = load_digits()
        labels = digits.target.copy()
        wrong = rng.random(len(labels)) < noise
        labels[wrong] = rng.integers(10, size=wrong.sum())
        self._x = tf.constant(digits.data / 16, tf.float32)
        self._y = tf.one_hot(labels, 10)
        draws = rng.integers(len(labels), size=(steps, workers, batch))
        self._draws = tf.constant(draws, tf.int32)
        start = [rng.normal(size=s) / np.sqrt(s[0]) * (len(s) > 1) for s in SHAPES]
        self._start = np.concatenate([part.ravel() for part in start])
        self._compiled = tf.function(self._run, autograph=False)

    def run(self, threshold: float = 0.0) -> Run:
        """One training; `threshold` is the state's at the start."""
        state = self._compressor.init(SEGMENTS)
        state["threshold"] = tf.constant(threshold, tf.float64)
        states = simulation.repeat(state, self._workers)
        outcome = [x.numpy() for x in self._compiled(states)]
        return Run(outcome[0], float(outcome[1].sum()), outcome[2])

    def _cut(self, weights):
        return zip(tf.split(weights, SIZES), SHAPES, strict=True)

    def _gradients(self, weights, rows):
        parts = [tf.reshape(p, s) for p, s in self._cut(weights)]
        x, y = tf.gather(self._x, rows), tf.gather(self._y, rows)
        hidden = tf.nn.relu(x @ parts[0] + parts[1])
        delta = tf.nn.softmax(hidden @ parts[2] + parts[3]) - y
        delta /= rows.shape[1]
        back = (delta @ tf.transpose(parts[2])) * tf.cast(hidden > 0, tf.float32)
        gradients = [
            tf.matmul(x, back, transpose_a=True),
            tf.reduce_sum(back, axis=1),
            tf.matmul(hidden, delta, transpose_a=True),
            tf.reduce_sum(delta, axis=1),
        ]
        return tf.concat(
            [tf.reshape(g, [self._workers, -1]) for g in gradients], axis=1
        )

    def _run(self, states):
        compressor, steps, workers = self._compressor, self._steps, self._workers

        def step(t, weights, velocity, residual, states, counts, errors, thresholds):
            thresholds = thresholds.write(t, states["threshold"])
            gradients = tf.split(self._gradients(weights, self._draws[t]), SIZES, 1)
            p = each(operator.add, gradients, tf.split(residual, SIZES, 1))
            now = tf.cast(t, tf.int64)
            done = simulation.exchange(compressor, states, p, now, SEGMENTS, gradients)
            sent = tf.concat(done.own, axis=1)
            residual = tf.concat(p, axis=1) - sent
            error = tf.reduce_sum(tf.square(residual)) / workers
            velocity = 0.9 * velocity + pack(done.total) / workers
            weights -= 0.1 * velocity
            entries = tf.math.count_nonzero(sent)
            counts = counts.write(t, tf.cast(entries, tf.float64) / workers)
            errors = errors.write(t, tf.cast(error, tf.float64))
            states = done.states
            return (
                *(t + 1, weights, velocity, residual),
                *(states, counts, errors, thresholds),
            )

        arrays = [tf.TensorArray(tf.float64, steps) for _ in range(3)]
        weights = tf.constant(self._start, tf.float32)
        start = tf.constant(0), weights, tf.zeros([SIZE]), tf.zeros([workers, SIZE])
        outcome = tf.while_loop(
            lambda t, *_: t < steps, step, (*start, states, *arrays)
        )
        return [array.stack() for array in outcome[-3:]]


def best_constant(volume: float, steps: int, **options) -> Run:
    """The constant λ that sends `volume`, found in hindsight by bisection.

    Volume jumps a little with λ in closed loop, so the two runs next to it are joined
    by a power law: returned are counts of the nearer and the total error at `volume`.
    """
    training = Training(HeldThreshold(), steps, **options)
    low, high = 1e-4, 10.0
    below = above = None
    for _ in range(12):
        middle = float(np.sqrt(low * high))
        run = training.run(middle)
        if run.volume > volume:
            low, above = middle, run
        else:
            high, below = middle, run
    assert above is not None and below is not None
    share = np.log(volume / below.volume) / np.log(above.volume / below.volume)
    errors = np.log([below.total_error, above.total_error])
    nearer = above if share > 0.5 else below
    return nearer._replace(
        total_error=float(np.exp((1 - share) * errors[0] + share * errors[1]))
    )
