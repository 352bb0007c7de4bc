"""One process at a time, by a lock file beside what they all want to make."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator

_SECONDS_IN_SILENCE = 1.0  # Our choice: who waits longer wants to know for what.
_SECONDS_BETWEEN_TRIES = 0.05


@contextlib.contextmanager
def exclusive(
    path: pathlib.Path, say_that_it_waits: Callable[[], None]
) -> Iterator[None]:
    """Holds the lock of a file; waits while another process or thread holds it.

    Where there are no locks (some network file systems, Windows), or the file cannot be
    written, it goes on without. The file stays: were it removed, two could hold two
    files of one name.

    Args:
        path: The file, in a folder that is there.
        say_that_it_waits: Called once, after a second.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            _take(stack.enter_context(path.open("a")).fileno(), say_that_it_waits)
        yield


def _take(descriptor: int, say_that_it_waits: Callable[[], None]) -> None:
    """Returns with the lock; OSError where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows.
        return
    started, said = time.monotonic(), False
    while True:
        try:
            # The system gives it back when the file is closed, or its process dies.
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not said and time.monotonic() > started + _SECONDS_IN_SILENCE:
                say_that_it_waits()
                said = True
            time.sleep(_SECONDS_BETWEEN_TRIES)
