"""LOGDIR before a run starts: what is in it already, and whether it can be written to.

This file imports neither TensorFlow nor numpy, so that a wrong directory is refused at
once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import time
from pathlib import Path
from typing import TextIO

from tem_studies.refusal import Refusal, writing
from tem_studies.written_files import durable_files

RESULT_NAME, STEPS_NAME = "result.json", "steps.npz"
INTERRUPTED = "interrupted"  # status of a run that Ctrl-C ended
LOCK_NAME = ".run"
RESUME_NAME = "resume"  # folder of what a run that was killed goes on from
SCHEMA_PATH = Path(__file__).with_name("result.schema.json")  # of result.json
WRITERS = ("train", "validation", "communication")  # folders of TensorBoard's events

# All that a run writes, finished or killed.
_FILES = (
    RESULT_NAME,
    STEPS_NAME,
    f".partial-*{RESULT_NAME}",
    f".partial-*{STEPS_NAME}",
    "checkpoints/step-*.weights.h5",
    f"{RESUME_NAME}/step-*/*",
    "checkpoints/.partial-*step-*.weights.h5",
    *(f"{name}/events.out.tfevents.*" for name in WRITERS),
)


def left_by_a_run(path: Path) -> list[Path]:
    """The files in a directory that a run wrote; other files there are not named."""
    return [file for pattern in _FILES for file in path.glob(pattern)]


def may_go_on(path: str) -> bool:
    """Whether a directory is that of a run that was to go on after a kill."""
    return os.path.isdir(os.path.join(path, RESUME_NAME))


def require_unused(path: str) -> None:
    """Checks that no run has left anything in a directory.

    Raises:
        Refusal: naming what is there.
    """
    parts = [file.relative_to(path).parts for file in left_by_a_run(Path(path))]
    if parts:
        found = dict.fromkeys(f"{p[0]}{'/' if len(p) > 1 else ''}" for p in parts)
        raise Refusal(
            "`logdir` must have nothing of another run in it. Received: "
            f"logdir={path!r}, which holds {', '.join(found)}. Pass another "
            "directory, or --overwrite to replace what is there."
        )


def hold(path: Path) -> TextIO:
    """Keeps a directory for this process, for as long as the returned file is open.

    Where there are no locks, as on some network file systems, nobody is kept out.

    Raises:
        Refusal: another process holds it.
    """
    with writing(path):
        file = (path / LOCK_NAME).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Refusal(
            f"`logdir` must be a directory of one run. Received: logdir={str(path)!r}, "
            "where another run writes now. Pass another directory."
        ) from None
    except OSError:
        pass
    return file


def require_writable(path: str | Path, name: str = "logdir") -> None:
    """Checks a directory, or where it would be made, without making it.

    Args:
        path: The directory.
        name: Of the setting.

    Raises:
        Refusal: it cannot be made or written to, as far as can be seen.
    """
    # Not Path.exists, which raises below a folder that cannot be searched.
    nearest = next(p for p in (Path(path), *Path(path).parents) if os.path.exists(p))
    if not nearest.is_dir():
        raise not_writable(path, name, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise not_writable(path, name, os.strerror(errno.EACCES))


def not_writable(path: str | Path, name: str, reason: str | None) -> Refusal:
    """The refusal of a directory that cannot be written to."""
    return Refusal(
        f"`{name}` must be a directory that can be written to. "
        f"Received: {name}={str(path)!r} ({reason})."
    )


def claim_default() -> str:
    """Makes a new directory in runs/, named after the time of day.

    Commands that start within one second each get their own: whoever makes it has it.

    Raises:
        Refusal: it cannot be made.
    """
    stem = Path("runs", time.strftime("%Y%m%d-%H%M%S"))
    for number in itertools.count(1):
        place = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
        try:
            durable_files.make_directory(place, exist_ok=False)
            return str(place)
        except FileExistsError:
            continue
        except OSError as error:
            raise not_writable(place, "logdir", error.strerror) from error
    raise AssertionError  # For the type checker: the loop has no end.


def give_back(path: str) -> None:
    """Removes a directory of `claim_default`, and runs/, unless something is there."""
    with contextlib.suppress(OSError):
        os.removedirs(path)
