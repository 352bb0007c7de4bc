"""The cluster as TensorFlow is told of it: TF_CONFIG, and a resolver."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .task import FORM, JOBS, Task


def read_tf_config(environ: Mapping[str, str]) -> Task | None:
    """Reads and checks the environment variable TF_CONFIG.

    Args:
        environ: The environment's variables.

    Returns:
        This process's task; None if the variable is not set or names no cluster.

    Raises:
        ValueError: it is not JSON or does not describe this task.
    """
    text = environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"The environment variable `TF_CONFIG` must be JSON: {error}. "
            f"Received: TF_CONFIG={text!r}. {FORM}"
        ) from None
    if not isinstance(config, dict):
        raise ValueError(
            "The environment variable `TF_CONFIG` must hold an object. "
            f"Received: TF_CONFIG={text!r}. {FORM}"
        )
    cluster: Any = config.get("cluster", {})
    task: Any = config.get("task", {})
    if not cluster and ("cluster" in config or not {*config} & {"task", *JOBS}):
        return None
    if not cluster:
        raise ValueError(
            "The environment variable `TF_CONFIG` must have a `cluster` beside its "
            f"`task`. Received: TF_CONFIG={text!r}. {FORM}"
        )
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise ValueError(
            "`cluster` and `task` in TF_CONFIG must be objects. "
            f"Received: TF_CONFIG={text!r}. {FORM}"
        )
    jobs = _tuples(cluster, "TF_CONFIG")
    return Task(jobs, task.get("type", ""), _index(task.get("index")))


def task_of_resolver(resolver: Any) -> Task | None:
    """The task that a `tf.distribute.cluster_resolver.ClusterResolver` gives us.

    Returns:
        None if its cluster is empty: this process is alone.

    Raises:
        ValueError: as for TF_CONFIG.
    """
    cluster = resolver.cluster_spec().as_dict()
    if not cluster:
        return None
    source = "the cluster resolver"
    jobs = _tuples(cluster, source)
    return Task(jobs, resolver.task_type, resolver.task_id, source)


def _index(value: Any) -> Any:
    """Some launchers write "0"; what is wrong stays as it is."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _tuples(cluster: Mapping[str, Any], source: str) -> dict[str, tuple[str, ...]]:
    for job, addresses in cluster.items():
        if not isinstance(addresses, list) or not addresses:
            raise ValueError(
                f"A job in {source} must have a list of addresses. "
                f"Received: {job}={addresses!r}. {FORM}"
            )
    return {job: tuple(map(str, addresses)) for job, addresses in cluster.items()}
