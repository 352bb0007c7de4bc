"""From a start of the workers to the end of all: who is asked to end, when, and why.

The first worker that fails ends the others. Where its stderr tells that it failed for
the loss of another worker, that one has a moment to end first, so that it can be named.
A stall ends all. After a wish to stop they have the time to save their state.
"""

import argparse
import dataclasses
import signal
import time

from .events import Event, Events
from .first_failure import REQUEUE_CODE, End, awaited, causes
from .guard import Guard
from .stall import StallWatch
from .stop_wish import wish_to_stop
from .worker_processes import Worker, describe, say

# How long a worker that others have lost may take to end by itself. TensorFlow's take
# 1-5 s from an exception to their end, and others lose them at the end of that.
CAUSE_SECONDS = 3.0
STALL_CODE = 124  # As timeout(1) ends with.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one start of the workers has ended.

    Attributes:
        code: What the launcher's exit code is if this was the last start.
        lines: What is to be said then.
        failure: What happened, if it is worth another start; else None.
    """

    code: int
    lines: list[str]
    failure: str | None = None


class Supervision:
    """One run of the workers, from their start to the end of all.

    Args:
        workers: All of them, started and watched.
        events: What happens to them and to the launcher.
        guard: Looked after meanwhile.
        options: Of the launcher. `grace_seconds` is the time from asking workers to end
            to killing them, and that for the others after one has stopped on wish; the
            wait for a lost worker's end is no longer either. `stop_signals` are wishes.
        stall_watch: Asked whether the job stands still, or None.
    """

    def __init__(
        self,
        workers: list[Worker],
        events: Events,
        guard: Guard,
        options: argparse.Namespace,
        stall_watch: StallWatch | None,
    ):
        self._workers = workers
        self._events = events
        self._guard = guard
        self._grace_seconds: float = options.grace_seconds
        self._stop_signals: set[int] = options.stop_signals
        self._stall_watch = stall_watch
        self._started = min(worker.started for worker in workers)
        self._running = {worker.index: worker for worker in workers}
        self._ends: list[End] = []
        self._asked_at: float | None = None  # When the workers were asked to end.
        self._deadline: float | None = (
            None  # When what we wait for is waited for no more.
        )
        self._stall: str | None = None
        # The signal that has ended the workers, and whether it was a wish to stop.
        self._ended_by: int | None = None
        self._wished = False
        self._restartable = True
        # Those that had raised an exception but not ended when they were asked to.
        self._raising: list[int] = []

    def run(self) -> Outcome:
        """Waits for all workers to end."""
        while self._running:
            event = self._events.wait(self._guard, self._patience())
            if event is None:
                self._note_time()
            elif event.kind == "exit":
                self._note_end(event)
            else:
                self._obey(event)
        end_leftovers(self._workers, self._grace_seconds)
        return self._outcome()

    def _patience(self) -> float | None:
        waits = []
        if self._deadline is not None:
            waits.append(max(0.0, self._deadline - time.monotonic()))
        if self._stall_watch is not None and self._asked_at is None:
            waits.append(self._stall_watch.interval)
        return min(waits, default=None)

    def _signal(self, number: int) -> None:
        for worker in self._running.values():
            worker.signal_group(number)

    def _ask(self, number: int, wish: bool = False) -> None:
        self._raising = [i for i, w in self._running.items() if w.trace.own_error]
        self._asked_at = time.monotonic()
        self._wished = wish
        if wish:
            wish_to_stop(list(self._running.values()), number)
        else:
            self._signal(number)
        self._deadline = self._asked_at + self._grace_seconds

    def _note_time(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._give_up_waiting()
        elif self._stall_watch is not None and self._asked_at is None:
            self._stall = self._stall_watch.look(list(self._running.values()))
            if self._stall is not None:
                say(f"{self._stall}; ending all.")
                self._ask(signal.SIGTERM)

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
        wish = by_signal and event.number in self._stop_signals
        self._restartable = False
        if self._asked_at is not None:
            # Asked again: no more patience. But schedulers repeat the wish to stop.
            if by_signal and not (wish and self._wished):
                self._signal(signal.SIGKILL)
            return
        self._ended_by = event.number
        say(f"{signal.Signals(event.number).name}: ending all workers.")
        self._ask(event.number if by_signal else signal.SIGTERM, wish)

    def _note_end(self, event: Event) -> None:
        worker = event.worker
        assert worker is not None  # For the type checker.
        del self._running[worker.index]
        asked = self._asked_at is not None and event.time > self._asked_at
        seconds = event.time - self._started
        end = End.of(worker.index, event.number, seconds, asked, worker.trace)
        self._ends.append(end)
        if self._asked_at is not None:
            return
        if not any(end.failed for end in self._ends):
            if end.stopped and self._running and self._deadline is None:
                self._deadline = time.monotonic() + self._grace_seconds
                say(
                    f"{in_words(end)}; waiting up to {self._grace_seconds:g} s for "
                    "the others."
                )
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

    def _outcome(self) -> Outcome:
        failures = [end for end in self._ends if end.failed]
        if failures:
            first, lines = self._report(failures)
            code = first.code if first.code > 0 else 128 - first.code
            failure = in_words(first)
        elif self._stall is not None:
            code, lines, failure = STALL_CODE, [f"{self._stall}."], self._stall
        elif self._has_stopped():
            text = "the workers have stopped on wish and saved their state"
            again = f"the same command goes on from there (exit code {REQUEUE_CODE})"
            return Outcome(REQUEUE_CODE, [f"{text}: {again}."])
        else:
            return Outcome(128 + self._ended_by if self._ended_by else 0, [])
        return Outcome(code, lines, failure if self._restartable else None)

    def _has_stopped(self) -> bool:
        """Whether the workers have stopped on wish, told by the launcher or others."""
        if self._ended_by is None:
            return any(end.stopped for end in self._ends)
        # One that was through with its work before the wish has nothing to save.
        left = [end for end in self._ends if end.asked or end.code != 0]
        return self._wished and bool(left) and all(end.stopped for end in left)

    def _report(self, failures: list[End]) -> tuple[End, list[str]]:
        """The worker that failed first, and lines that name it and what it said."""
        ends = sorted(self._ends, key=lambda end: end.seconds)
        failures = sorted(failures, key=lambda end: end.seconds)
        first = (causes(failures) or failures)[0]
        lost = {end.lost for end in failures}
        raising = [index for index in self._raising if index in lost]
        if first.lost is None:
            return first, self._last_lines(first.index, in_words(first))
        if raising:
            text = f"worker {raising[0]} raised an exception, but did not end"
            return first, self._last_lines(raising[0], text)
        return first, [
            "It is not certain which worker failed first:",
            *(f"    {in_words(end)}" for end in ends),
            *self._last_lines(
                first.index, f"worker {first.index} was the first to end so"
            ),
        ]

    def _last_lines(self, index: int, text: str) -> list[str]:
        (lines,) = (w.last_lines for w in self._workers if w.index == index)
        if not lines:
            return [f"{text}. It wrote nothing."]
        return [f"{text}. Its last lines:", *(f"    {line}" for line in lines)]


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
