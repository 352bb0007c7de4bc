"""What the launcher and its workers tell one another: signs of life, progress, a stop.

The launcher makes a private folder with one file for each worker, and names each its
own in the environment variable TEM_TF_HEARTBEAT. When the file was last changed, its
worker was last alive; the text in it is the step of the last committed checkpoint. A
worker that has stopped on wish, with its state saved, ends with REQUEUE_CODE.

Needs the standard library alone, as the launcher does: see `load_part` in
tem_tf_run.py.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import time

HEARTBEAT_VARIABLE = "TEM_TF_HEARTBEAT"
# How often the launcher has started all workers anew, in decimal digits: "0" at first.
RESTART_VARIABLE = "TEM_TF_RESTART"
# "Stopped on wish, state saved: start me again", EX_TEMPFAIL of BSD's sysexits.h. No
# signal, shell or Python ends a program with it.
REQUEUE_CODE = 75
BEAT_SECONDS = 1.0  # One system call a second costs nothing beside a step.

_next_beat = 0.0  # By the monotonic clock.


# ------------------------------------------------------------------ the worker's side


def beat() -> None:
    """Tells the launcher that this worker is alive, at most once a second.

    Does nothing where no launcher has asked for it, and never raises: a worker does not
    fail because nobody can be told that it lives.
    """
    global _next_beat
    path = os.environ.get(HEARTBEAT_VARIABLE)
    now = time.monotonic()
    if path and now >= _next_beat:
        _next_beat = now + BEAT_SECONDS
        with contextlib.suppress(OSError):
            os.utime(path)


def committed(step: int) -> None:
    """Tells the launcher that the checkpoint of this step is complete; a beat, too.

    Does nothing where no launcher has asked for it. A file that cannot be written is
    no error.

    Args:
        step: An int, 0 or more.
    """
    path = os.environ.get(HEARTBEAT_VARIABLE)
    if path:
        with contextlib.suppress(OSError):
            new = pathlib.Path(f"{path}.new")
            new.write_text(f"{int(step)}\n")
            os.replace(new, path)  # Whoever reads has the old text or the new one.


# ---------------------------------------------------------------- the launcher's side


class Heartbeats:
    """The files of all workers, in a private folder of their own.

    Args:
        workers: How many.

    Attributes:
        directory: The folder.

    Raises:
        OSError: No temporary folder can be made.
    """

    def __init__(self, workers: int):
        self.directory = tempfile.mkdtemp(prefix="tem-tf-run-")
        self._paths = [
            pathlib.Path(self.directory, f"worker-{index}") for index in range(workers)
        ]
        self._reached = -1  # The latest step that was committed in an earlier start.

    def begin(self) -> None:
        """Forgets what was written, before the workers are started, or started anew."""
        with contextlib.suppress(OSError):
            for path in self._paths:
                path.write_text("")
                os.utime(path, (0, 0))

    def environment(self, index: int) -> dict[str, str]:
        """What worker `index` needs in its environment."""
        return {HEARTBEAT_VARIABLE: str(self._paths[index])}

    def last_beat(self, index: int) -> float | None:
        """When worker `index` was last alive, in seconds since 1970; None if never."""
        with contextlib.suppress(OSError):
            return self._paths[index].stat().st_mtime or None
        return None

    def has_progressed(self) -> bool:
        """Whether a later step was committed than any before the question was put."""
        before = self._reached
        for path in self._paths:
            with contextlib.suppress(OSError, ValueError):
                self._reached = max(self._reached, int(path.read_text()))
        return self._reached > before

    def remove(self) -> None:
        """Removes the folder and all in it."""
        shutil.rmtree(self.directory, ignore_errors=True)
