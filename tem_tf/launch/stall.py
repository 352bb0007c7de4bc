"""Whether a job stands still: no worker writes, and no worker's heart beats."""

import time
from collections.abc import Iterable
from typing import Any

from .worker_processes import Worker

LOOKS = 10  # In the time of a stall: it is found after 1.1 times as long at most.


class StallWatch:
    """Counts the seconds without a sign of life.

    Args:
        heartbeats: The workers' `Heartbeats`, or None.
        seconds: How many are a stall.

    Attributes:
        interval: The seconds after which to look again.
    """

    def __init__(self, heartbeats: Any, seconds: float):
        self._heartbeats = heartbeats
        self._seconds = seconds
        self.interval = min(1.0, seconds / LOOKS)
        self._quiet = 0.0
        self._looked = time.monotonic()
        self._signs: list[tuple] = []

    def look(self, workers: Iterable[Worker]) -> str | None:
        """Looks at the running workers; returns the stall in words, if it is one."""
        now = time.monotonic()
        # Time in which the launcher itself was stopped or starved says nothing.
        self._quiet += min(now - self._looked, 2 * self.interval)
        self._looked = now
        beats = {worker.index: self._last_beat(worker) for worker in workers}
        signs = [(w.index, w.heard, beats[w.index]) for w in workers]
        if signs != self._signs:
            self._signs, self._quiet = signs, 0.0
        return self._in_words(beats) if self._quiet >= self._seconds else None

    def _last_beat(self, worker: Worker) -> float | None:
        return self._heartbeats.last_beat(worker.index) if self._heartbeats else None

    def _in_words(self, beats: dict[int, float | None]) -> str:
        text = f"no line and no heartbeat of any worker for {self._seconds:g} s"
        oldest = min(beats, key=lambda index: beats[index] or 0.0)
        last = beats[oldest]
        if not any(beats.values()):
            return f"{text} (none has had a heartbeat)"
        if last is None:
            return f"{text} (worker {oldest} has had none)"
        ago = max(0.0, time.time() - last)
        return f"{text} (the oldest is worker {oldest}'s, {ago:.0f} s ago)"
