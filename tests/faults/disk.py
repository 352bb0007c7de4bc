"""What may happen to the directory of checkpoints while one is written. Needs root."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator

FILLER = "filler"  # Beside the checkpoints.
_SECONDS = 20


@contextlib.contextmanager
def small_disk(place: pathlib.Path, megabytes: int = 8) -> Iterator[pathlib.Path]:
    """A file system in memory of its own, at `place` while the block runs.

    Raises:
        PermissionError: on entering, if this is not root, or mounts are not allowed.
    """
    place.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(place))
    try:
        yield place
    finally:
        run("umount", "--lazy", str(place))


def run(*command: str) -> str:
    """Runs a command that only root may.

    Raises:
        PermissionError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        raise PermissionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def fill(directory: pathlib.Path) -> None:
    """Leaves no byte on the disk."""
    with (directory.parent / FILLER).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def remove(directory: pathlib.Path) -> None:
    """Removes the directory, from under those who write into it."""
    shutil.rmtree(directory, ignore_errors=True)


def forbid(directory: pathlib.Path) -> None:
    """Makes the file system read-only, as soon as nobody has a file open in it."""
    place = str(directory.parent)
    deadline = time.monotonic() + _SECONDS
    while True:
        with contextlib.suppress(PermissionError):
            run("mount", "-o", "remount,ro", place)
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{place} stays writable")
        time.sleep(0.001)


def mend(directory: pathlib.Path) -> None:
    """Takes back what `fill` and `forbid` did."""
    if not os.access(directory.parent, os.W_OK):
        run("mount", "-o", "remount,rw", str(directory.parent))
    (directory.parent / FILLER).unlink(missing_ok=True)


FAULTS = {"full": fill, "removed": remove, "read_only": forbid}
