"""What the environment says of Keras and of other workers, against what a user asks.

This file imports neither TensorFlow nor numpy, so that a contradiction is refused at
once.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from tem_studies.workloads.configuration import Configuration


class Role(NamedTuple):
    """What this process is among the workers of a run.

    Attributes:
        is_chief: Whether it writes what only one may write.
        is_alone: Whether it is the only one.
    """

    is_chief: bool
    is_alone: bool


def role() -> Role:
    """This process's role by the environment variable TF_CONFIG.

    One that cannot be read makes it nobody: the plugin says what is wrong with it,
    before it joins anybody.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text) if text.strip() else {}
        if not config.get("cluster"):
            return Role(is_chief=True, is_alone=True)
        cluster, task = config["cluster"], config["task"]
        workers = [*cluster.get("chief", ()), *cluster.get("worker", ())]
        first = "chief" if cluster.get("chief") else "worker"
        is_chief = task["type"] == first and int(task["index"]) == 0
        return Role(is_chief, len(workers) == 1)
    except (ValueError, LookupError, TypeError, AttributeError):
        return Role(is_chief=False, is_alone=False)


def check_keras() -> None:
    """Checks that Keras can be used as it is set up.

    Raises:
        ValueError: it cannot.
    """
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "")
    if legacy.lower() in ("1", "true"):
        raise ValueError(
            f"Keras 3 is needed. Received: TF_USE_LEGACY_KERAS={legacy}. Unset it."
        )
    backend = os.environ.get("KERAS_BACKEND", "") or "tensorflow"
    if backend != "tensorflow":
        raise ValueError(
            "Keras's TensorFlow backend is needed. Received: "
            f"KERAS_BACKEND={backend}. Unset it."
        )


def check_workers(configuration: Configuration) -> None:
    """Checks that virtual workers are not asked for within a worker.

    Raises:
        ValueError: they are.
    """
    if configuration.workers > 1 and os.environ.get("TF_CONFIG", "").strip():
        raise ValueError(
            "`workers` makes virtual workers in one process and cannot be combined "
            "with the environment variable TF_CONFIG, which makes this process one "
            f"of several. Received: workers={configuration.workers}. Leave --workers "
            "out, or unset TF_CONFIG."
        )


def check_no_cluster(what: str) -> None:
    """Checks that this process is not one of several workers.

    Args:
        what: Begins the error: what cannot be one.

    Raises:
        ValueError: TF_CONFIG is set.
    """
    if os.environ.get("TF_CONFIG", "").strip():
        raise ValueError(
            f"{what} in one process and cannot be one of several workers. Unset the "
            "environment variable TF_CONFIG; for more processes pass "
            "--parallel_trials, or start the command several times."
        )
