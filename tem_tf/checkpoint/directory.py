"""Checkpoints of all workers in one directory, each committed whole or not there.

    DIRECTORY/step-00000100/shared.arrays     what is equal on all workers: the chief's
                            worker-1.arrays   what worker 1 has for itself
                            worker-1.json     what its files are, until the commit
                            worker-1.failed-RUN      it cannot write, in this start
                            manifest.json     what all files are: the commit

    1. every worker writes its arrays, and then what they are, or that it cannot
    2. the chief waits until all have said so, and writes the manifest
    3. older checkpoints go, but for the newest few

A directory without a manifest is no checkpoint, and is removed: by the chief where it
cannot commit, after the next commit, or by the next start.
Every file is on the disk before the next step (durable_files.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

from tem_tf import durable_files
from tem_tf.checkpoint.array_files import (
    Arrays,
    Damaged,
    Fingerprint,
    read_arrays,
    write_arrays,
)

FORMAT = 1
SHARED = "shared"
_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 2**28  # Bytes. A history of millions of epochs, and no bomb.
_POLL_SECONDS = 0.02


class NewerFormat(Exception):
    """A checkpoint was written by a tem_tf that is newer than this one."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint is.

    Attributes:
        step: Its step.
        replicas: Of each worker, in their order.
        files: What each file is, by its name.
        about: What else is to be known before a file is read; JSON.
    """

    step: int
    replicas: tuple[int, ...]
    files: Mapping[str, Fingerprint]
    about: Mapping[str, Any]


class Directory:
    """The directory as one worker sees it.

    Args:
        directory: Shared by all workers.
        worker: This one's number; 0 is the chief, who commits and removes.
        workers: How many there are.
        keep: How many checkpoints stay.
    """

    def __init__(
        self, directory: str | os.PathLike, worker: int, workers: int, keep: int
    ):
        self.directory = pathlib.Path(directory)
        self._worker, self._workers, self._keep = worker, workers, keep
        self.run = ""  # Names this start, so that files of a killed one do not count.

    def prepare(self, run: str) -> None:
        """Makes the directory, and leaves a mark of this start in it; the chief's.

        Raises:
            OSError: it cannot be made or written to.
        """
        durable_files.make_directory(self.directory)
        self._remove_unfinished()
        self.run = run
        durable_files.write_text(self._mark, "")

    def sees_start(self) -> bool:
        """Whether the mark of this start is there, as this worker sees it."""
        return self._mark.exists()

    def forget_start(self) -> None:
        """Removes the mark, once all have seen it."""
        self._mark.unlink(missing_ok=True)

    def committed(self) -> list[int]:
        """Steps of which there is a checkpoint, the newest first."""
        whole = (s for s in self._steps() if (self._place(s) / _MANIFEST).exists())
        return sorted(whole, reverse=True)

    def write(
        self, step: int, shared: Mapping[str, Any] | None, own: Mapping[str, Any]
    ) -> None:
        """Writes this worker's part of a checkpoint.

        Args:
            step: Of the checkpoint.
            shared: What is equal on all workers, the chief's; None on the others.
            own: What this worker has for itself.

        Raises:
            OSError: it cannot be written.
        """
        place = self._place(step)
        durable_files.make_directory(place)
        files = {}
        if shared is not None:
            files[_name(SHARED)] = write_arrays(place / _name(SHARED), shared)
        mine = _name(self._worker)
        files[mine] = write_arrays(place / mine, own)
        said = {"run": self.run, "files": files}
        durable_files.write_json(self._saying(step, self._worker), said)

    def commit(
        self, step: int, replicas: int, about: Mapping[str, Any], seconds: float
    ) -> None:
        """Makes a checkpoint of what all workers have written; the chief's.

        Args:
            step: Of the checkpoint.
            replicas: Of each worker.
            about: See `Manifest`.
            seconds: How long to wait for the others.

        Raises:
            OSError: it cannot be written, or a worker has said so of its part.
            TimeoutError: a worker has not written its part in time.
        """
        place, files = self._place(step), {}
        deadline = time.monotonic() + seconds
        for worker in range(self._workers):
            while (said := self._said(step, worker)) is None:
                if self._failed(step, worker).exists():
                    raise OSError(f"worker {worker} cannot write its part")
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"worker {worker} has not written its part in {seconds:g} s"
                    )
                time.sleep(_POLL_SECONDS)
            files |= said
        content = {
            "format": FORMAT,
            "step": step,
            "replicas": [replicas] * self._workers,
            "files": files,
            "about": dict(about),
        }
        text = _canonical(content)
        content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        durable_files.write_text(place / _MANIFEST, _canonical(content) + "\n")
        # From here on it is a checkpoint, whatever happens.
        for worker in range(self._workers):
            with contextlib.suppress(OSError):
                self._saying(step, worker).unlink(missing_ok=True)
        committed = self.committed()
        for old in committed[self._keep :]:
            self._remove(old)
        # All have written this one, so nobody writes an older one any more.
        for left in set(self._steps()).difference(committed):
            if left < step:
                self._remove(left)

    def say_failed(self, step: int) -> None:
        """Tells the chief that this worker's part cannot be written, if that can be.

        Else the chief would wait for it as long as it may, and training with it. On a
        full disk there is still room for a file without content.
        """
        with contextlib.suppress(OSError):
            self._failed(step, self._worker).touch()

    def give_up(self, step: int) -> None:
        """Removes what there is of a checkpoint that cannot be committed; the chief's.

        What a worker may still write of it goes after the next commit.
        """
        if not (self._place(step) / _MANIFEST).exists():
            self._remove(step)

    def manifest(self, step: int) -> Manifest:
        """Reads what a checkpoint is.

        Raises:
            Damaged: it is not what was written.
            NewerFormat: this tem_tf does not know its form.
        """
        path = self._place(step) / _MANIFEST
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size > _LARGEST_MANIFEST:
                    raise Damaged(f"{path} is longer than a manifest")
                written = file.read(_LARGEST_MANIFEST + 1)
            content = json.loads(written)
            # Blanks, too, are as they were: what else was altered, nobody knows.
            is_whole = written == (_canonical(content) + "\n").encode()
            digest = content.pop("sha256")
            text = _canonical(content)
        except OSError as error:
            raise Damaged(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise Damaged(f"{path} is no manifest") from None
        if not is_whole or hashlib.sha256(text.encode()).hexdigest() != digest:
            raise Damaged(f"{path} is not what was written")
        if content["format"] > FORMAT:
            raise NewerFormat(
                f"{path} is of format {content['format']}; this tem_tf reads {FORMAT}. "
                "Install the tem_tf that wrote it, or a newer one."
            )
        if content["step"] != step:
            raise Damaged(f"{path} is of step {content['step']}")
        files = {name: Fingerprint(*it) for name, it in content["files"].items()}
        return Manifest(step, tuple(content["replicas"]), files, content["about"])

    def read(self, manifest: Manifest, name: str | int) -> Arrays:
        """Reads one file of a checkpoint.

        Args:
            manifest: Of the checkpoint.
            name: `SHARED`, or the number of a worker.

        Raises:
            Damaged: it is not what was written.
        """
        path = self._place(manifest.step) / _name(name)
        if path.name not in manifest.files:
            raise Damaged(f"{path} is not in the manifest")
        return read_arrays(path, manifest.files[path.name])

    def set_aside(self, step: int) -> pathlib.Path:
        """Takes a damaged checkpoint out of the way, for people to look at."""
        place = self._place(step)
        aside = place.with_name(f"damaged-{place.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(place, aside)
        return aside

    @property
    def _mark(self) -> pathlib.Path:
        return self.directory / f".start-{self.run}"

    def _remove_unfinished(self) -> None:
        """Removes what killed workers left, while nobody writes."""
        committed = set(self.committed())
        for step in self._steps():
            if step in committed:
                durable_files.remove_partials(self._place(step))
            else:
                self._remove(step)
        for mark in self.directory.glob(".start-*"):
            mark.unlink(missing_ok=True)
        durable_files.remove_partials(self.directory)

    def _said(self, step: int, worker: int) -> dict[str, Any] | None:
        """What a worker has said of its files in this run, or None."""
        try:
            said = json.loads(self._saying(step, worker).read_text())
        except (OSError, ValueError):
            return None
        return said["files"] if said["run"] == self.run else None

    def _remove(self, step: int) -> None:
        """The manifest first: what is left half-way is no checkpoint."""
        place = self._place(step)
        with contextlib.suppress(OSError):
            (place / _MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(place, ignore_errors=True)

    def _steps(self) -> list[int]:
        """Of all checkpoints, those without a manifest included."""
        numbers = (p.name.removeprefix("step-") for p in self.directory.glob("step-*"))
        return [int(number) for number in numbers if number.isdecimal()]

    def _saying(self, step: int, worker: int) -> pathlib.Path:
        return self._place(step) / f"worker-{worker}.json"

    def _failed(self, step: int, worker: int) -> pathlib.Path:
        return self._place(step) / f"worker-{worker}.failed-{self.run}"

    def _place(self, step: int) -> pathlib.Path:
        return self.directory / f"step-{step:08d}"


def _name(name: str | int) -> str:
    return f"{name if name == SHARED else f'worker-{name}'}.arrays"


def _canonical(content: Mapping[str, Any]) -> str:
    """JSON with NaN and Inf as Python writes them: a history may hold them."""
    return json.dumps(content, sort_keys=True)
