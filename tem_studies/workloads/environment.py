"""What the environment says of Keras and of other workers, against what a user asks.

This file imports neither TensorFlow nor numpy, so that a contradiction is refused at
once.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from tem_studies.refusal import Refusal, refusing
from tem_studies.workloads.configuration import Configuration
from tem_tf_run import load_part


class Role(NamedTuple):
    """What this process is among the workers of a run.

    Attributes:
        is_chief: Whether it writes what only one may write.
        is_alone: Whether it is the only one.
    """

    is_chief: bool
    is_alone: bool


class Start(NamedTuple):
    """How workers start: arguments of `tem_tf.MultiWorkerMirroredStrategy`.

    Attributes:
        start_seconds: How long each waits for the others.
        refuse_public: Whether public addresses are an error.
    """

    start_seconds: float = load_part("cluster").START_SECONDS
    refuse_public: bool = False


AS_USUAL = Start()


def role(start: Start) -> Role:
    """This process's role by its environment: TF_CONFIG, or what a scheduler wrote.

    Raises:
        Refusal: that is wrong, does not describe this process, or has a public
            address that is refused; `start_seconds` is no time.
    """
    cluster = load_part("cluster")
    with refusing(ValueError):
        cluster.check_start_seconds(start.start_seconds)
    task = _cluster_task()
    if task is None:
        return Role(is_chief=True, is_alone=True)
    # Where but the first's address is known yet, the strategy checks them.
    if start.refuse_public and isinstance(task, cluster.Task):
        with refusing(ValueError):
            cluster.check_public(task, refuse=True)
    return Role(task.is_chief, is_alone=task.size == 1)


def check_keras() -> None:
    """Checks that Keras can be used as it is set up.

    Raises:
        Refusal: it cannot.
    """
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "")
    if legacy.lower() in ("1", "true"):
        raise Refusal(
            f"Keras 3 is needed. Received: TF_USE_LEGACY_KERAS={legacy}. Unset it."
        )
    backend = os.environ.get("KERAS_BACKEND", "") or "tensorflow"
    if backend != "tensorflow":
        raise Refusal(
            "Keras's TensorFlow backend is needed. Received: "
            f"KERAS_BACKEND={backend}. Unset it."
        )


def check_workers(configuration: Configuration) -> None:
    """Checks that virtual workers are not asked for within a worker.

    Raises:
        Refusal: they are.
    """
    if configuration.workers == 1:
        return
    task = _cluster_task()
    if task is not None:
        raise Refusal(
            "`workers` makes virtual workers in one process and cannot be combined "
            f"with {_written(task)}, which makes this process one of several. "
            f"Received: workers={configuration.workers}. Leave --workers out, or "
            f"{_undo(task)}."
        )


def count_workers(virtual: Any) -> int:
    """Number of workers, as far as it can be said of unchecked settings.

    Args:
        virtual: The setting `workers`; anything but a number counts as one.

    Raises:
        Refusal: the environment is wrong.
    """
    task = _cluster_task()
    if task is not None:
        return task.size
    return max(1, virtual) if isinstance(virtual, int) else 1


def check_no_cluster(what: str) -> None:
    """Checks that this process is not one of several workers.

    Args:
        what: Begins the error: what cannot be one.

    Raises:
        Refusal: the environment names a cluster, or is wrong.
    """
    task = _cluster_task()
    if task is not None:
        raise Refusal(
            f"{what} in one process and cannot be one of several workers, as "
            f"{_written(task)} says. Once only, {_undo(task)}; for more processes pass "
            "--parallel_trials, or start the command several times."
        )


def _cluster_task() -> Any:
    """What the environment says of this process, or None.

    Raises:
        Refusal: it cannot be read, or does not describe this process.
    """
    with refusing(ValueError):
        return load_part("cluster").find_task()


def _written(task: Any) -> str:
    """Where a task is from, in words."""
    is_variable = task.source == "TF_CONFIG"
    return f"the environment variable {task.source}" if is_variable else task.source


def _undo(task: Any) -> str:
    """How a process is made to be alone."""
    return "unset TF_CONFIG" if task.source == "TF_CONFIG" else "set TF_CONFIG={}"
