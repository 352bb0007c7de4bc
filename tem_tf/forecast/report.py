"""`predict`: which way to exchange is the fastest here, as a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf.compressors import (
    AdaptiveThreshold,
    AllEntries,
    Identity,
    PowerSGD,
    TopK,
)
from tem_tf.forecast.costs import (
    Cost,
    Link,
    break_even_bandwidth,
    waiting_seconds,
)
from tem_tf.forecast.measuring import measure_link, measure_steps, measure_way

DENSE = "dense"
_MOST_WORKERS = 1024

# Name, compressor, steps between two exchanges, options of an aggregator.
_WAYS: tuple[tuple[str, Callable[[], Any], int, dict[str, Any]], ...] = (
    ("threshold at 1 %", lambda: AdaptiveThreshold(0.01, steps=1000), 1, {}),
    ("Top-k 1 %", lambda: TopK(0.01), 1, {}),
    ("Top-k 1 % in bfloat16", lambda: TopK(0.01), 1, {"value_dtype": "bfloat16"}),
    ("PowerSGD rank 4", lambda: PowerSGD(4), 1, {}),
    ("all in int2", AllEntries, 1, {"value_dtype": "int2"}),
    ("local steps, H 10, dense", Identity, 10, {}),
    ("local steps, H 10, all in int2", AllEntries, 10, {"value_dtype": "int2"}),
    ("local steps, H 30, all as signs", AllEntries, 30, {"value_dtype": "sign"}),
)
# From names of those to what they are in as many fragments as local steps.
_STREAMED = {"local steps, H 10, all in int2": "H 10 in 10 fragments, all in int2"}


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What `predict` has found.

    Attributes:
        parameters: Trainable entries of the model.
        workers: Now.
        arithmetic: Seconds of a step without any exchange.
        waiting: Seconds that it is longer, on average, as all wait for the slowest
            worker at every so-many-th step: by their number, `Cost.pace`.
        reduce_link: The link as sums over workers see it.
        gather_link: As gathers see it.
        measured: Whether the link was measured, or given.
        costs: Of every way, dense first.
    """

    parameters: int
    workers: int
    arithmetic: float
    waiting: Mapping[int, float]
    reduce_link: Link
    gather_link: Link
    measured: bool
    costs: tuple[Cost, ...]

    @property
    def ratio(self) -> float:
        """R: the seconds of a dense exchange by those of a step's arithmetic."""
        return self._exchange(self.costs[0], self.workers) / self.arithmetic

    def seconds(self, name: str, workers: int | None = None) -> float:
        """Seconds of a step by a way's name, of so many workers; default: now."""
        cost = self._cost(name)
        return self._step(cost, self.workers if workers is None else workers)

    def table(self) -> str:
        """All ways, the fastest first."""
        link = "measured" if self.measured else "as given"
        lines = [
            f"{self.parameters:,} parameters, {self.workers} workers; a step's "
            f"arithmetic {_seconds(self.arithmetic)} (measured); link {link}: "
            f"{8e-6 * self.gather_link.bandwidth:.4g} Mbit/s, "
            f"{1e3 * self.gather_link.latency:.3g} ms; R = {self.ratio:.3g}",
            f"{'':34}{'a step':>10}{'by dense':>10}{'sent':>12}{'of dense':>10}"
            f"{'faster below':>16}{'up to':>14}",
        ]
        dense = self.costs[0]
        base = self._step(dense, self.workers)
        for cost in sorted(self.costs, key=lambda c: self._step(c, self.workers)):
            step = self._step(cost, self.workers)
            sent = cost.sent(self.workers)
            share = sent / dense.sent(self.workers)
            ends = ("", "")
            if cost.name != DENSE:
                ends = (self._bandwidth(cost), self._most_workers(cost))
            lines.append(
                f"{cost.name:34}{_seconds(step):>10}{step / base:>10.3g}"
                f"{_bytes(sent):>12}{100 * share:>8.3g} %{ends[0]:>16}{ends[1]:>14}"
            )
        lines.append(
            "Extrapolated: `faster below` that bandwidth with as many workers, and "
            "`up to` so many workers over this link."
        )
        return "\n".join(lines)

    def over_workers(self, name: str, numbers: Sequence[int]) -> list[float]:
        """Seconds of a step over this link, of each number of workers."""
        return [self.seconds(name, number) for number in numbers]

    def over_bandwidths(self, name: str, bandwidths: Sequence[float]) -> list[float]:
        """Seconds of a step of as many workers, for each bandwidth in bytes/s."""
        cost, link = self._cost(name), self.gather_link
        links = [link._replace(bandwidth=bandwidth) for bandwidth in bandwidths]
        alone = self._alone(cost)
        return [cost.step(alone, link, self.workers) for link in links]

    def _cost(self, name: str) -> Cost:
        (cost,) = (cost for cost in self.costs if cost.name == name)
        return cost

    def _exchange(self, cost: Cost, workers: int) -> float:
        link = self.reduce_link if cost.summed else self.gather_link
        return cost.exchange(link, workers)

    def _alone(self, cost: Cost) -> float:
        return self.arithmetic + self.waiting[cost.pace]

    def _step(self, cost: Cost, workers: int) -> float:
        link = self.reduce_link if cost.summed else self.gather_link
        return cost.step(self._alone(cost), link, workers)

    def _bandwidth(self, cost: Cost) -> str:
        found = break_even_bandwidth(
            *(cost, self.costs[0], self.gather_link, self.workers),
            self.arithmetic,
        )
        if found is None:
            return "never"
        return "any" if math.isinf(found) else f"{8e-6 * found:.3g} Mbit/s"

    def _most_workers(self, cost: Cost) -> str:
        if self._step(cost, self.workers) >= self._step(self.costs[0], self.workers):
            return "-"
        for workers in range(self.workers, _MOST_WORKERS + 1):
            if self._step(cost, workers) >= self._step(self.costs[0], workers):
                return f"{workers - 1} workers"
        return f"{_MOST_WORKERS} workers"


def predict(
    model: keras.Model,
    batch: tuple[Any, Any],
    *,
    link: Link | None = None,
    workers: int | None = None,
) -> Forecast:
    """Measures for some seconds, and says what a step takes by every way to exchange.

    Under a strategy of several workers it is collective, and measures the link between
    them. On one machine, or for another link, pass `link` and `workers`.

    Args:
        model: Compiled and built.
        batch: Inputs and targets of one worker's step.
        link: Between two workers. Default: measured.
        workers: Int >= 2. Default: the strategy's.

    Raises:
        ValueError: there is no link to measure, and none was given.
    """
    strategy = model.distribute_strategy
    shapes = [tuple(variable.shape) for variable in model.trainable_variables]
    step = _arithmetic(model, batch)
    return forecast_of(shapes, step, strategy, link=link, workers=workers)


def forecast_of(
    shapes: Sequence[tuple[int, ...]],
    step: Callable[[], Any],
    strategy: tf.distribute.Strategy,
    *,
    link: Link | None = None,
    workers: int | None = None,
) -> Forecast:
    """As `predict`, of what is no compiled Keras model.

    Args:
        shapes: Of the trainable variables.
        step: Takes one without any exchange, and returns when it is done.
        strategy: Between whose workers the link is.
        link: As there.
        workers: As there.

    Raises:
        ValueError: as there.
    """
    here = strategy.num_replicas_in_sync
    workers = here if workers is None else workers
    if workers < 2:
        raise ValueError(
            "`predict` needs several workers, or `workers` and `link` of those that "
            f"are meant. Received: workers={workers}. Pass, say, workers=4, "
            "link=tem_tf.Link(bandwidth=125e6 / 8, latency=1e-3) for 125 Mbit/s."
        )
    if link is None and here < 2:
        raise ValueError(
            "`link` must be given where there is one worker: there is nothing to "
            "measure. Received: link=None"
        )
    if link is not None and not (link.bandwidth > 0 and link.latency >= 0):
        raise ValueError(
            "`link` must have a bandwidth above 0 and a latency of at least 0. "
            f"Received: link={link!r}"
        )
    size = sum(math.prod(shape) for shape in shapes)
    reduce_link, gather_link = (
        (link, link) if link else measure_link(strategy, 4 * size)
    )
    costs = [Cost(DENSE, summed=4.0 * size)]
    costs += [
        measure_way(name, make(), shapes, period, strategy, **options)
        for name, make, period, options in _WAYS
    ]
    costs += [
        dataclasses.replace(cost, name=_STREAMED[cost.name], fragments=cost.period)
        for cost in costs
        if cost.name in _STREAMED
    ]
    times = measure_steps(strategy, step)
    arithmetic = float(times.mean())
    waiting = {cost.pace: waiting_seconds(times, cost.pace) for cost in costs}
    return Forecast(
        size,
        workers,
        arithmetic,
        waiting,
        reduce_link,
        gather_link,
        link is None,
        tuple(costs),
    )


def _arithmetic(model: keras.Model, batch: tuple[Any, Any]) -> Callable[[], Any]:
    """A replica's forward and backward pass."""
    inputs, targets = tf.nest.map_structure(tf.convert_to_tensor, batch)

    @tf.function
    def run() -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            loss = model.compute_loss(inputs, targets, outputs)
        gradients = tape.gradient(loss, model.trainable_variables)
        return tf.add_n([tf.reduce_sum(tf.convert_to_tensor(g)) for g in gradients])

    return lambda: run().numpy()


def _seconds(number: float) -> str:
    return f"{1e3 * number:.3g} ms" if number < 1 else f"{number:.3g} s"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
