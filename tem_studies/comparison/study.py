"""Running a comparison: every run of its plan, once, in this process or in several.

Each process asks the plan what can be run now, claims the first run that nobody else
has, and asks again. Any number of processes may be started and killed at any time.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tem_studies.comparison.configuration import Comparison
from tem_studies.comparison.directory import RUNS_NAME, ComparisonDirectory
from tem_studies.comparison.plan import Outcome, Plan, Task
from tem_studies.comparison.quality import quality_of
from tem_studies.comparison.volume import as_counts
from tem_studies.refusal import Refusal
from tem_studies.workloads import data_places, own_parts
from tem_studies.workloads.environment import check_no_cluster
from tem_studies.workloads.experiment import Experiment
from tem_studies.workloads.own_names import is_own
from tem_studies.workloads.processes import run_in_processes
from tem_studies.workloads.replicas import make_strategy
from tem_studies.workloads.results import Stopwatch, read_steps
from tem_studies.workloads.study_files import claim, require_data
from tem_studies.workloads.study_progress import StudyProgress, said_at_start
from tem_studies.workloads.tasks import KINDS
from tem_studies.written_files import write_text

COUNTS_NAME = "counts.txt"  # of the run that is replayed
_WAIT_SECONDS = 0.5  # between two looks at runs that other processes have


def run(comparison: Comparison) -> None:
    """Runs what is not finished yet. Call it before any other use of TensorFlow.

    Raises:
        Refusal: data, directory and settings do not fit
            together, or a budget cannot be met.
    """
    check_no_cluster("A comparison makes each run")
    directory = ComparisonDirectory(comparison.path)
    directory.check(comparison)
    own = [comparison.settings_of(m, 1.0) for m in comparison.methods if is_own(m)]
    runs = [dataclasses.replace(comparison.run, **settings) for settings in own]
    own_parts.check(comparison.run, *runs)
    load(comparison, if_quick=True)
    directory.open(comparison)
    if words := said_at_start(len(directory.results()), "runs"):
        print(words, flush=True)
    if sparsity := comparison.run.target_sparsity:
        print(
            f"each run prunes {100 * sparsity:g} % of the network first, which "
            "--target_sparsity 0 leaves whole; budgets and densities are shares of all "
            "entries, pruned ones among them",
            flush=True,
        )
    if comparison.parallel_trials > 1:
        threads = comparison.run.threads
        run_in_processes(_work, comparison, comparison.parallel_trials, threads)
    else:
        _work(comparison)


def load(comparison: Comparison, if_quick: bool = False) -> Any:
    """Loads the data; with `if_quick` only where that needs no TensorFlow."""
    run, kind = comparison.run, KINDS[comparison.run.kind]
    source = data_places.locate(run)
    if if_quick and source.needs_tensorflow:
        return None
    return kind.load(source)


def outcomes(directory: ComparisonDirectory) -> dict[str, Outcome]:
    """What a plan needs of every finished run."""
    return {name: _outcome(result) for name, result in directory.results().items()}


def _work(comparison: Comparison, keep_on: Callable[[], None] = lambda: None) -> None:
    """Runs until the plan has nothing left to do."""
    strategy = make_strategy(comparison.run)
    data = load(comparison)
    directory = ComparisonDirectory(comparison.path)
    require_data(directory.path, data.digest())
    progress = StudyProgress(len(directory.results()))
    while todo := (plan := Plan(comparison, outcomes(directory))).todo:
        keep_on()
        for task in todo.values():
            with claim(directory.path / RUNS_NAME / task.name) as is_ours:
                if is_ours:
                    line = _run(comparison, task, strategy, data)
                    found = outcomes(directory)
                    total = len(found) + Plan(comparison, found).least_to_run
                    words = progress.words(len(found), total, at_least=True)
                    print(f"{line}; {words}\n", end="", flush=True)
                    break
        else:
            time.sleep(_WAIT_SECONDS)
    if plan.unmet:  # After all that can be run. `--compare DIRECTORY` reports that.
        raise Refusal(" ".join(plan.unmet))


def _run(
    comparison: Comparison,
    task: Task,
    strategy: tf.distribute.Strategy,
    data: Any,
) -> str:
    """Makes one run; returns a line about it."""
    runs = comparison.path / RUNS_NAME
    own: dict[str, Any] = {"logdir": str(runs / task.name)}
    if task.replays:
        counts = as_counts(read_steps(runs / task.replays)["entries"])
        path = runs / task.name / COUNTS_NAME
        write_text(path, "".join(f"{count}\n" for count in counts))
        own["counts"] = str(path)
    configuration = dataclasses.replace(comparison.run, **{**task.settings, **own})
    experiment = Experiment(configuration, strategy, data, Stopwatch(), name=task.name)
    result = experiment.run()
    del experiment
    for file in (runs / task.name / "checkpoints").glob("step-*.weights.h5"):
        file.unlink()  # Hundreds of runs, and nobody goes on from one of them.
    seconds = sum(result["seconds"].values())
    line = f"{task.name}: {result['status']}, {seconds:.0f} s"
    del result
    gc.collect()  # Networks and graphs refer to themselves.
    return line


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
