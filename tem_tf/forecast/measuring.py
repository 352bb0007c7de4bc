"""Seconds of this very link and of this machine's work, in a few seconds.

All workers measure at once, as they will train. What is decided on the way, such as
whether a larger message is tried, is decided by means over workers, so that all do the
same.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tem_tf.aggregation import Aggregator
from tem_tf.capacity import padded
from tem_tf.compressors import Compressor
from tem_tf.cross_device_ops import Gathered, SparsifiedCrossDeviceOps
from tem_tf.forecast.costs import Cost, Link
from tem_tf.gathers import is_direct
from tem_tf.instance_keys import Use, new_owner

_SIZES = (1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 23)  # Bytes of a worker's message.
_ENOUGH = 0.5  # Seconds of a collective after which no larger one is tried.
_TURNS = 5
_WARM_UP = 3  # Exchanges: tracing, and a residual that is not the first's.
_STEPS_SECONDS, _MOST_STEPS = 3.0, 50  # Of a step's arithmetic.
_MANY = 5  # Workers that are heard, to know what each of them costs.


def measure_link(
    strategy: tf.distribute.Strategy, dense_bytes: int = 0
) -> tuple[Link, Link]:
    """The link as summing and as gathering see it. Collective: on all workers.

    Args:
        strategy: Of several workers.
        dense_bytes: Of a dense gradient. Where they are more than is tried otherwise,
            sums are timed of as many, too: what fits into no cache takes longer.

    Returns:
        Bandwidth and latency such that `Link.reduce` and `Link.gather` give what was
        measured, what TensorFlow does itself included.
    """
    workers = strategy.num_replicas_in_sync

    ops, use = SparsifiedCrossDeviceOps.of(strategy), Use(new_owner())

    def reduce(vector: tf.Tensor) -> tf.Tensor:
        return ops.reduce_values(vector, use)

    def gather(vector: tf.Tensor) -> tf.Tensor:
        words = tf.bitcast(vector, tf.int32)
        return ops.gather_payloads(words, use, fixed_length=True).rows

    sizes = (*_SIZES, *([dense_bytes] if dense_bytes > _SIZES[-1] else []))
    times, rounds = _times(strategy, reduce, sizes), 2 * (workers - 1)
    bandwidth = _bandwidth(times, rounds / workers)
    reduce_link = Link(bandwidth, _wait(times, rounds / workers, bandwidth) / rounds)
    return reduce_link, _gather_link(_times(strategy, gather, _SIZES), workers)


def _gather_link(times: Mapping[int, float], workers: int) -> Link:
    """From seconds by bytes of each worker's message.

    What went directly and what went round the ring waits differently, so that no
    bandwidth is taken from both.
    """
    others = workers - 1
    direct = {n: seconds for n, seconds in times.items() if is_direct(workers, n)}
    ring = {n: seconds for n, seconds in times.items() if n not in direct}
    alike = next((part for part in (ring, direct) if len(part) > 1), times)
    bandwidth = _bandwidth(alike, others)
    trip = _wait(direct, others, bandwidth) if direct else None
    if ring:
        return Link(bandwidth, _wait(ring, others, bandwidth) / workers, trip)
    return Link(bandwidth, (trip or 0.0) / 2, trip)


def _bandwidth(times: Mapping[int, float], share: float) -> float:
    """Bytes per second, of which so many times a message's pass one after the other."""
    least, most = min(times), max(times)
    return share * (most - least) / max(times[most] - times[least], 1e-9)


def _wait(times: Mapping[int, float], share: float, bandwidth: float) -> float:
    """Seconds of no bytes, by the least message."""
    least = min(times)
    return max(0.0, times[least] - share * least / bandwidth)


def _times(
    strategy: tf.distribute.Strategy, collective: Any, sizes: Sequence[int]
) -> dict[int, float]:
    """Median seconds by bytes, the mean over workers."""
    found: dict[int, float] = {}
    for size in sizes:
        vector = tf.zeros([size // 4])

        @tf.function
        def run(vector: tf.Tensor = vector) -> Any:
            def replica() -> tf.Tensor:
                return tf.reduce_sum(collective(vector))

            return strategy.run(replica)

        run()
        run()
        seconds = statistics.median(_seconds(run) for _ in range(_TURNS))
        found[size] = _mean(strategy, seconds)
        if len(found) > 1 and found[size] > _ENOUGH:
            break
    return found


def measure_steps(
    strategy: tf.distribute.Strategy, step: Callable[[], Any]
) -> np.ndarray:
    """Seconds of each of some steps of each worker: (workers, steps).

    Args:
        strategy: Of one worker or several. Collective: on all of them.
        step: Takes one without any exchange, and returns when it is done.
    """

    def timed(steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            began = time.perf_counter()
            step()
            found.append(time.perf_counter() - began)
        return found

    timed(_WARM_UP)
    each = _mean(strategy, statistics.median(timed(_TURNS)))
    steps = int(min(max(_STEPS_SECONDS / each, _TURNS), _MOST_STEPS))
    return _of_all(strategy, timed(steps))


def _of_all(strategy: tf.distribute.Strategy, numbers: Sequence[float]) -> np.ndarray:
    """Every worker's numbers: (workers, n), n equal on all of them."""
    ops, use = SparsifiedCrossDeviceOps.of(strategy), Use(new_owner())
    own = tf.constant(numbers, tf.float64)
    gather = tf.function(lambda: strategy.run(lambda: ops.gather_numbers(own, use)))
    return strategy.experimental_local_results(gather())[0].numpy()


def _mean(strategy: tf.distribute.Strategy, number: float) -> float:
    """The same on all workers."""
    return float(_of_all(strategy, [number]).mean())


class _Echoes(SparsifiedCrossDeviceOps):
    """Says to one replica what it has said itself, as if several had said so."""

    def __init__(self, workers: int):
        super().__init__()
        self._workers = workers
        # Of the rounds of an exchange, by their uses: a graph is traced twice.
        self.gathers: dict[Use, bool] = {}  # Whether the length is fixed.
        self.sums: dict[Use, int] = {}  # Bytes.

    def gather_payloads(
        self,
        payload: tf.Tensor,
        use: Use,
        demand: tf.Tensor | int = 0,
        fixed_length: bool = False,
    ) -> Gathered:
        """As many rows as workers."""
        if _is_round(use):
            self.gathers[use] = fixed_length
        found = super().gather_payloads(payload, use, demand, fixed_length)
        return found._replace(rows=tf.tile(found.rows, [self._workers, 1]))

    def reduce_values(self, values: tf.Tensor, use: Use) -> tf.Tensor:
        """As it is: adding is the collective's work."""
        if _is_round(use):
            self.sums[use] = values.dtype.size * (values.shape[0] or 0)
        return super().reduce_values(values, use)


def _is_round(use: Use) -> bool:
    """Whether it is one of an exchange, whose uses are numbers: no metrics are."""
    return bool(use.what) and isinstance(use.what[0], int)


def measure_way(
    name: str,
    compressor: Compressor,
    shapes: Sequence[Sequence[int]],
    period: int = 1,
    strategy: tf.distribute.Strategy | None = None,
    **options: Any,
) -> Cost:
    """What an exchange of gradients costs beside the link, on made-up gradients.

    Args:
        name: For tables.
        compressor: `tem_tf.Compressor`.
        shapes: Of the variables.
        period: Steps between two exchanges.
        strategy: Whose workers all measure at once, and take the slowest's time: that
            is who an exchange waits for. None: this process's own.
        **options: Of `tem_tf.Aggregator`.
    """
    random = np.random.default_rng(0)
    # Tails as gradients have them.
    gradients = [
        tf.constant(1e-3 * random.standard_t(4, size=shape), tf.float32)
        for shape in shapes
    ]

    def measured(workers: int) -> tuple[float, _Echoes, Aggregator]:
        ops = _Echoes(workers)
        strategy = tf.distribute.MirroredStrategy(["CPU:0"], cross_device_ops=ops)
        with strategy.scope():
            aggregator = Aggregator(compressor, **options)
            aggregator.build([tf.Variable(tf.zeros_like(g)) for g in gradients])
            step = tf.Variable(0, dtype=tf.int64)

        @tf.function
        def run() -> tf.Tensor:
            step.assign_add(1)

            def replica() -> tf.Tensor:
                sums = aggregator.aggregate(gradients, step)
                return tf.add_n([tf.reduce_sum(one) for one in sums])

            return strategy.run(replica)

        for _ in range(_WARM_UP):
            run()
        seconds = np.array([[_seconds(run) for _ in range(_TURNS)]])
        if strategy is not None:
            seconds = _of_all(strategy, seconds[0])
        return float(np.median(seconds.max(axis=0))), ops, aggregator

    few, ops, aggregator = measured(1)
    many, _, _ = measured(_MANY)
    decoding = max(0.0, (many - few) / (_MANY - 1)) if ops.gathers else 0.0
    found = aggregator.summary()
    sent = found["payload_bytes"] / found["steps"]
    summed = min(float(sum(ops.sums.values())), sent)
    gathered = sent - summed
    if gathered and not all(ops.gathers.values()):
        gathered = 4.0 * padded(math.ceil(gathered / 4))
    return Cost(
        name,
        summed,
        gathered,
        len(ops.gathers) + len(ops.sums),
        max(0.0, few - decoding),
        decoding,
        period,
    )


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    np.asarray(tf.nest.flatten(run())[0])  # Until it is there.
    return time.perf_counter() - began
