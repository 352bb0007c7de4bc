"""Top-k with a k for each worker and iteration: the controls of the hard threshold.

A hard threshold sends most at the start, so it differs from Top-k in its schedule and
in what it selects. Given the entries that a hard threshold sent, three schedules of
the same volume, the same for all workers, tell the two apart:

    topk_equal      the same k throughout
    topk_replay     the k_t that the threshold chose, in the mean over workers
    topk_warmup     everything at first, then a constant k

Replayed worker by worker from the same seed, Top-k *is* the hard threshold: at each
step the k_t largest entries are those above λ. What replay leaves out is that workers
and runs differ in their k_t.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tem_tf.compressors import Largest, Sparsifier

# After a dense start, this share of the volume is left for the constant k. Our choice.
_AFTER_WARMUP = 0.5


@dataclasses.dataclass(frozen=True)
class ScheduledTopK(Sparsifier):
    """Sends the k_t entries of greatest magnitude; of equals, those of lower index.

    Its state is {"schedule": int32 (iterations,)}, the worker's k_t.

    Args:
        largest: Int >= 1. No k_t is above it. The time of a selection grows with it.
    """

    largest: int

    def rule(self, state, corrected, step, segments):
        return Largest([state["schedule"][step]], [self.largest])


def equal(entries: np.ndarray, dimension: int) -> np.ndarray:
    """The same k throughout, k + 1 at some iterations where the mean is no integer.

    Args:
        entries: int (iterations, workers). What another compressor sent.
        dimension: d; unused, all schedules take the same arguments.

    Returns:
        int32 of the same shape. Its columns are equal and sum up to the mean over
        workers of the other's volume, rounded down.
    """
    del dimension
    return _for_all(_spread(_volume(entries), len(entries)), entries)


def replay(entries: np.ndarray, dimension: int) -> np.ndarray:
    """The mean over workers of what was sent, iteration by iteration.

    Fractions are carried over to the next iterations.
    """
    del dimension
    sent = np.cumsum(entries.sum(axis=1)) // entries.shape[1]
    return _for_all(np.diff(sent, prepend=0), entries)


def warm_up(entries: np.ndarray, dimension: int) -> np.ndarray:
    """Everything at first, half of the volume; then a constant k of the other half.

    Where half of the volume is less than a dense iteration, there is one dense
    iteration if the whole volume reaches for it, and none if it does not.
    """
    volume = _volume(entries)
    dense = max(int((1 - _AFTER_WARMUP) * volume) // dimension, 1)
    dense = min(dense, volume // dimension, len(entries))
    rest = len(entries) - dense
    after = _spread(volume - dense * dimension, rest) if rest else np.array([], int)
    return _for_all(np.append(np.full(dense, dimension), after), entries)


SCHEDULES = {"topk_equal": equal, "topk_replay": replay, "topk_warmup": warm_up}


def _volume(entries: np.ndarray) -> int:
    return int(entries.sum()) // entries.shape[1]


def _spread(total: int, iterations: int) -> np.ndarray:
    """Integers (iterations,), as even as can be, with the given sum."""
    return np.diff(total * np.arange(iterations + 1) // iterations)


def _for_all(schedule: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """The same schedule (iterations,) for each worker."""
    return np.repeat(schedule[:, np.newaxis], entries.shape[1], 1).astype(np.int32)
