"""What is said of a run: at its start, and in result.json, whole or interrupted."""

from __future__ import annotations

from typing import Any

from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.evaluation import count_of
from tem_studies.workloads.live_entries import with_live
from tem_studies.workloads.results import pruning_record
from tem_studies.workloads.run_state import RunState
from tem_studies.workloads.task import Task
from tem_studies.workloads.training import Trainer
from tem_studies.workloads.versions import versions


def describe(
    configuration: Configuration, task: Task, place: str, parameters: int, replicas: int
) -> str:
    """What is going to be trained on what, in words.

    Args:
        configuration: The run's settings.
        task: Data and network.
        place: Where the data came from.
        parameters: Of the network.
        replicas: Their number.
    """
    return (
        f"{configuration.arch} ({parameters:,} parameters) on "
        f"{configuration.datasource} ({place}): "
        f"{task.train.examples:,} {task.unit} to train, "
        f"{task.validation.examples:,} to validate, {count_of(task.test):,} to "
        f"test; {task.steps_per_epoch:,} steps an epoch; "
        f"{replicas} worker{'s' if replicas > 1 else ''}"
    )


def make_result(
    configuration: Configuration,
    replicas: int,
    place: str,
    task: Task,
    trainer: Trainer,
    state: RunState,
    status: str | None,
    test: dict[str, float] | None,
) -> dict[str, Any]:
    """What result.json holds; result.schema.json describes it.

    Args:
        configuration: The run's settings.
        replicas: Their number.
        place: Where the data came from.
        task: Data and network.
        trainer: Has trained.
        state: What it has come to; pruned at least.
        status: How it ended.
        test: Its score on the test split, or None.
    """
    pruning = pruning_record(trainer.model, state.masks or [])
    return {
        "status": status,
        "steps": trainer.steps,
        "configuration": configuration.as_dict(),
        "seed": configuration.seed,
        "replicas": replicas,
        "data": {
            "place": place,
            "train": task.train.examples,
            "validation": task.validation.examples,
            "test": count_of(task.test),
        },
        "versions": versions(),
        "gradients": trainer.optimizer.path,
        "history": state.history,
        "test": test,
        "communication": with_live(state.communication, pruning),
        "pruning": pruning,
        "seconds": state.seconds,
    }
