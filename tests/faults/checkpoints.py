"""What is in a directory of checkpoints, as somebody sees it who only reads."""

from __future__ import annotations

import pathlib

from tem_tf.checkpoint.array_files import Damaged
from tem_tf.checkpoint.directory import SHARED, Directory


def whole(directory: pathlib.Path, step: int, workers: int) -> bool:
    """Whether every file of a checkpoint is what was written."""
    files = Directory(directory, 0, workers, keep=1)
    try:
        manifest = files.manifest(step)
        for name in (SHARED, *range(workers)):
            files.read(manifest, name)
    except Damaged:
        return False
    return True


def committed(directory: pathlib.Path, workers: int) -> list[int]:
    """Steps of which there is a manifest, the newest first."""
    return Directory(directory, 0, workers, keep=1).committed()


def newest_whole(directory: pathlib.Path, workers: int) -> int | None:
    """The step of the newest one that is whole, or None."""
    for step in committed(directory, workers):
        if whole(directory, step, workers):
            return step
    return None
