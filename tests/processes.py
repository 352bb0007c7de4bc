"""What still runs or is still there: what tests ask that must leave nothing behind."""

import pathlib
import time
from collections.abc import Iterable


def is_running(pid: int) -> bool:
    """Whether a process exists and is not merely waiting to be buried by its parent."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # "pid (name) state ...": the name may hold parentheses and blanks.
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def still_running(pids: Iterable[int], seconds: float = 0.0) -> list[int]:
    """The processes that run after so many seconds; earlier if none is left."""
    deadline = time.monotonic() + seconds
    while (left := list(filter(is_running, pids))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def gone(folder: pathlib.Path, seconds: float = 10.0) -> bool:
    """Whether a folder is gone after so many seconds; earlier if it is."""
    deadline = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not folder.exists()
