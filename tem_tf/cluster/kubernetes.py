"""Kubernetes: the pods of an indexed Job, or of a JobSet, are the workers of a cluster.

A pod's host name is PREFIX-INDEX, and PREFIX-INDEX.SERVICE is known to all pods through
a headless service. Kubernetes tells a pod neither the service nor how many there are:
the manifest sets TEM_TF_SERVICE and TEM_TF_WORKERS (launch/kubernetes.yaml).
"""

from __future__ import annotations

from collections.abc import Mapping

from .task import Task
from .variables import PORT, number, text

SOURCE = "the indexed Job's environment"
_PORT = 2222  # TensorFlow's usual one; every pod has an address of its own.
_ADVICE = (
    "Set it in the manifest (launch/kubernetes.yaml). Pods that train apart from one "
    "another set TEM_TF_WORKERS=1."
)


def indexed_job_task(environ: Mapping[str, str]) -> Task | None:
    """The task of a pod with a completion index.

    Args:
        environ: The environment's variables, with JOB_COMPLETION_INDEX. In a JobSet of
            several like Jobs, TEM_TF_JOBS says how many; the pods of its Jobs are
            numbered one Job after the other.

    Returns:
        None if TEM_TF_WORKERS is 1.

    Raises:
        ValueError: a variable is missing or wrong, or the host name is not a Job's.
    """
    text(environ, "TEM_TF_WORKERS", SOURCE, _ADVICE)
    size = number(environ, "TEM_TF_WORKERS", SOURCE, 1, 100_000)
    if size == 1:
        return None
    service = text(environ, "TEM_TF_SERVICE", SOURCE, _ADVICE)
    port = number({PORT: str(_PORT), **environ}, PORT, "the environment", 1, 2**16 - 1)
    jobs = number({"TEM_TF_JOBS": "1", **environ}, "TEM_TF_JOBS", SOURCE, 1, size)
    pods, rest = divmod(size, jobs)
    if rest:
        raise ValueError(
            f"`TEM_TF_WORKERS` in {SOURCE} must be a multiple of TEM_TF_JOBS. "
            f"Received: TEM_TF_WORKERS={size}, TEM_TF_JOBS={jobs}"
        )
    index = number(environ, "JOB_COMPLETION_INDEX", SOURCE, 0, pods - 1)
    prefix, own = _split(text(environ, "HOSTNAME", SOURCE))
    is_ours = own == str(index)
    job = 0
    names = [f"{prefix}-{pod}" for pod in range(pods)]
    if jobs > 1 and is_ours:
        prefix, own = _split(prefix)
        is_ours = own.isdecimal() and int(own) < jobs
        job = int(own) if is_ours else 0
        names = [f"{prefix}-{i}-{pod}" for i in range(jobs) for pod in range(pods)]
    if not (prefix and is_ours):
        raise ValueError(
            f"`HOSTNAME` in {SOURCE} must end in the pod's index, in a JobSet of "
            "several Jobs in the Job's and the pod's. Received: "
            f"HOSTNAME={environ['HOSTNAME']!r}, JOB_COMPLETION_INDEX={index}, "
            f"TEM_TF_JOBS={jobs}. Leave `hostname` out of the pod's template."
        )
    workers = tuple(f"{name}.{service}:{port}" for name in names)
    return Task({"worker": workers}, "worker", job * pods + index, SOURCE)


def _split(host: str) -> tuple[str, str]:
    """What is before the last dash of a host's own name, and after it."""
    prefix, _, last = host.partition(".")[0].rpartition("-")
    return prefix, last
