"""Lines on the terminal while a run goes on; the chief alone prints."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Progress:
    """Prints how far training has come, and when it should be done.

    Args:
        steps: Number of steps of the whole training.
        prints: Whether this process is the chief.
        seconds: Longest time without a line.
        name: Begins each line, where several runs print side by side; "": nothing.
    """

    def __init__(
        self, steps: int, prints: bool, seconds: float = 10.0, name: str = ""
    ) -> None:
        self.seconds = seconds
        self._name = f"{name}: " if name else ""
        self._steps = steps
        self._prints = prints
        self._last_line = time.perf_counter()

    def say(self, text: str) -> None:
        """Prints one line."""
        if self._prints:
            # In one piece: lines of several processes stay apart.
            print(f"{self._name}{text}\n", end="", flush=True)
        self._last_line = time.perf_counter()

    def is_due(self) -> bool:
        """Whether nothing was printed for `seconds`."""
        return time.perf_counter() - self._last_line >= self.seconds

    def report(self, step: int, steps_per_second: float, metrics: str = "") -> None:
        """Prints the step, metrics, the speed and the time that is left."""
        left = (self._steps - step) / max(steps_per_second, 1e-9)
        parts = [
            f"step {step:>{len(str(self._steps))}}/{self._steps}",
            metrics,
            f"{steps_per_second:.3g} steps/s",
            f"{clock(left)} left" if step < self._steps else "done",
        ]
        self.say("  ".join(part for part in parts if part))

    @contextmanager
    def waiting(self, what: str, expected: float | None = None) -> Iterator[None]:
        """A block that prints nothing by itself: says now and then that it goes on.

        Args:
            what: Is done in it.
            expected: Seconds that it should take; None: not known.
        """
        done, began = threading.Event(), time.perf_counter()

        def say() -> None:
            with suppress(BrokenPipeError):  # The next line of the block's own has it.
                while not done.wait(self.seconds):
                    passed = time.perf_counter() - began
                    left = (expected or 0.0) - passed
                    more = f", about {clock(left)} left" if left > 0 else ""
                    self.say(f"{what}: {clock(passed)} so far{more}")

        thread = threading.Thread(target=say, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def clock(seconds: float) -> str:
    """1:05 for 65, 2:00:05 for 7205."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
