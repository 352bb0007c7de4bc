"""The wish to stop training, which a signal brings, and how all workers learn of it.

The handler notes the wish and does nothing else: what follows - to agree with the other
workers, to save, to leave - happens between steps.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from tem_tf.heartbeat import REQUEUE_CODE

SIGNALS = ("SIGTERM", "SIGUSR1")


class Stopped(SystemExit):
    """All workers have stopped after the same step, and what was saved is on the disk.

    Not caught, it ends the process with the exit code 75, "try again later".

    Attributes:
        step: Of the last checkpoint: the step after which all have stopped or, in a
            `fit` without `Checkpoint.data`, the end of the last epoch; 0 before one.
    """

    def __init__(self, step: int):
        super().__init__(REQUEUE_CODE)
        self.step = step

    def __str__(self) -> str:
        return f"training was asked to stop, and has saved step {self.step}"


class StopWish:
    """Whether this process was asked to stop.

    Args:
        names: Of the signals that ask, as "SIGTERM"; none: nobody asks.

    Raises:
        ValueError: there is no such signal, or it cannot be handled.
    """

    def __init__(self, names: Sequence[str] = SIGNALS):
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"`stop_signals` must be names of signals. Received: {names!r}"
            )
        known = {each.name: each for each in signal.Signals}
        for name in names:
            if name not in known or name in ("SIGKILL", "SIGSTOP"):
                raise ValueError(
                    "`stop_signals` must be names of signals that can be handled. "
                    f"Received: {name!r}"
                )
        self.given = False
        self._signals = [known[name] for name in names]
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Handles the signals from now on, but those that the user handles already.

        Python lets the main thread alone do so; elsewhere nothing is handled.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for each in self._signals:
            before = signal.getsignal(each)
            if isinstance(getattr(before, "__self__", None), StopWish):
                before = signal.SIG_DFL  # Of a training that ended by an error.
            # A handler of the user's own knows better what is to be done.
            if before in (signal.SIG_DFL, None):
                signal.signal(each, self._note)
                self._before[each] = signal.SIG_DFL

    def ignore(self) -> None:
        """Leaves the signals to what they did before, and forgets the wish."""
        for each, before in self._before.items():
            if signal.getsignal(each) == self._note:
                signal.signal(each, before)
        self._before.clear()
        self.given = False  # The next training is asked anew.

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.given = True
