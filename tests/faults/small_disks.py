"""Small file systems of their own, for tests by root: full, and cut off from power."""

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator


def can_mount(place: pathlib.Path) -> bool:
    """Whether this process may mount a loop device: root often may not in a box."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        return False
    try:
        with ext4(place / "tried.img", 2, place / "tried"):
            return True
    except subprocess.CalledProcessError:
        return False


@contextlib.contextmanager
def tmpfs(kilobytes: int, place: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system in memory that is soon full, mounted at `place`."""
    place.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(place))
    try:
        yield place
    finally:
        _run("umount", "-l", str(place))


@contextlib.contextmanager
def ext4(
    image: pathlib.Path, megabytes: int, place: pathlib.Path
) -> Iterator[pathlib.Path]:
    """A new ext4 in the file `image`, mounted at `place`."""
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    _run("mkfs.ext4", "-q", "-F", str(image))
    with mounted(image, place):
        yield place


@contextlib.contextmanager
def mounted(image: pathlib.Path, place: pathlib.Path) -> Iterator[pathlib.Path]:
    """The file system of an image; its journal is replayed, as after a power cut."""
    place.mkdir(exist_ok=True)
    _run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        _run("umount", "-l", str(place))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
