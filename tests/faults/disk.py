"""What may happen to the directory of checkpoints while one is written. Needs root."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import subprocess
import time

from tests.faults.small_disks import can_mount

FILLER = "filler"  # Beside the checkpoints.
_SECONDS = 20


def require_mounts(folder: pathlib.Path) -> None:
    """Checks that file systems can be mounted.

    Args:
        folder: To try it in.

    Raises:
        PermissionError: they cannot.
    """
    if not can_mount(folder):
        raise PermissionError("mounts need root, loop devices and mkfs.ext4")


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
