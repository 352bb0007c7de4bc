"""From the start of the workers to the end of all: who is asked to end, when, and why.

The first worker that fails ends the others. Where its stderr tells that it failed for
the loss of another worker, that one has a moment to end first, so that it can be named.
"""

import queue
import signal
import time

from .first_failure import End, awaited, causes
from .worker_processes import Event, Worker, describe, say

# How long a worker that others have lost may take to end by itself. TensorFlow's take
# 1-5 s from an exception to their end, and others lose them at the end of that.
CAUSE_SECONDS = 3.0


class Supervision:
    """One run of the workers, from their start to the launcher's exit code.

    Args:
        workers: All of them, started and watched.
        events: What happens to them and to the launcher.
        grace_seconds: From asking workers to end to killing them. The wait for a lost
            worker's end is no longer than this either.
    """

    def __init__(
        self, workers: list[Worker], events: queue.SimpleQueue, grace_seconds: float
    ):
        self._workers = workers
        self._events = events
        self._grace_seconds = grace_seconds
        self._started = time.monotonic()
        self._running = {worker.index: worker for worker in workers}
        self._ends: list[End] = []
        self._asked_at: float | None = None  # When the workers were asked to end.
        self._deadline: float | None = (
            None  # When what we wait for is waited for no more.
        )
        self._code = 0
        # Those that had raised an exception but not ended when they were asked to.
        self._raising: list[int] = []

    def run(self) -> int:
        """Waits for all workers; returns the launcher's exit code."""
        while self._running:
            left = None
            if self._deadline is not None:
                left = max(0, self._deadline - time.monotonic())
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                self._give_up_waiting()
                continue
            if event.kind == "exit":
                self._note_end(event)
            else:
                self._obey(event)
        end_leftovers(self._workers, self._grace_seconds)
        if self._code == 0:
            self._code = self._report()
        return self._code

    def _signal(self, number: int) -> None:
        for worker in self._running.values():
            worker.signal_group(number)

    def _ask(self, number: int) -> None:
        self._raising = [i for i, w in self._running.items() if w.trace.own_error]
        self._asked_at = time.monotonic()
        self._signal(number)
        self._deadline = self._asked_at + self._grace_seconds

    def _give_up_waiting(self) -> None:
        those = ", ".join(map(str, self._running))
        if self._asked_at is None:
            say(f"worker {those} did not end: ending all.")
            self._ask(signal.SIGTERM)
        else:
            say(f"worker {those} did not end in {self._grace_seconds:g} s: killing.")
            self._signal(signal.SIGKILL)
            self._deadline = None

    def _obey(self, event: Event) -> None:
        """Follows a signal; or nobody reads our output any more."""
        by_signal = event.kind == "signal"
        if self._asked_at is not None:
            if by_signal:  # Asked again: no more patience.
                self._signal(signal.SIGKILL)
            return
        if not any(end.failed for end in self._ends):
            self._code = 128 + event.number
        say(f"{signal.Signals(event.number).name}: ending all workers.")
        self._ask(event.number if by_signal else signal.SIGTERM)

    def _note_end(self, event: Event) -> None:
        worker = event.worker
        assert worker is not None  # For the type checker.
        del self._running[worker.index]
        asked = self._asked_at is not None and event.time > self._asked_at
        seconds = event.time - self._started
        end = End.of(worker.index, event.number, seconds, asked, worker.trace)
        self._ends.append(end)
        if self._asked_at is not None or not any(end.failed for end in self._ends):
            return
        pending = awaited(self._ends, set(self._running))
        if causes(self._ends) or not pending:
            others = "; ending the others" if self._running else ""
            say(f"{in_words(end)}{others}.")
            self._ask(signal.SIGTERM)
        elif self._deadline is None:
            seconds = min(CAUSE_SECONDS, self._grace_seconds)
            self._deadline = time.monotonic() + seconds
            say(f"{in_words(end)}; waiting up to {seconds:g} s for that one's end.")

    def _report(self) -> int:
        """Names the worker that failed first, and shows what it said last."""
        ends = sorted(self._ends, key=lambda end: end.seconds)
        failures = [end for end in ends if end.failed]
        if not failures:
            return 0
        first = (causes(failures) or failures)[0]
        lost = {end.lost for end in failures}
        raising = [index for index in self._raising if index in lost]
        if first.lost is None:
            self._show(first.index, in_words(first))
        elif raising:
            index = raising[0]
            self._show(index, f"worker {index} raised an exception, but did not end")
        else:
            say("It is not certain which worker failed first:")
            for end in ends:
                say(f"    {in_words(end)}")
            self._show(first.index, f"worker {first.index} was the first to end so")
        return first.code if first.code > 0 else 128 - first.code

    def _show(self, index: int, text: str) -> None:
        (lines,) = (w.last_lines for w in self._workers if w.index == index)
        say(f"{text}. Its last lines:" if lines else f"{text}. It wrote nothing.")
        for line in lines:
            say(f"    {line}")


def in_words(end: End) -> str:
    """A worker's end, for example "worker 1 failed with exit code 3 after 2.5 s"."""
    if end.asked:
        return f"worker {end.index} still ran"
    text = f"worker {end.index} {describe(end.code)} after {end.seconds:.1f} s"
    return text if end.lost is None else f"{text}, having lost worker {end.lost}"


def end_leftovers(workers: list[Worker], grace_seconds: float) -> None:
    """Ends what the workers have started and left, and lets their output run out."""
    deadline = time.monotonic() + grace_seconds
    left = [worker for worker in workers if worker.signal_group(signal.SIGTERM)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [worker for worker in left if worker.signal_group(0)]
    for worker in left:
        worker.signal_group(signal.SIGKILL)
    deadline = time.monotonic() + 2  # What has left its group may hold a pipe for ever.
    for worker in workers:
        for reader in worker.readers:
            reader.join(timeout=max(0, deadline - time.monotonic()))
