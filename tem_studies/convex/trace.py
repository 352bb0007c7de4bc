"""What a run did: its records, its volume, and whether it diverged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tem_studies.convex.methods import Method
from tem_studies.convex.problem import Problem
from tem_tf.wire import HEADER_WORDS

VALUE_BITS = 32
# A run diverges when f - f* is above this multiple of the larger of its first value
# and log 2, the loss of x = 0. Our choice.
_DIVERGED = 1e3

# What the graph measures in each iteration, beside the entries of each worker.
MEASURES = ("quantised", "gradients", "error", "error_max", "residual_max")


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a run did. Arrays (records,) unless said otherwise; the first is the start.

    Attributes:
        step: Iterations done.
        suboptimality: f(x) - f*.
        squared_distance: ‖x - x*‖².
        epochs: Passes over the data.
        bits: Per worker (mean), 32 for each value that was sent, indices not counted,
            as in the study, and the quantiser's: 32 for the norm and 1 for each sign.
        encoded_bits: Per worker (mean) with the plugin's header, 32 for each value and
            32 for each index: what coding the indices saves (`tem_tf.wire`) depends on
            where they are and is not in it. The quantiser's: its norm, and 32 for each
            index with sign.
        entries: Mean over workers and over iterations since the last record of k_t.
        error: Mean over workers of ‖e‖² at that iteration.
        total_error: Sum of the above over all iterations so far.
        error_max: Largest ‖e_i‖² of any worker since the last record.
        residual_max: Largest |e_i| of any entry since the last record.
        schedule: int32 (iterations, workers). Every k_t.
        status: "finished" or "diverged".
        point: float64 (d,). The last x.
    """

    step: np.ndarray
    suboptimality: np.ndarray
    squared_distance: np.ndarray
    epochs: np.ndarray
    bits: np.ndarray
    encoded_bits: np.ndarray
    entries: np.ndarray
    error: np.ndarray
    total_error: np.ndarray
    error_max: np.ndarray
    residual_max: np.ndarray
    schedule: np.ndarray
    status: str
    point: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """What there is one value of per record."""
        fields = [field.name for field in dataclasses.fields(self)]
        return {
            name: getattr(self, name) for name in fields[: fields.index("schedule")]
        }


class Recorder:
    """Joins what the chunks of a run measured.

    Args:
        problem: The examples of each worker.
        method: What the workers compute.
        has_places: Whether a message has a header, and an index beside each value.
        start: float64 (d,). The first x.
    """

    def __init__(
        self,
        problem: Problem,
        method: Method,
        has_places: bool,
        start: np.ndarray,
    ) -> None:
        self._problem, self._method = problem, method
        self._entry_words, self._header = (2, HEADER_WORDS) if has_places else (1, 0)
        self._status, self._point = "finished", np.asarray(start, np.float64)
        self._suboptimality = [problem.suboptimality(self._point[np.newaxis])]
        self._distance = [self._squared_distance(self._point[np.newaxis])]
        self._limit = _DIVERGED * max(self._suboptimality[0][0], np.log(2))
        self._entries: list[np.ndarray] = []
        self._measures: list[np.ndarray] = []
        self._interval = 1

    def add(
        self,
        points: np.ndarray,
        entries: np.ndarray,
        measures: np.ndarray,
        interval: int,
    ) -> bool:
        """Adds a chunk; returns False if the run has diverged.

        Records from the first one on that is not finite or beyond the limit are left
        out, so that no figure shows them.
        """
        self._interval = interval
        suboptimality = self._problem.suboptimality(points)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = self._squared_distance(points)
            # NaN fails the comparison.
            good = (suboptimality < self._limit) & np.isfinite(distance)
        errors = measures.reshape(len(points), interval, -1)
        good &= np.isfinite(errors).all(axis=(1, 2))
        count = len(good) if good.all() else int(np.argmin(good))
        self._suboptimality.append(suboptimality[:count])
        self._distance.append(distance[:count])
        self._entries.append(entries[: count * interval])
        self._measures.append(measures[: count * interval])
        if count:
            self._point = points[count - 1]
        if count < len(good):
            self._status = "diverged"
        return self._status == "finished"

    def trace(self) -> Trace:
        """The whole run."""
        problem, interval = self._problem, self._interval
        entries = np.concatenate(self._entries)
        column = dict(zip(MEASURES, np.concatenate(self._measures).T, strict=True))
        first_entries, first_gradients = self._method.initial_cost(
            problem.local, problem.dimension
        )

        def total(values: np.ndarray, first: float = 0.0) -> np.ndarray:
            ends = np.cumsum(values)[interval - 1 :: interval]
            return np.concatenate([[first], first + ends])

        def over_interval(values: np.ndarray, reduce: Callable) -> np.ndarray:
            return np.append(np.nan, reduce(values.reshape(-1, interval), axis=1))

        sent, quantised = entries.mean(axis=1), column["quantised"]
        norm_bits = VALUE_BITS if self._method.diana else 0
        header_bits = VALUE_BITS * self._header
        bits = VALUE_BITS * sent + norm_bits + quantised
        encoded = VALUE_BITS * (self._entry_words * sent + quantised) + norm_bits
        first_bits = float(VALUE_BITS * first_entries)
        records = len(entries) // interval + 1
        return Trace(
            step=interval * np.arange(records),
            suboptimality=np.concatenate(self._suboptimality),
            squared_distance=np.concatenate(self._distance),
            epochs=total(column["gradients"], first_gradients) / problem.local,
            bits=total(bits, first_bits),
            encoded_bits=total(encoded + header_bits, first_bits),
            entries=over_interval(sent, np.mean),
            error=np.append(0.0, column["error"][interval - 1 :: interval]),
            total_error=total(column["error"]),
            error_max=over_interval(column["error_max"], np.max),
            residual_max=over_interval(column["residual_max"], np.max),
            schedule=entries.astype(np.int32),
            status=self._status,
            point=self._point,
        )

    def _squared_distance(self, points: np.ndarray) -> np.ndarray:
        return ((points - self._problem.minimum.point) ** 2).sum(axis=1)
