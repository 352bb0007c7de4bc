"""Faults that are no kill: workers that stop, disks that fill up or go away.

What is looked at: the lines of launcher and tem_tf and when they come, the restarts,
whether training ends with the bits of the undisturbed run, and whether the newest
checkpoint stays whole while the fault lasts.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.faults import disk, small_disks
from tests.faults.checkpoints import newest_whole
from tests.faults.job import WORKERS, Job, differences
from tests.faults.points import Moment

ROW = "topk_16_bits"
AT_STEP = 8  # Of the first start, when something happens from outside.
_KILOBYTES = 8192  # Of the disk.
DISK_SECONDS = 1.5  # How long a disk has its fault: some checkpoints long.


class Lines:
    """The lines of launcher and tem_tf in a job's output, as they come.

    Args:
        job: Whose.
    """

    def __init__(self, job: Job):
        self._job, self._known = job, 0
        self.seen: list[tuple[float, str]] = []  # With the time.

    def look(self) -> None:
        """Takes what is new."""
        lines = self._job.output().split("\n")[:-1]
        for line in lines[self._known :]:
            if line.startswith("[launcher]") or "tem_tf:" in line:
                self.seen.append((time.time(), line))
        self._known = len(lines)

    def after(self, moment: float, most: int = 12) -> list[list[Any]]:
        """Seconds after a moment, and the line; each text once."""
        found: dict[str, float] = {}
        for at, line in self.seen:
            if at >= moment:
                found.setdefault(line, round(at - moment, 1))
        return [[seconds, line] for line, seconds in list(found.items())[:most]]


class Stopped:
    """SIGSTOP of worker 1 for some seconds; for `Job.run`.

    Args:
        seconds: Until SIGCONT.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._pid: int | None = None
        self.at: float | None = None

    def __call__(self, job: Job) -> None:
        """Looks whether it is time."""
        if self.at is None:
            steps = [e for e in job.events("step", 0) if e["worker"] == 1]
            if len(steps) >= AT_STEP:
                started = job.events("started", 0)
                (pid,) = (e["pid"] for e in started if e["worker"] == 1)
                self.at, self._pid = time.time(), pid
                os.kill(pid, signal.SIGSTOP)
        elif self._pid is not None and time.time() > self.at + self._seconds:
            # The launcher may have ended it in between.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGCONT)
            self._pid = None


class Mender:
    """Takes a disk's fault away again after a while; for `Job.run`.

    Attributes:
        at: When the fault was there.
        whole: The newest checkpoint that was whole while it lasted.
    """

    def __init__(self):
        self.at: float | None = None
        self.whole: int | None = None
        self._mended = False

    def __call__(self, job: Job) -> None:
        """Looks whether it is time."""
        if self._mended:
            return
        done = job.events("fault done")
        if self.at is None and done:
            self.at = done[0]["time"]
        if self.at is not None and time.time() > self.at + DISK_SECONDS:
            self.whole = newest_whole(job.directory, WORKERS)
            disk.mend(job.directory)
            self._mended = True


def stopped(folder: pathlib.Path, seconds: float, wanted: list[dict]) -> dict[str, Any]:
    """One worker stands still for so long.

    Args:
        folder: Of the job; must not exist.
        seconds: How long.
        wanted: Endings of the undisturbed run.
    """
    job, stop = Job(folder, ROW), Stopped(seconds)
    return _result(job, stop, wanted)


def on_a_disk(folder: pathlib.Path, fault: str, wanted: list[dict]) -> dict[str, Any]:
    """Something happens to the disk while worker 0 writes its third checkpoint.

    Args:
        folder: Of the job; must not exist.
        fault: A name in `disk.FAULTS`.
        wanted: Endings of the undisturbed run.

    Raises:
        PermissionError: see `disk.require_mounts`.
    """
    # A file system on which a file is open for writing cannot be made read-only.
    point = "rename" if fault == "read_only" else "write"
    moment = Moment(
        point, occurrence=9
    )  # Four files of each checkpoint of the chief's.
    faults = [{"worker": 0, "action": fault, "moment": moment}]
    folder.mkdir(parents=True)
    disk.require_mounts(folder)
    with small_disks.tmpfs(_KILOBYTES, folder / "disk") as place:
        job = Job(folder / "job", ROW, faults, place / "checkpoints")
        mender = Mender()
        result = _result(job, mender, wanted)
        committed = [
            event["step"]
            for event in job.events("committed")
            if event["worker"] == 0 and mender.at and event["time"] < mender.at
        ]
        result["committed_before"] = max(committed, default=None)
        result["whole_meanwhile"] = mender.whole
        result["whole_in_the_end"] = newest_whole(job.directory, WORKERS)
    return result


def undisturbed(folder: pathlib.Path) -> list[dict]:
    """The endings that all must have.

    Raises:
        RuntimeError: it fails.
    """
    job = Job(folder, ROW)
    code = job.run()
    endings = job.endings()
    if code or endings is None:
        raise RuntimeError(f"The undisturbed training fails:\n{job.output()}")
    shutil.rmtree(folder)
    return endings


def _result(job: Job, disturb: Stopped | Mender, wanted: list[dict]) -> dict[str, Any]:
    lines = Lines(job)
    begun = time.monotonic()

    def disturb_and_look(job: Job) -> None:
        disturb(job)
        lines.look()

    code = job.run(disturb_and_look)
    lines.look()
    other = differences(job.endings(), wanted)
    return {
        "code": code,
        "same": code == 0 and not other,
        "differences": other[:5],
        "restarts": job.starts() - 1,
        "seen": lines.after(disturb.at) if disturb.at else None,
        "seconds_without_step": job.longest_gap(disturb.at),
        "left": job.left_behind(),
        "seconds": round(time.monotonic() - begun, 1),
    }


def in_words(it: dict[str, Any]) -> str:
    """A result as text: how it ended, and what was seen."""
    if "skipped" in it:
        return f"{it['fault']}: left out: {it['skipped']}"
    end = "the same bits" if it["same"] else f"OTHER: code {it['code']}"
    left = ", ".join(it["left"]) or "nothing"
    lines = [
        f"{it['fault']}: {it['restarts']} restarts, at most "
        f"{it['seconds_without_step']} s without a step, ended with {end}; left "
        f"behind: {left}"
    ]
    if "whole_meanwhile" in it:
        lines.append(
            f"    committed before: {it['committed_before']}; whole while it lasted: "
            f"{it['whole_meanwhile']}; in the end: {it['whole_in_the_end']}"
        )
    lines += [f"    after {at:5.1f} s  {line}" for at, line in it["seen"] or ()]
    return "\n".join(lines)


Fault = Callable[[pathlib.Path, list[dict]], dict[str, Any]]
FAULTS: dict[str, Fault] = {
    **{
        f"stop_{seconds}": lambda folder, wanted, s=seconds: stopped(folder, s, wanted)
        for seconds in (5, 15, 60)
    },
    **{
        name: lambda folder, wanted, n=name: on_a_disk(folder, n, wanted)
        for name in disk.FAULTS
    },
}
