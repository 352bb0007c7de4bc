"""A study directory: its files, who runs which trial, and what was found so far.

    study.json                      what defines the trials; never changed
    data.json                       a checksum of the data that the trials share
    metaparameters.json             the points, one per trial
    run-R/result.json               trial R; with it the trial is finished
    run-R/batch-science/metadata.json   steps to the result, as the DPS authors have it
    rerun-R-seed-S/...              the winner R again, with seed S; or, with its own
                                    seed, a trial that had ended early, to its end
    trials.jsonl                    finished trials that were packed (packed_trials.py)

Files appear whole or not at all, and a process claims a trial before it runs it: see
`tem_studies.workloads.study_files`. This file imports neither TensorFlow nor numpy, so
that a wrong directory is refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tem_studies import written_files
from tem_studies.data_parallelism import packed_trials
from tem_studies.data_parallelism.configuration import Cell, Study
from tem_studies.data_parallelism.metaparameters import Point, metaparameters
from tem_studies.refusal import Refusal, writing
from tem_studies.workloads.logdir import RESULT_NAME
from tem_studies.workloads.study_files import (
    DATA_NAME,
    alone_in,
    claim,
    make_directory,
    read_result,
    read_schema,
    read_text,
    require_same,
    require_same_in_results,
    write_json,
)
from tem_studies.workloads.versions import versions

STUDY_NAME, POINTS_NAME = "study.json", "metaparameters.json"
METADATA_NAME = "batch-science/metadata.json"

# What the authors' files hold in the place of the steps to the result.
_CODES = {"incomplete": -1, "infeasible": -2}

# What is read of a configuration, beside the comparison with another.
_NEEDED = {
    "batch_size": {"type": "integer", "minimum": 1},
    "check_interval": {"type": "integer", "minimum": 1},
    "check_interval_arrival": {"type": "integer", "minimum": 1},
    "goal_error": {"type": "number"},
    "mparams_kind": {"type": "array", "items": {"type": "string"}},
    "target_sparsity": {"type": "number", "minimum": 0, "maximum": 1},
    "train_iterations": {"type": "integer", "minimum": 1},
}
_STUDY = {
    "type": "object",
    "properties": {
        "configuration": {
            "type": "object",
            "properties": _NEEDED,
            "required": sorted(_NEEDED),
        }
    },
    "required": ["configuration"],
}

TRIAL_SCHEMA = read_schema(Path(__file__).with_name("trial.schema.json"))
_POINTS = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": {"type": "number"},
    },
}


class StudyDirectory:
    """The directory of one cell.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results: packed_trials.Results = {}
        self._packed: packed_trials.Results = {}
        self._packed_mark: tuple[int, int, int] | None = None

    def check(self, cell: Cell, resumes: bool) -> None:
        """Checks that the directory, if there is one, is this cell's. Changes nothing.

        Raises:
            Refusal: it is another's, damaged, or has results and may not.
        """
        if not (self.path / STUDY_NAME).exists():
            others = sorted(self.path.glob(f"*/{STUDY_NAME}"))
            if others:
                raise Refusal(
                    f"`study_dir` {self.path} holds studies of several cells. Pass one "
                    f"of them, as {others[0].parent}."
                )
        self._compare(cell)
        self.points()
        if self.results() and not resumes:
            raise Refusal(
                f"`study_dir` {self.path} has {len(self.results())} finished trials, "
                "and --no_load_cache forbids to go on from them. Pass another "
                "directory."
            )

    def open(self, cell: Cell, nruns: int) -> None:
        """Makes what is missing.

        Raises:
            Refusal: the directory is another cell's, or damaged; it cannot be written
                to.
        """
        make_directory(self.path)
        with alone_in(self.path):  # What is checked stays so until it is written.
            self._compare(cell)
            if not (self.path / STUDY_NAME).exists():
                content = {"configuration": cell.identity(), "versions": versions()}
                write_json(self.path / STUDY_NAME, content)
            known = self.points()
            points = metaparameters(cell.mparams_kind, max(nruns, len(known)))
            if known != points[: len(known)]:
                raise Refusal(
                    f"{self.path / POINTS_NAME} holds other points than this version "
                    "draws. Pass another `study_dir`."
                )
            if len(known) < nruns:
                write_json(self.path / POINTS_NAME, points)

    def points(self) -> list[Point]:
        """The metaparameters of the trials so far."""
        path = self.path / POINTS_NAME
        return read_result(path, _POINTS) if path.exists() else []

    def configuration(self) -> dict[str, Any]:
        """What defines the trials.

        Raises:
            Refusal: there is no study here, or it is damaged.
        """
        path = self.path / STUDY_NAME
        if not path.exists():
            raise Refusal(f"There is no study in {self.path}: it has no {STUDY_NAME}.")
        return read_result(path, _STUDY)["configuration"]

    def results(self) -> dict[str, dict[str, Any]]:
        """Everything finished, by the name of its directory, e.g. "run-3".

        Raises:
            Refusal: a result is damaged.
        """
        # Files first: what is packed meanwhile is in the packed file then.
        for name, path in self._result_files().items():
            if name not in self._results:
                try:
                    self._results[name] = read_result(path, TRIAL_SCHEMA)
                except Refusal:
                    if path.exists():
                        raise
        self._read_packed()
        return dict(sorted(self._results.items(), key=lambda item: _order(item[0])))

    def finished(self) -> set[str]:
        """Names of everything finished.

        Raises:
            Refusal: the packed file is damaged.
        """
        return self._result_files().keys() | self._read_packed().keys()

    def trials(self) -> dict[str, dict[str, Any]]:
        """The finished trials, by "run-R", without reruns with other seeds.

        One that ended early and was run again to its end is what that found.

        Raises:
            Refusal: a result is damaged.
        """
        results = self.results()
        return {
            name: results.get(rerun_name(result["trial"], result["seed"]), result)
            for name, result in results.items()
            if name.startswith("run-")
        }

    def best(self) -> int | None:
        """The least steps to the result of all finished trials."""
        steps = [
            result["steps_to_result"]
            for result in self.trials().values()
            if result["status"] == "complete"
        ]
        return min(steps, default=None)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Claims a trial for a `with` block; False if it is finished or another's."""
        with claim(self.path / name) as is_ours:
            # Its folder may have been packed just before.
            yield is_ours and name not in self._read_packed()

    def save(self, name: str, result: Mapping[str, Any]) -> None:
        """Writes a finished trial; its claim must be held."""
        folder = self.path / name
        written_files.make_directory((folder / METADATA_NAME).parent)
        status = result["status"]
        metadata = {
            "status": status,
            "steps_to_result": _CODES.get(status, result["steps_to_result"]),
            "metaparameters": result["metaparameters"],
            "seed": result["seed"],
            "goal_error": result["configuration"].get("goal_error"),
        }
        write_json(folder / METADATA_NAME, metadata)
        write_json(folder / RESULT_NAME, result)

    def pack(self) -> int:
        """Puts all that is finished into one file; returns how many trials.

        Raises:
            Refusal: a result is damaged; a file cannot be written or removed.
        """
        with alone_in(self.path):
            packed = self._read_packed()
            for name, path in self._result_files().items():
                if name in packed and read_result(path, TRIAL_SCHEMA) != packed[name]:
                    raise Refusal(
                        f"{path} is another result than the one of that name in "
                        f"{packed_trials.PACKED_NAME}. Remove the wrong one; nothing "
                        "was changed."
                    )
            results = self.results()
            if results:
                packed_trials.write(self.path, results)
            for name in results:
                _remove(self.path / name)
        return len(results)

    def export(self, target: Path) -> int:
        """Copies all that is finished, each trial to files; returns how many.

        Args:
            target: The directory that receives them.

        Raises:
            Refusal: a result is damaged; a file cannot be written.
        """
        make_directory(target, "logdir")
        for name in (STUDY_NAME, POINTS_NAME, DATA_NAME):
            if (path := self.path / name).exists():
                written_files.write_text(target / name, read_text(path))
        directory = StudyDirectory(target)
        results = self.results()
        for name, result in results.items():
            directory.save(name, result)
        return len(results)

    def _result_files(self) -> dict[str, Path]:
        """The results in files of their own, by name."""
        files = self.path.glob(f"*run-*/{RESULT_NAME}")
        names = ((path.parent.name, path) for path in files)
        return {
            name: path
            for name, path in names
            if re.match(packed_trials.TRIAL_NAME, name)
        }

    def _read_packed(self) -> packed_trials.Results:
        """What is packed; it is read again once another process has packed more."""
        path = self.path / packed_trials.PACKED_NAME
        state = path.stat() if path.exists() else None
        mark = state and (state.st_ino, state.st_mtime_ns, state.st_size)
        if mark != self._packed_mark:
            self._packed = packed_trials.read(self.path, TRIAL_SCHEMA)
            self._packed_mark = mark
            self._results.update(self._packed)
        return self._packed

    def _compare(self, cell: Cell) -> None:
        ours = cell.identity()
        if (self.path / STUDY_NAME).exists():
            require_same(self.path, self.configuration(), ours)
        results = self.results().items()
        trials = [r for name, r in results if name.startswith("run-")]
        require_same_in_results(self.path, trials, ours)  # Reruns have other seeds.


def check_directories(study: Study) -> None:
    """Checks that all directories of a study are its own. Changes nothing.

    Raises:
        Refusal: one is another's, damaged, or has results and may not.
    """
    for cell in study.cells:
        StudyDirectory(study.path_of(cell)).check(cell, study.resumes)
    if len(study.cells) > 1 and (study.path / STUDY_NAME).exists():
        raise Refusal(
            f"`study_dir` {study.path} is the study of one cell, and the command has "
            f"{len(study.cells)}. Pass another directory."
        )


def studies_in(path: Path) -> list[Path]:
    """The study directories at or below a path, sorted.

    Raises:
        Refusal: there is none.
    """
    found = sorted(p.parent for p in path.glob(f"**/{STUDY_NAME}"))
    if not found:
        raise Refusal(f"There is no study in {path}: no {STUDY_NAME} is below it.")
    return found


def run_name(trial: int) -> str:
    """The directory of a trial."""
    return f"run-{trial}"


def rerun_name(trial: int, seed: int) -> str:
    """The directory of a trial's repetition, with another seed or to its end."""
    return f"rerun-{trial}-seed-{seed}"


def _remove(folder: Path) -> None:
    """Removes a trial's files, and the folder where nothing else is in it.

    Raises:
        Refusal: a file cannot be removed.
    """
    if not folder.exists():
        return
    with writing(folder):
        # The result comes last: until then the trial is finished here, too.
        for name in (METADATA_NAME, ".claim", RESULT_NAME):
            (folder / name).unlink(missing_ok=True)
        for place in ((folder / METADATA_NAME).parent, folder):
            with suppress(OSError):  # Something else is in it.
                place.rmdir()


def _order(name: str) -> tuple:
    """Sorts run-10 after run-9."""
    kind, *numbers = name.replace("-seed", "").split("-")
    return kind != "run", [int(n) for n in numbers if n.isdecimal()]
