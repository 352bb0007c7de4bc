"""Lines on the terminal while a run goes on; the chief alone prints."""

from __future__ import annotations

import time


class Progress:
    """Prints how far training has come, and when it should be done.

    Args:
        steps: Number of steps of the whole training.
        prints: Whether this process is the chief.
        seconds: Longest time without a line.
    """

    def __init__(self, steps: int, prints: bool, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self._steps = steps
        self._prints = prints
        self._last_line = time.perf_counter()

    def say(self, text: str) -> None:
        """Prints one line."""
        if self._prints:
            print(text, flush=True)
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
            f"{_clock(left)} left" if step < self._steps else "done",
        ]
        self.say("  ".join(part for part in parts if part))


def _clock(seconds: float) -> str:
    """1:05 for 65, 2:00:05 for 7205."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
