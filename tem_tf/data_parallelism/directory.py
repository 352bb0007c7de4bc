"""A study directory: its files, who runs which trial, and what was found so far.

    study.json                      what defines the trials; never changed
    metaparameters.json             the points, one per trial
    run-R/result.json               trial R; with it the trial is finished
    run-R/batch-science/metadata.json   steps to the result, as the DPS authors have it
    rerun-R-seed-S/...              the winner R again, with seed S

Files appear whole or not at all. A trial belongs to the process that holds the lock
on its file `.claim`; the operating system frees it when that process ends, however it
ends, so that nothing has to be cleaned up. Several machines can share a directory on
a file system whose locks they share (NFS 4 is one).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tem_tf.data_parallelism.configuration import Cell
from tem_tf.data_parallelism.metaparameters import Point, metaparameters
from tem_tf.workloads.results import finite_or_null, versions

STUDY_NAME, POINTS_NAME = "study.json", "metaparameters.json"
RESULT_NAME, METADATA_NAME = "result.json", "batch-science/metadata.json"

# What the authors' files hold in the place of the steps to the result.
_CODES = {"incomplete": -1, "infeasible": -2}


class StudyDirectory:
    """The directory of one cell.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results: dict[str, dict[str, Any]] = {}

    def check(self, cell: Cell, resumes: bool) -> None:
        """Checks that the directory, if there is one, is this cell's. Changes nothing.

        Raises:
            ValueError: it is another's, damaged, or has results and may not.
        """
        if not (self.path / STUDY_NAME).exists():
            others = sorted(self.path.glob(f"*/{STUDY_NAME}"))
            if others:
                raise ValueError(
                    f"`study_dir` {self.path} holds studies of several cells. Pass one "
                    f"of them, as {others[0].parent}."
                )
            return
        self._compare(cell)
        self.points()
        if self.results() and not resumes:
            raise ValueError(
                f"`study_dir` {self.path} has {len(self.results())} finished trials, "
                "and --no_load_cache forbids to go on from them. Pass another "
                "directory."
            )

    def open(self, cell: Cell, nruns: int) -> list[Point]:
        """Makes what is missing; returns the metaparameters of the trials.

        Raises:
            ValueError: the directory is another cell's, or damaged.
            OSError: it cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                "`study_dir` must be a directory that can be written to. "
                f"Received: study_dir={str(self.path)!r} ({error.strerror})."
            ) from error
        if not (self.path / STUDY_NAME).exists():
            content = {"configuration": cell.identity(), "versions": versions()}
            _write_json(self.path / STUDY_NAME, content)
        self._compare(cell)
        points = metaparameters(cell.mparams_kind, nruns)
        known = self.points()
        shared = min(len(known), nruns)
        if known[:shared] != points[:shared]:
            raise ValueError(
                f"{self.path / POINTS_NAME} holds other points than this version "
                "draws. Pass another `study_dir`."
            )
        if len(known) < nruns:
            _write_json(self.path / POINTS_NAME, points)
        return points

    def points(self) -> list[Point]:
        """The metaparameters of the trials so far."""
        path = self.path / POINTS_NAME
        return _read_json(path, list) if path.exists() else []

    def configuration(self) -> dict[str, Any]:
        """What defines the trials.

        Raises:
            ValueError: there is no study here, or it is damaged.
        """
        path = self.path / STUDY_NAME
        if not path.exists():
            raise ValueError(
                f"There is no study in {self.path}: it has no {STUDY_NAME}."
            )
        content = _read_json(path, dict)
        if not isinstance(content.get("configuration"), dict):
            raise ValueError(f"{path} must hold a study's `configuration`.")
        return content["configuration"]

    def results(self) -> dict[str, dict[str, Any]]:
        """Everything finished, by the name of its directory, e.g. "run-3".

        Raises:
            ValueError: a result is damaged.
        """
        for path in self.path.glob(f"*run-*/{RESULT_NAME}"):
            if path.parent.name not in self._results:
                self._results[path.parent.name] = _read_json(path, dict)
        return dict(sorted(self._results.items(), key=lambda item: _order(item[0])))

    def best(self) -> int | None:
        """The least steps to the result of all finished trials."""
        steps = [
            result["steps_to_result"]
            for name, result in self.results().items()
            if name.startswith("run-") and result["status"] == "complete"
        ]
        return min(steps, default=None)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Claims a trial for a `with` block; False if it is finished or another's."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        with (folder / ".claim").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            # Another process may have finished it just before.
            if (folder / RESULT_NAME).exists():
                yield False
                return
            for left in folder.rglob(".partial-*"):  # of a process that was killed
                left.unlink()
            yield True

    def save(self, name: str, result: Mapping[str, Any]) -> None:
        """Writes a finished trial; its claim must be held."""
        folder = self.path / name
        (folder / METADATA_NAME).parent.mkdir(exist_ok=True)
        status = result["status"]
        metadata = {
            "status": status,
            "steps_to_result": _CODES.get(status, result["steps_to_result"]),
            "metaparameters": result["metaparameters"],
            "seed": result["seed"],
            "goal_error": result["configuration"]["goal_error"],
        }
        _write_json(folder / METADATA_NAME, metadata)
        _write_json(folder / RESULT_NAME, result)

    def _compare(self, cell: Cell) -> None:
        theirs = self.configuration()
        # As JSON has it: tuples are lists there.
        ours = json.loads(json.dumps(cell.identity()))
        differences = [
            f"`{name}` ({theirs.get(name)!r} there, {ours.get(name)!r} here)"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
        if differences:
            raise ValueError(
                f"`study_dir` {self.path} is the study of another configuration: "
                f"{', '.join(differences)}. Pass another directory."
            )


def run_name(trial: int) -> str:
    """The directory of a trial."""
    return f"run-{trial}"


def rerun_name(trial: int, seed: int) -> str:
    """The directory of a trial's repetition with another seed."""
    return f"rerun-{trial}-seed-{seed}"


def _order(name: str) -> tuple:
    """Sorts run-10 after run-9."""
    kind, *numbers = name.replace("-seed", "").split("-")
    return kind != "run", [int(n) for n in numbers if n.isdecimal()]


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as JSON ({error}): it is half-written or damaged. "
            "Restore it, or remove it to have it made again; nothing was changed."
        ) from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} must hold a JSON {kind.__name__}; it does not.")
    return content


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(finite_or_null(content), indent=1, allow_nan=False)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())  # before its name: a machine may fail, too
    os.replace(partial, path)
