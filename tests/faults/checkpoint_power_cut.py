"""Power cuts: what is on a disk at moments of a training, as the disk has it.

Checkpoints go to an ext4 file system in an image (a loop device). Copies of the image
are the disk as it is if the power fails: what the kernel keeps in memory, because
nobody has asked for it to be written down, is not in them. A copy takes some
milliseconds; it counts if a second one is equal, so that nothing was written between.
Each is then mounted, which replays its journal, and looked through. Needs root and loop
devices.

What this cannot show: a disk that loses what it has confirmed, or that writes in
another order than it was told to.
"""

from __future__ import annotations

import pathlib
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.faults import disk
from tests.faults.checkpoints import committed, whole
from tests.faults.job import WORKERS, Job, differences
from tests.faults.others import ROW
from tests.faults.small_disks import ext4, mounted

MEGABYTES = 16
_FSCK_SECONDS = 60
FINDINGS = ("lost", "torn", "empty", "broken")


class Photographer:
    """Copies an image at moments drawn at random; for `Job.run`.

    Args:
        image: The file.
        folder: For the copies.
        seed: Of the moments.
        seconds: Between two copies, on average.
    """

    def __init__(
        self,
        image: pathlib.Path,
        folder: pathlib.Path,
        seed: int,
        seconds: float = 0.15,
    ):
        self._image, self._folder = image, folder
        self._draw, self._seconds = random.Random(seed), seconds
        self._next = 0.0
        self.copies: list[tuple[pathlib.Path, int]] = []  # With the step reported.

    def __call__(self, job: Job) -> None:
        """Looks whether it is time."""
        if time.monotonic() < self._next or not job.events("restored"):
            return
        self._next = time.monotonic() + self._draw.expovariate(1 / self._seconds)
        reported = [e["step"] for e in job.events("committed") if e["worker"] == 0]
        self.take(max(reported, default=0))

    def take(self, reported: int) -> None:
        """Takes a copy now, if nothing is written meanwhile.

        Args:
            reported: Step of the newest checkpoint that was said to be committed.
        """
        content = self._image.read_bytes()
        if content != self._image.read_bytes():
            return  # Something was written in between: no moment.
        path = self._folder / f"{len(self.copies)}.img"
        path.write_bytes(content)
        self.copies.append((path, reported))


def power_cuts(
    folder: pathlib.Path, seed: int, wanted: list[dict], synced: bool = True
) -> dict[str, Any]:
    """Copies of a disk during a training, looked through.

    Args:
        folder: Must not exist.
        seed: Of the moments.
        wanted: Endings of the undisturbed run.
        synced: False: `os.fsync` does nothing in the workers, to see that this would
            be noticed.

    Returns:
        `images`; of them `lost`, which have no whole checkpoint as new as the one that
        was reported; `torn`, which have a checkpoint with a manifest that is not whole;
        `empty`, which have a file of length zero; `broken`, which fsck finds fault
        with; `same`, whether training has ended as it should.

    Raises:
        PermissionError: see `disk.require_mounts`.
    """
    folder.mkdir(parents=True)
    disk.require_mounts(folder)
    image = folder / "disk.img"
    with ext4(image, MEGABYTES, folder / "disk") as place:
        job = Job(folder / "job", ROW, (), place / "checkpoints", synced)
        photographer = Photographer(image, folder, seed)
        code = job.run(photographer)
        other = differences(job.endings(), wanted)
    image.unlink()
    counts = looked_through(photographer.copies, folder / "copy", WORKERS)
    return {"code": code, "same": code == 0 and not other, **counts}


def looked_through(
    copies: Sequence[tuple[pathlib.Path, int]], place: pathlib.Path, workers: int
) -> dict[str, int]:
    """Mounts copies of a disk one by one, looks through them, and removes them.

    Args:
        copies: With the step that was reported to be committed when it was taken.
        place: Where they are mounted.
        workers: Of the checkpoints.

    Returns:
        The counts of `power_cuts`.
    """
    found = {"images": len(copies), **dict.fromkeys(FINDINGS, 0)}
    for copy, reported in copies:
        for name in _findings(copy, place, reported, workers):
            found[name] += 1
        copy.unlink()
    return found


def _findings(
    image: pathlib.Path, place: pathlib.Path, reported: int, workers: int
) -> Iterator[str]:
    with mounted(image, place):
        directory = place / "checkpoints"
        steps = committed(directory, workers)
        whole_ones = [step for step in steps if whole(directory, step, workers)]
        if reported and max(whole_ones, default=0) < reported:
            yield "lost"
        if whole_ones != steps:
            yield "torn"
        # A mark of a start is empty, and a partial file is nobody's yet.
        finished = (p for p in directory.rglob("*") if not p.name.startswith("."))
        if any(path.is_file() and not path.stat().st_size for path in finished):
            yield "empty"
    command = ["fsck.ext4", "-fn", str(image)]
    done = subprocess.run(command, capture_output=True, timeout=_FSCK_SECONDS)
    if done.returncode:
        yield "broken"


def in_words(found: dict[str, Any]) -> str:
    """A result of `power_cuts` as text."""
    end = "the same bits" if found["same"] else f"OTHER: code {found['code']}"
    return (
        f"{found['fault']}: of {found['images']} images {found['lost']} without the "
        f"checkpoint that was reported, {found['torn']} with a torn one, "
        f"{found['empty']} with an empty file, {found['broken']} that fsck finds fault "
        f"with; ended with {end}"
    )
