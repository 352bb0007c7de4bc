"""To whom of a worker's processes the wish to stop goes.

To the process that has a handler for the signal, the nearest to the one that the
launcher has started: in `-- bash -c "python main.py; ..."` Python gets it, and the
shell, which would die of it, does not; nor do processes that Python loads its data
with, which it needs to the end of the step. Where none has a handler for the signal,
one for SIGTERM will do. Where there is none either, nothing is to be saved, and
SIGTERM ends all of the worker, as Linux would: SIGUSR1 itself never ends one that does
not know it. Linux's /proc tells who has a handler; elsewhere all of a worker get it.
"""

import pathlib
import signal
from collections.abc import Iterator

from .worker_processes import Worker

PROC = pathlib.Path("/proc")


def wish_to_stop(workers: list[Worker], number: int) -> None:
    """Tells workers to stop, by this signal."""
    if not (PROC / "self" / "status").exists():
        for worker in workers:
            worker.signal_group(number)
        return
    children = _children()
    for worker in workers:
        for each in (number, signal.SIGTERM):
            taking = list(_nearest_with_handler(worker.process.pid, each, children))
            if taking:
                for pid in taking:
                    worker.signal_process(pid, each)
                break
        else:
            worker.signal_group(signal.SIGTERM)


def _children() -> dict[int, list[int]]:
    """The ids of all processes by that of their parent."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*/stat"):
        try:
            stat = path.read_text(errors="replace")
        except OSError:  # It has ended meanwhile.
            continue
        # "pid (name) state parent ...": the name may hold parentheses and blanks.
        parent = int(stat.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(path.parent.name))
    return children


def _nearest_with_handler(
    pid: int, number: int, children: dict[int, list[int]]
) -> Iterator[int]:
    if _has_handler(pid, number):
        yield pid
    else:
        for child in children.get(pid, ()):
            yield from _nearest_with_handler(child, number, children)


def _has_handler(pid: int, number: int) -> bool:
    try:
        lines = (PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return False
    (mask,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)
