"""What a training step takes: a pure function of a link, times and bytes.

With n workers a ring sums B bytes in 2(n-1) rounds of B/n bytes each, and gathers
payloads of p bytes in n-1 rounds of p bytes, the first of which is asked for. A round
takes the latency and the time of its bytes. Few bytes (see tem_tf/gathers.py) go to all
directly, within one round trip:

    reduce = 2(n-1)·(latency + B/n/bandwidth)
    gather = n·latency + (n-1)·p/bandwidth, or directly round trip + (n-1)·p/bandwidth
    step = arithmetic + (local + n·decoding + reduce + gather)/H

for an exchange in every H-th step, at which all wait for the slowest. In P fragments,
each beside a step's arithmetic, a P-th of the bytes in each of P steps of H:

    step = (1 - P/H)·arithmetic + P/H·max(arithmetic, reduce + gather of a P-th)
           + (local + n·decoding)/H

Messages between different pairs of workers are taken to be on the way at once, as
through a switch.

References:
    Patarasuk and Yuan, J. Parallel and Distributed Computing 69(2), 2009 (the ring).
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from tem_tf.gathers import is_direct


class Link(NamedTuple):
    """What lies between two workers.

    Attributes:
        bandwidth: Bytes per second, in each direction.
        latency: Seconds of a message of no length, one way.
        round_trip: Seconds until all have heard one such of all, directly. None: two
            latencies.
    """

    bandwidth: float
    latency: float = 0.0
    round_trip: float | None = None

    def reduce(self, size: float, workers: int) -> float:
        """Seconds of summing so many bytes over workers."""
        rounds = 2 * (workers - 1)
        return rounds * (self.latency + size / workers / self.bandwidth)

    def gather(self, size: float, workers: int) -> float:
        """Seconds of gathering so many bytes of each worker."""
        wait = workers * self.latency
        if is_direct(workers, int(size)):
            wait = 2 * self.latency if self.round_trip is None else self.round_trip
        return wait + (workers - 1) * size / self.bandwidth


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one way to exchange takes, apart from the link.

    Attributes:
        name: For tables.
        summed: Bytes that an exchange sums over workers.
        gathered: Bytes of a worker that an exchange gathers, padding included.
        collectives: How many collectives an exchange has.
        local: Seconds of an exchange's work that does not grow with the workers.
        decoding: Seconds for each worker that is heard.
        period: Steps between two exchanges, H.
        fragments: Pieces that are exchanged beside steps; 0: all at once, after one.
    """

    name: str
    summed: float = 0.0
    gathered: float = 0.0
    collectives: int = 1
    local: float = 0.0
    decoding: float = 0.0
    period: int = 1
    fragments: int = 0

    @property
    def pace(self) -> int:
        """After how many steps workers hear one another, and so wait."""
        return self.period // max(1, self.fragments)

    def exchange(self, link: Link, workers: int) -> float:
        """Seconds of an exchange's collectives."""
        found = 0.0
        if self.summed:
            found += link.reduce(self.summed, workers)
        if self.gathered:
            found += link.gather(self.gathered, workers)
        # Their bytes are counted above; each further one waits, too.
        further = self.collectives - bool(self.summed) - bool(self.gathered)
        wait = link.gather if self.gathered else link.reduce
        return found + max(0, further) * wait(0, workers)

    def step(self, arithmetic: float, link: Link, workers: int) -> float:
        """Seconds of a training step, on average over `period` steps.

        Args:
            arithmetic: Seconds of forward, backward and update.
            link: Between two workers.
            workers: Their number.
        """
        local = (self.local + workers * self.decoding) / self.period
        if not self.fragments:
            return arithmetic + local + self.exchange(link, workers) / self.period
        piece = dataclasses.replace(
            self,
            summed=self.summed / self.fragments,
            gathered=self.gathered / self.fragments,
        )
        exposed = max(0.0, piece.exchange(link, workers) - arithmetic)
        return arithmetic + local + exposed * self.fragments / self.period

    def sent(self, workers: int) -> float:
        """Bytes that a worker sends for a step, on average."""
        share = 2 * (workers - 1) / workers
        return (share * self.summed + (workers - 1) * self.gathered) / self.period


def waiting_seconds(times: np.ndarray, period: int) -> float:
    """Seconds of a step in which a worker waits for the slowest, on average.

    Args:
        times: (workers, steps). Seconds of each step of each worker by itself.
        period: Steps after which all wait; if more than were timed, all of those.
    """
    workers, steps = times.shape
    length = min(period, steps)
    pieces = times[:, : steps - steps % length].reshape(workers, -1, length)
    sums = pieces.sum(axis=2)
    return float((sums.max(axis=0) - sums.mean(axis=0)).mean() / length)


def break_even_bandwidth(
    cost: Cost, dense: Cost, link: Link, workers: int, arithmetic: float = 0.0
) -> float | None:
    """Bytes per second below which a way is faster than dense.

    Args:
        cost: The way's.
        dense: Of what it is compared with.
        link: Whose bandwidth does not count.
        workers: Their number.
        arithmetic: Seconds of a step, beside which fragments are exchanged.

    Returns:
        Infinite where it is faster with any bandwidth, None where it never is.
    """

    def gain(bandwidth: float) -> float:
        other = link._replace(bandwidth=bandwidth)
        steps = [one.step(arithmetic, other, workers) for one in (dense, cost)]
        return steps[0] - steps[1]

    low, high = 1.0, 1e15  # Bytes per second: no link is beyond.
    if gain(high) > 0:
        return math.inf
    if gain(low) <= 0:
        return None
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gain(middle) > 0 else (low, middle)
    return low
