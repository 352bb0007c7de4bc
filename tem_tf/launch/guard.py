"""What ends the workers if the launcher is killed: a guard, and Linux itself.

The guard is a process that outlives the launcher by a blink and kills what the workers
have started, too. If it is killed, the launcher starts another one. Should both be
killed at once, Linux still kills the workers themselves: each has asked to die with the
launcher (PR_SET_PDEATHSIG). That does not reach what a worker has started, as in
`-- bash -c "python main.py; ..."`, and so the guard is there.
"""

import contextlib
import ctypes
import os
import pathlib
import signal
import sys
from collections.abc import Callable

PROGRAM = str(pathlib.Path(__file__).with_name("guard_process.py"))
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Whoever kills one guard after the other wants none; our choice.
MAX_GUARDS = 10


class Guard:
    """The process that kills the workers if the launcher itself is killed.

    A run goes on where no guard can be had.
    """

    def __init__(self):
        self._groups: set[int] = set()
        self._directory: str | None = None
        self._guards = 0
        self._pid: int | None = None
        self._write_end: int | None = None
        self._start()

    def _start(self) -> None:
        self._guards += 1
        read_end, self._write_end = os.pipe()
        # Before the start, so that it knows all even if we are killed right then. A
        # pipe holds 64 kB: some thousand workers.
        for group in self._groups:
            self._tell(f"group {group}")
        if self._directory is not None:
            self._tell(f"directory {self._directory}")
        streams = [
            (os.POSIX_SPAWN_DUP2, read_end, 0),
            # Whoever reads our output waits for its end.
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        # Not a fork: by the time of a second guard the launcher has threads.
        command = [sys.executable, "-I", "-S", PROGRAM]
        with contextlib.suppress(OSError):
            self._pid = os.posix_spawn(
                sys.executable, command, os.environ, file_actions=streams
            )
        os.close(read_end)

    def _tell(self, line: str) -> None:
        assert self._write_end is not None  # For the type checker.
        with contextlib.suppress(BrokenPipeError):  # Killed: `renew` follows.
            os.write(self._write_end, os.fsencode(line) + b"\n")

    def renew(self) -> None:
        """Starts another guard if this one has been killed."""
        if self._pid is None or os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            return
        self._pid = None
        if self._guards < MAX_GUARDS and self._write_end is not None:
            os.close(self._write_end)
            self._start()

    def toggle(self, group: int) -> None:
        """Starts or ends watching a process group."""
        self._groups ^= {group}
        self._tell(f"group {group}")

    def remove_in_the_end(self, directory: str) -> None:
        """Has a folder removed if the launcher is killed.

        Args:
            directory: Its absolute path, with no line end in it.
        """
        self._directory = directory
        self._tell(f"directory {directory}")

    def close(self) -> None:
        """Ends the guard, which does now what is left to do."""
        if self._write_end is not None:
            os.close(self._write_end)
            self._write_end = None
        if self._pid is not None:
            os.waitpid(self._pid, 0)
            self._pid = None


def dying_with_this_process() -> Callable[[], None] | None:
    """What a child runs before its program, so that it is killed when we end.

    Linux ties this to the thread that starts the child: the main thread must, which
    lives as long as the launcher does. None where there is no such thing.
    """
    if sys.platform != "linux":
        return None
    try:
        prctl = ctypes.CDLL(None).prctl  # Looked up here: the child calls it at once.
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != parent:  # It had ended before we asked.
            os._exit(1)

    return ask
