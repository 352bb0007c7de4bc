r"""Holds `tem_tf.predict` against exchanges that are measured: ResNet-18's gradient.

    sudo python benchmarks/forecast.py --workers 4 --links loopback 1gbit 100mbit

Worker processes of one machine over shaped links. On each link they measure the link
and each way's own work for some seconds, as `predict` does; then each way sums the
gradient of 11.17 M entries several times, through the same collectives as in training.
Prints both for each way, how many are within 20 %, and what choosing by the forecast
costs. No step has any arithmetic here, so that the exchange alone is foretold. Beside
each: how many times its break-even bandwidth the link has.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import signal
import statistics
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from resnet18 import resnet18_shapes
from shaped_links import RATES, ShapedLinks, check_may_make_links
from time_to_target import end_by_signal
from worker_group import WorkerGroup, serve

import tem_tf
from tem_tf.forecast.costs import Cost, Link, break_even_bandwidth
from tem_tf.forecast.measuring import measure_link, measure_way

LOOPBACK = "loopback"
DENSE = "dense"
WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Top-k 1 %": (lambda: tem_tf.TopK(0.01), {}),
    "PowerSGD rank 4": (lambda: tem_tf.PowerSGD(4), {}),
    "all in int2": (tem_tf.AllEntries, {"value_dtype": "int2"}),
}
NEAR, NEAR_BREAK_EVEN = 0.2, 2.0
WARM_UP = 3
SECONDS = 900  # Of a request.


class Worker:
    """Foretells, and exchanges."""

    def __init__(self) -> None:
        self._strategy = tem_tf.MultiWorkerMirroredStrategy()
        random = np.random.default_rng(self._strategy.cluster_resolver.task_id)
        self._gradients = [
            tf.constant(1e-3 * random.standard_t(4, size=shape), tf.float32)
            for shape in resnet18_shapes()
        ]

    def handle(self, request: tuple[str, Any]) -> Any:
        """("foretell", None): links and costs. ("measure", (way, times)): seconds."""
        kind, argument = request
        return self._foretell() if kind == "foretell" else self._measure(*argument)

    def _foretell(self) -> tuple[Link, Link, list[Cost]]:
        shapes = resnet18_shapes()
        size = 4 * int(sum(map(np.prod, shapes)))
        links = measure_link(self._strategy, size)
        costs = [Cost(DENSE, summed=float(size))]
        costs += [
            measure_way(name, make(), shapes, strategy=self._strategy, **options)
            for name, (make, options) in WAYS.items()
        ]
        return tuple(links[0]), tuple(links[1]), costs  # type: ignore[return-value]

    def _measure(self, name: str, times: int) -> list[float]:
        make, options = WAYS.get(name, (tem_tf.Identity, {}))
        aggregator = tem_tf.Aggregator(make(), **options)
        weights = [tf.zeros_like(gradient) for gradient in self._gradients]
        with self._strategy.scope():
            aggregator.build(weights, [f"v{i}" for i in range(len(weights))])
            step = tf.Variable(0, dtype=tf.int64)

        @tf.function
        def run() -> Any:
            step.assign_add(1)
            return self._strategy.run(
                lambda: aggregator.aggregate(self._gradients, step)
            )

        seconds = []
        for _ in range(WARM_UP + times):
            began = time.perf_counter()
            run()[0].numpy()
            seconds.append(time.perf_counter() - began)
        return seconds[WARM_UP:]


def points(workers: int, link: str, times: int) -> list[dict[str, Any]]:
    """Every way on one link."""
    program = [sys.executable, __file__, "--worker"]
    found = []
    with (
        ShapedLinks(workers, None if link == LOOPBACK else link) as links,
        WorkerGroup(program, workers, links, are_pinned=True) as group,
    ):
        sums, gathers, costs = group.run(("foretell", None), SECONDS)[0]
        for cost in costs:
            seen = Link(*(sums if cost.summed else gathers))
            even = break_even_bandwidth(cost, costs[0], seen, workers)
            answers = group.run(("measure", (cost.name, times)), SECONDS)
            slowest = [max(several) for several in zip(*answers, strict=True)]
            found.append(
                {
                    "workers": workers,
                    "link": link,
                    "way": cost.name,
                    "foretold_seconds": cost.step(0.0, seen, workers),
                    "seconds": statistics.median(slowest),
                    "by_break_even": seen.bandwidth / even if even else None,
                }
            )
            show(found[-1])
    return found


def show(point: dict[str, Any]) -> None:
    """Prints a line."""
    foretold, seconds = point["foretold_seconds"], point["seconds"]
    even = point["by_break_even"]
    print(
        f"{point['workers']} {point['link']:10} {point['way']:24}"
        f"{1e3 * foretold:9.1f} ms foretold{1e3 * seconds:9.1f} ms"
        f"{foretold / seconds:7.2f}   {'-' if even is None else f'{even:.2g}'}",
        flush=True,
    )


def summary(found: list[dict[str, Any]]) -> str:
    """How many are near, and what choosing by the forecast costs."""

    def is_near(point: dict[str, Any]) -> bool:
        return abs(point["foretold_seconds"] / point["seconds"] - 1) <= NEAR

    def is_even(point: dict[str, Any]) -> bool:
        even = point["by_break_even"]
        return bool(even) and 1 / NEAR_BREAK_EVEN <= even <= NEAR_BREAK_EVEN

    lines = [
        f"Within {NEAR:.0%}: {sum(map(is_near, found))} of {len(found)}; "
        f"{sum(map(is_even, found))} of them within {NEAR_BREAK_EVEN:g} times of "
        f"break-even, {sum(is_near(p) for p in found if is_even(p))} of these near."
    ]
    for key in dict.fromkeys((p["workers"], p["link"]) for p in found):
        here = [p for p in found if (p["workers"], p["link"]) == key]
        chosen = min(here, key=lambda p: p["foretold_seconds"])
        best = min(here, key=lambda p: p["seconds"])
        lost = chosen["seconds"] / best["seconds"] - 1
        lines.append(f"{key[0]} {key[1]}: {chosen['way']} is chosen, {lost:.0%} lost.")
    return "\n".join(lines)


def main() -> None:
    """Measures all points; prints them, and with --json writes them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[4])
    parser.add_argument(
        "--links", nargs="+", choices=(LOOPBACK, *RATES), default=(LOOPBACK, *RATES)
    )
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    if min(arguments.workers) < 2 or arguments.times < 1:
        parser.error("--workers are at least 2, and --times 1")
    check_may_make_links()
    signal.signal(signal.SIGTERM, end_by_signal)
    found = []
    for workers in arguments.workers:
        for link in arguments.links:
            found += points(workers, link, arguments.times)
    print(summary(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if "--worker" in sys.argv[1:2]:
        serve(Worker().handle)
    else:
        main()
