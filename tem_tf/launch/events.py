"""What wakes the launcher: a worker's end, a signal, a closed output, a time that ends.

All of it comes through one queue, so that everything is done in the main thread, and
one after the other.
"""

from __future__ import annotations

import dataclasses
import queue
import signal
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .guard import Guard

if TYPE_CHECKING:
    from .worker_processes import Worker


@dataclasses.dataclass(frozen=True)
class Event:
    """One thing that has happened."""

    kind: str  # "exit", "signal" or "closed output"; within `Events` also "child"
    worker: Worker | None = None
    number: int = 0  # the exit code (-n for signal n) or the signal
    time: float = 0.0  # of an exit, by the monotonic clock


class Events:
    """The queue of all that happens; from its making on, signals go there, too.

    Args:
        stop_signals: Taken beside SIGINT, SIGTERM and SIGHUP.
    """

    def __init__(self, stop_signals: Iterable[int]):
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        # Before the start, so that a job in the background of a script, for which the
        # shell ignores SIGINT, does not hand that down. nohup's SIGHUP stays ignored,
        # unless it is asked for by its name.
        numbers = {signal.SIGINT, signal.SIGTERM}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.add(signal.SIGHUP)
        for number in numbers.union(stop_signals):
            # SimpleQueue.put may be called from a signal handler.
            signal.signal(number, lambda n, _: self.put(Event("signal", number=n)))
        # Where it is ignored, as a parent may hand it down, there are no exit codes.
        signal.signal(signal.SIGCHLD, lambda *_: self.put(Event("child")))

    def put(self, event: Event) -> None:
        """Adds an event, from any thread."""
        self._queue.put(event)

    def wait(self, guard: Guard, seconds: float | None = None) -> Event | None:
        """The next event; meanwhile a guard that has been killed is renewed.

        Args:
            guard: Which is looked after.
            seconds: After which None is returned; None waits for ever.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                event = self._queue.get(timeout=left)
            except queue.Empty:
                return None
            if event.kind != "child":
                return event
            guard.renew()
