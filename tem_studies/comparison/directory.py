"""A comparison's directory: its files, and what was found so far.

    comparison.json          what all runs share, and what was asked for last
    data.json                a checksum of the data that all runs share
    runs/NAME/result.json    a finished run, as of any run of main.py
    runs/NAME/steps.npz      k_t, bytes and ‖e‖² of every step

This file imports neither TensorFlow nor numpy, so that a wrong directory is refused at
once.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tem_studies.comparison.configuration import (
    COMPARISON_NAME,
    FIXED_SETTINGS,
    PROBE,
    Comparison,
)
from tem_studies.comparison.methods import OF_METHODS
from tem_studies.refusal import Refusal
from tem_studies.workloads.logdir import RESULT_NAME, SCHEMA_PATH
from tem_studies.workloads.study_files import (
    alone_in,
    make_directory,
    read_result,
    read_schema,
    require_same,
    require_same_in_results,
    write_json,
)
from tem_studies.workloads.versions import versions

RUNS_NAME = "runs"

# What the runs of a comparison do not share, of what two comparisons must.
_OF_EACH_RUN = ("seed", *FIXED_SETTINGS, *OF_METHODS)

RUN_SCHEMA = read_schema(SCHEMA_PATH)
_SCHEMA = {
    "type": "object",
    "properties": {"shared": {"type": "object"}},
    "required": ["shared"],
}


class ComparisonDirectory:
    """The directory of a comparison.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results: dict[str, dict[str, Any]] = {}

    def check(self, comparison: Comparison) -> None:
        """Checks that the directory, if there is one, is this comparison's.

        Raises:
            Refusal: it is another's, damaged, or has results and may not.
        """
        path, ours = self.path / COMPARISON_NAME, comparison.identity()
        if path.exists():
            require_same(self.path, read_result(path, _SCHEMA)["shared"], ours)
        elif (self.path / "study.json").exists():
            raise Refusal(
                f"`study_dir` {self.path} is a study of another kind. Pass another "
                "directory."
            )
        shared = {k: v for k, v in ours.items() if k not in _OF_EACH_RUN}
        runs = [r for name, r in self.results().items() if name != PROBE]
        require_same_in_results(self.path, runs, shared)
        if self.results() and not comparison.resumes:
            raise Refusal(
                f"`study_dir` {self.path} has {len(self.results())} finished runs, and "
                "--no_load_cache forbids to go on from them. Pass another directory."
            )

    def open(self, comparison: Comparison) -> None:
        """Makes what is missing, and notes what is asked for now.

        Raises:
            Refusal: the directory is another comparison's, or damaged; it cannot be
                written to.
        """
        make_directory(self.path / RUNS_NAME)
        asked = dataclasses.asdict(comparison)
        content = {
            "shared": comparison.identity(),
            "asked": {k: v for k, v in asked.items() if k != "directory"},
            "versions": versions(),
        }
        with alone_in(self.path):  # What is checked stays so until it is written.
            self.check(dataclasses.replace(comparison, resumes=True))
            write_json(self.path / COMPARISON_NAME, content)

    def results(self) -> dict[str, dict[str, Any]]:
        """Every finished run by its name.

        Raises:
            Refusal: a result is damaged.
        """
        for path in (self.path / RUNS_NAME).glob(f"*/{RESULT_NAME}"):
            if path.parent.name not in self._results:
                self._results[path.parent.name] = read_result(path, RUN_SCHEMA)
        return self._results
