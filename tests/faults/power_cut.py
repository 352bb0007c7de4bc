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

import contextlib
import pathlib
import random
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from tests.faults import disk
from tests.faults.checkpoints import committed, whole
from tests.faults.job import WORKERS, Job, differences
from tests.faults.others import ROW

_MEGABYTES = 16
_FSCK_SECONDS = 60


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
        content = self._image.read_bytes()
        if content != self._image.read_bytes():
            return  # Something was written in between: no moment.
        path = self._folder / f"{len(self.copies)}.img"
        path.write_bytes(content)
        self.copies.append((path, max(reported, default=0)))


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
        PermissionError: this is not root, or there are no loop devices.
    """
    folder.mkdir(parents=True)
    image = folder / "disk.img"
    image.write_bytes(bytes(_MEGABYTES << 20))
    disk.run("mkfs.ext4", "-q", str(image))
    with _mounted(image, folder / "disk") as place:
        job = Job(folder / "job", ROW, (), place / "checkpoints", synced)
        photographer = Photographer(image, folder, seed)
        code = job.run(photographer)
        other = differences(job.endings(), wanted)
    found: dict[str, Any] = {
        "code": code,
        "same": code == 0 and not other,
        "images": len(photographer.copies),
        **dict.fromkeys(("lost", "torn", "empty", "broken"), 0),
    }
    for copy, reported in photographer.copies:
        for name in _looked_through(copy, folder / "copy", reported):
            found[name] += 1
        copy.unlink()
    image.unlink()
    return found


def _looked_through(
    image: pathlib.Path, place: pathlib.Path, reported: int
) -> Iterator[str]:
    with _mounted(image, place):
        directory = place / "checkpoints"
        steps = committed(directory, WORKERS)
        whole_ones = [step for step in steps if whole(directory, step, WORKERS)]
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


@contextlib.contextmanager
def _mounted(image: pathlib.Path, place: pathlib.Path) -> Iterator[pathlib.Path]:
    place.mkdir(exist_ok=True)
    disk.run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        disk.run("umount", str(place))


def in_words(found: dict[str, Any]) -> str:
    """A result of `power_cuts` as text."""
    counts = ", ".join(f"{name} {found[name]}" for name in found if name != "code")
    return re.sub("same True", "ended with the same bits", counts)
