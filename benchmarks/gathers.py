r"""Times gathers of small vectors: directly, to all at once, and round a ring.

    sudo python benchmarks/gathers.py --workers 4 --links 20mbit-50ms
    sudo python benchmarks/gathers.py --workers 8 --sizes 8 14000 56000

Workers of one machine, in network namespaces with a link of relay.py each. Of each size
the ring is timed first, then the direct way (tem_tf/gathers.py); "idle" is after two
seconds without traffic, when TCP begins slowly. Prints the median of each in ms, and by
which way training goes. What arrives is checked.
"""

from __future__ import annotations

import argparse
import pathlib
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from shaped_links import check_may_make_links
from time_to_target import end_by_signal
from time_to_target_runs import LINKS, open_links
from worker_group import START_SECONDS, WorkerGroup, serve

import tem_tf
from tem_tf import _collective_internals as collectives
from tem_tf.gathers import is_direct
from tem_tf.instance_keys import Use, new_owner

WAYS = ("ring", "directly")
IDLE_SECONDS = 2.0
WARM_UP = 2
SECONDS = 300  # Of a request.


class Worker:
    """Gathers as it is asked to."""

    def __init__(self) -> None:
        self._strategy = tem_tf.MultiWorkerMirroredStrategy()
        self._use = Use(new_owner())
        self._gathers: dict[tuple[str, int], Callable[[], Any]] = {}

    def handle(self, request: tuple[str, int, int, float]) -> list[float]:
        """Seconds of each of so many gathers.

        Args:
            request: Way, words of a vector, how often, and seconds before each.
        """
        way, words, times, pause = request
        if (way, words) not in self._gathers:
            self._gathers[way, words] = self._made(way, words)
        gather = self._gathers[way, words]
        seconds = []
        for _ in range(times):
            time.sleep(pause)
            began = time.perf_counter()
            rows = gather().numpy()
            seconds.append(time.perf_counter() - began)
            replicas = self._strategy.num_replicas_in_sync
            expected = np.repeat(np.arange(replicas), words)
            np.testing.assert_array_equal(rows.reshape(-1), expected)
        return seconds

    def _made(self, way: str, words: int) -> Callable[[], Any]:
        strategy, key = self._strategy, self._use.of(way, words).first_key()
        own = tf.fill([words], strategy.cluster_resolver.task_id)

        def replica() -> tf.Tensor:
            if way == "ring":
                gather = collectives.collective_all_gather(strategy)
                assert gather is not None
                return gather(own, key)
            to_all = collectives.collective_all_to_all(strategy)
            assert to_all is not None
            rows = tf.tile(own[tf.newaxis], [strategy.num_replicas_in_sync, 1])
            return to_all(rows, key)

        return tf.function(lambda: strategy.run(replica))


def measure(group: WorkerGroup, size: int, turns: int) -> dict[str, list[float]]:
    """Median milliseconds of each way: one after the other, and after a pause."""
    found: dict[str, list[float]] = {}
    for way in WAYS:
        group.run((way, size // 4, WARM_UP, 0.0), SECONDS)
        found[way] = []
        for pause in (0.0, IDLE_SECONDS):
            answers = group.run((way, size // 4, turns, pause), SECONDS)
            slowest = [max(several) for several in zip(*answers, strict=True)]
            found[way].append(1e3 * statistics.median(slowest))
    return found


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--links", nargs="+", choices=LINKS, default=LINKS)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[8, 28_000, 56_000], help="bytes"
    )
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.workers < 2 or arguments.turns < 1 or min(arguments.sizes) < 4:
        parser.error("--workers is at least 2, --turns 1, and --sizes are 4 or more")
    check_may_make_links()
    signal.signal(signal.SIGTERM, end_by_signal)
    print(f"{'link':14}{'bytes':>9}{'ring':>9}{'directly':>10}{'idle ring':>11}"
          f"{'directly':>10}   taken")  # fmt: skip
    for link in arguments.links:
        program = [sys.executable, __file__, "--worker"]
        with (
            open_links(link, arguments.workers) as links,
            WorkerGroup(program, arguments.workers, links, are_pinned=True) as group,
        ):
            group.run(("ring", 1, 1, 0.0), START_SECONDS)
            for size in arguments.sizes:
                ms = measure(group, size, arguments.turns)
                way = "directly" if is_direct(arguments.workers, size) else "ring"
                print(
                    f"{link:14}{size:9}{ms['ring'][0]:9.1f}{ms['directly'][0]:10.1f}"
                    f"{ms['ring'][1]:11.1f}{ms['directly'][1]:10.1f}   {way}",
                    flush=True,
                )


if __name__ == "__main__":
    if "--worker" in sys.argv[1:2]:
        serve(Worker().handle)
    else:
        main()
