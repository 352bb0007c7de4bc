"""Running a comparison: every run of its plan, once, in this process or in several.

    comparison.json          what all runs share, and what was asked for last
    data.json                a checksum of the data that all runs share
    runs/NAME/result.json    a finished run, as of any run of main.py
    runs/NAME/steps.npz      k_t, bytes and ‖e‖² of every step

Each process asks the plan what can be run now, claims the first run that nobody else
has, and asks again. Any number of processes may be started and killed at any time.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from tem_studies.comparison.configuration import (
    COMPARISON_NAME,
    FIXED_SETTINGS,
    Comparison,
)
from tem_studies.comparison.plan import PROBE, Outcome, Plan, Task
from tem_studies.comparison.quality import quality_of
from tem_studies.comparison.volume import as_counts
from tem_studies.workloads.experiment import Experiment
from tem_studies.workloads.processes import run_in_processes
from tem_studies.workloads.replicas import make_strategy
from tem_studies.workloads.results import RESULT_NAME, Stopwatch, read_steps, versions
from tem_studies.workloads.study_files import (
    alone_in,
    claim,
    make_directory,
    read_json,
    read_result,
    require_data,
    require_same,
    require_same_in_results,
    write_json,
)
from tem_studies.workloads.tasks import KINDS

RUNS_NAME = "runs"
COUNTS_NAME = "counts.txt"  # of the run that is replayed
_WAIT_SECONDS = 0.5  # between two looks at runs that other processes have

# What the runs of a comparison do not share, of what two comparisons must.
_OF_EACH_RUN = ("seed", *FIXED_SETTINGS)

# What is read of a result.
_RESULT = (
    "communication",
    "configuration",
    "history",
    "pruning",
    "replicas",
    "seed",
    "status",
    "steps",
    "test",
)


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
            ValueError: it is another's, damaged, or has results and may not.
        """
        path, ours = self.path / COMPARISON_NAME, comparison.identity()
        if path.exists():
            require_same(self.path, read_json(path, dict).get("shared", {}), ours)
        elif (self.path / "study.json").exists():
            raise ValueError(
                f"`study_dir` {self.path} is a study of another kind. Pass another "
                "directory."
            )
        shared = {k: v for k, v in ours.items() if k not in _OF_EACH_RUN}
        runs = [r for name, r in self.results().items() if name != PROBE]
        require_same_in_results(self.path, runs, shared)
        if self.results() and not comparison.resumes:
            raise ValueError(
                f"`study_dir` {self.path} has {len(self.results())} finished runs, and "
                "--no_load_cache forbids to go on from them. Pass another directory."
            )

    def open(self, comparison: Comparison) -> None:
        """Makes what is missing, and notes what is asked for now.

        Raises:
            ValueError: the directory is another comparison's, or damaged.
            OSError: it cannot be written to.
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
            ValueError: a result is damaged.
        """
        for path in (self.path / RUNS_NAME).glob(f"*/{RESULT_NAME}"):
            if path.parent.name not in self._results:
                self._results[path.parent.name] = read_result(path, _RESULT)
        return self._results

    def outcomes(self) -> dict[str, Outcome]:
        """What a plan needs of them."""
        return {name: _outcome(result) for name, result in self.results().items()}


def run(comparison: Comparison) -> None:
    """Runs what is not finished yet. Call it before any other use of TensorFlow.

    Raises:
        ValueError, OSError, ImportError: data, directory and settings do not fit
            together, or a budget cannot be met.
    """
    if os.environ.get("TF_CONFIG", "").strip():
        raise ValueError(
            "A comparison makes each run in one process and cannot be one of several "
            "workers. Unset the environment variable TF_CONFIG; for more processes "
            "pass --parallel_trials, or start the command several times."
        )
    directory = ComparisonDirectory(comparison.path)
    directory.check(comparison)
    load(comparison, if_quick=True)
    directory.open(comparison)
    if comparison.parallel_trials > 1:
        threads = comparison.run.threads
        run_in_processes(_work, comparison, comparison.parallel_trials, threads)
    else:
        _work(comparison)


def load(comparison: Comparison, if_quick: bool = False) -> Any:
    """Loads the data; with `if_quick` only where that needs no TensorFlow."""
    run, kind = comparison.run, KINDS[comparison.run.kind]
    source = kind.locate(run.datasource, run.path_data)
    if if_quick and source.needs_tensorflow:
        return None
    return kind.load(source)


def _work(comparison: Comparison, keep_on: Callable[[], None] = lambda: None) -> None:
    """Runs until the plan has nothing left to do."""
    strategy = make_strategy(comparison.run)
    data = load(comparison)
    directory = ComparisonDirectory(comparison.path)
    require_data(directory.path, data.digest())
    while todo := (plan := Plan(comparison, directory.outcomes())).todo:
        keep_on()
        for task in todo.values():
            with claim(directory.path / RUNS_NAME / task.name) as is_ours:
                if is_ours:
                    _run(comparison, task, strategy, data, len(todo))
                    break
        else:
            time.sleep(_WAIT_SECONDS)
    if plan.unmet:  # After all that can be run. `--compare DIRECTORY` reports that.
        raise ValueError(" ".join(plan.unmet))


def _run(
    comparison: Comparison,
    task: Task,
    strategy: tf.distribute.Strategy,
    data: Any,
    waiting: int,
) -> None:
    runs = comparison.path / RUNS_NAME
    own: dict[str, Any] = {"logdir": str(runs / task.name)}
    if task.replays:
        counts = as_counts(read_steps(runs / task.replays)["entries"])
        path = runs / task.name / COUNTS_NAME
        path.write_text("".join(f"{count}\n" for count in counts))
        own["counts"] = str(path)
    configuration = dataclasses.replace(comparison.run, **{**task.settings, **own})
    result = Experiment(configuration, strategy, data, Stopwatch()).run()
    for file in (runs / task.name / "checkpoints").glob("step-*.weights.h5"):
        file.unlink()  # Hundreds of runs, and nobody goes on from one of them.
    seconds = sum(result["seconds"].values())
    print(
        f"{task.name}: {result['status']}, {seconds:.0f} s; {waiting - 1} more can be "
        "started",
        flush=True,
    )
    del result
    gc.collect()  # Networks and graphs refer to themselves.


def _outcome(result: dict[str, Any]) -> Outcome:
    communication = result["communication"]
    sent = communication["payload_bytes"] / result["replicas"] if communication else 0.0
    gain = None
    if result["status"] != "diverged":
        quality = quality_of(result)
        value = quality.validation(result)
        gain = None if value is None else quality.gain(value)
    size = sum(count["total"] for count in result["pruning"].values())
    return Outcome(sent, gain, size)
