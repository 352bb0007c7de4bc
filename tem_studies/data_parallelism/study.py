"""Running a study: every trial of every cell, once, in this process or in several.

Each process goes through the trials in their order and runs those that are neither
finished nor claimed by another, so any number of processes, also on other machines,
may be started on one directory, at any time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tem_studies.data_parallelism.configuration import Cell, Study
from tem_studies.data_parallelism.directory import (
    StudyDirectory,
    check_directories,
    rerun_name,
    run_name,
)
from tem_studies.data_parallelism.fit import LEAST_COMPLETE
from tem_studies.data_parallelism.metaparameters import metaparameters
from tem_studies.data_parallelism.trials import Splits, Workbench
from tem_studies.workloads import data_places, data_sources, own_parts
from tem_studies.workloads.batches import EpochOrder
from tem_studies.workloads.data_sources import Data
from tem_studies.workloads.environment import check_no_cluster
from tem_studies.workloads.processes import run_in_processes
from tem_studies.workloads.replicas import make_strategy
from tem_studies.workloads.setting_warnings import warnings_of
from tem_studies.workloads.study_files import require_data
from tem_studies.workloads.study_progress import StudyProgress, said_at_start


def run(study: Study) -> bool:
    """Runs what is not finished yet. Call it before any other use of TensorFlow.

    Returns:
        Whether all trials are finished; False if other processes still run some.

    Raises:
        Refusal: data, directory and configuration do not fit
            together. Nothing has been written then.
    """
    check_no_cluster("A study runs each trial")
    check_directories(study)
    own_parts.check(study.cells[0].run)
    for line in warnings_of(study.cells[0].run):
        print(line, flush=True)
    if words := said_at_start(_count(study)[0], "trials"):
        print(words, flush=True)
    if study.parallel_trials > 1:
        _run_in_processes(study)
    else:
        _work(study)
    directories = [(cell, StudyDirectory(study.path_of(cell))) for cell in study.cells]
    return all(not _next_tasks(study, *pair) for pair in directories)


def _count(study: Study) -> tuple[int, int]:
    """Trials that are finished, and all that are wanted, reruns apart.

    Which trial is run again with other seeds shows once all others are finished.
    """
    # Names alone: there may be thousands, after each of which this is asked.
    done = [len(StudyDirectory(study.path_of(cell)).finished()) for cell in study.cells]
    return sum(done), sum(max(count, study.nruns) for count in done)


def load(study: Study) -> Data:
    """Loads the data and checks that every cell's batch fits into it."""
    run = study.cells[0].run
    data = data_sources.load(data_places.locate(run))
    for cell in study.cells:
        EpochOrder(data.epochs(0), len(data.train), cell.run.batch_size)
    return data


def _work(study: Study, keep_on: Callable[[], None] = lambda: None) -> None:
    """Goes through all cells."""
    strategy = make_strategy(study.cells[0].run)
    data = load(study)
    splits, checksum = Splits.of(data), data.digest()
    for cell in study.cells:
        directory = StudyDirectory(study.path_of(cell))
        directory.open(cell, study.nruns)
        require_data(directory.path, checksum)
    progress = StudyProgress(_count(study)[0])
    for cell in study.cells:
        _work_on_cell(study, cell, splits, strategy, keep_on, progress)


def _work_on_cell(
    study: Study,
    cell: Cell,
    splits: Splits,
    strategy: tf.distribute.Strategy,
    keep_on: Callable[[], None],
    progress: StudyProgress,
) -> None:
    directory = StudyDirectory(study.path_of(cell))
    several = len(study.cells) > 1
    bench: Workbench | None = None
    while tasks := _next_tasks(study, cell, directory):
        for task in tasks:
            with directory.claim(task.name) as is_ours:
                if not is_ours:
                    continue
                if bench is None:  # Not made where there is nothing to do.
                    bench = Workbench(cell, splits, strategy, keep_on)
                # Of any trial: the winner may be one of an earlier, larger `nruns`.
                point = metaparameters(cell.mparams_kind, task.trial + 1)[task.trial]
                best = directory.best if task.may_stop else lambda: None
                name = f"{cell.name} {task.name}" if several else task.name
                result = bench.run(point, task.seed, best, name)
                result["trial"] = task.trial
                directory.save(task.name, result)
            line = _line(cell, task.name, result, directory.best())
            more = progress.words(*_count(study), at_least=study.rerun_seeds > 0)
            print(f"{line}; {more}\n", end="", flush=True)
        if any(task.name not in directory.results() for task in tasks):
            return  # Another process runs them, and what comes after them.


@dataclasses.dataclass(frozen=True)
class _Task:
    """A trial to run: its directory, metaparameters, seed, and whether it may stop."""

    name: str
    trial: int
    seed: int
    may_stop: bool


def _next_tasks(study: Study, cell: Cell, directory: StudyDirectory) -> list[_Task]:
    """What is to be run next and is not finished: trials of one kind, or none.

    First every trial. Then, where most ended early, some of these to their end: K* of
    fewer than three complete trials is censored, and should not be so by the stop
    alone. Then the winner with other seeds.
    """
    seed = cell.run.seed
    trials = [_Task(run_name(trial), trial, seed, True) for trial in range(study.nruns)]
    results = directory.results()
    if unfinished := [task for task in trials if task.name not in results]:
        return unfinished
    known = list(directory.trials().values())
    missing = LEAST_COMPLETE - sum(r["status"] == "complete" for r in known)
    stopped = [r for r in known if r["stopped_beyond"] is not None]
    if missing > 0 and stopped:
        stopped.sort(key=_least_error)
        return [
            _Task(rerun_name(r["trial"], seed), r["trial"], seed, False)
            for r in stopped[:missing]
        ]
    winner = winning_trial(directory)
    if winner is None:
        return []
    reruns = [
        _Task(rerun_name(winner, other), winner, other, False)
        for other in range(seed + 1, seed + 1 + study.rerun_seeds)
    ]
    return [task for task in reruns if task.name not in results]


def _least_error(result: dict) -> float:
    """The least validation error that a trial came to."""
    return min(1 - check["validation_accuracy"] for check in result["history"])


def winning_trial(directory: StudyDirectory) -> int | None:
    """The first trial with the least steps to the result."""
    best = directory.best()
    for result in directory.trials().values():
        if best == result["steps_to_result"] is not None:
            return result["trial"]
    return None


def _line(cell: Cell, name: str, result: dict, best: int | None) -> str:
    point = ", ".join(f"{k} {v:.4g}" for k, v in result["metaparameters"].items())
    seconds = sum(result["seconds"].values())
    return (
        f"batch {cell.run.batch_size}, sparsity {cell.run.target_sparsity:g}, {name}"
        f"{f' ({point})' if point else ''}: {result['status']} after "
        f"{result['steps']} steps, {seconds:.1f} s; best so far: "
        f"{'none came to the goal' if best is None else f'{best} steps'}"
    )


def _run_in_processes(study: Study) -> None:
    """Starts the processes and waits; the first failure ends them all.

    Data and directories are looked at here first, so that what is wrong is said once.
    """
    run = study.cells[0].run
    if not data_places.locate(run).needs_tensorflow:
        load(study)
    run_in_processes(_work, study, study.parallel_trials, run.threads)
