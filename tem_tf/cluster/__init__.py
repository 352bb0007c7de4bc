"""Which process of which cluster this is.

`find_task` reads what the environment says: TF_CONFIG, or what a scheduler has written
(docs/clusters.md). It calls nobody, and needs the standard library alone: like the
launcher, this folder imports its own parts relatively, so that it can be loaded without
its parent (tem_tf_run.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import kubernetes, ranks, slurm
from .public import check_public, public_addresses
from .task import START_SECONDS, Rank, Task, check_start_seconds, split_address
from .tf_config import read_tf_config, task_of_resolver

__all__ = [
    "START_SECONDS",
    "Rank",
    "Task",
    "check_public",
    "check_start_seconds",
    "find_task",
    "public_addresses",
    "split_address",
    "task_of_resolver",
]

# By which variables, all of them set, an environment is known, and who reads it. The
# inner comes first: torchrun and mpirun are started by a scheduler's step or pod.
_ENVIRONMENTS = (
    (("RANK", "WORLD_SIZE"), ranks.torchrun_task),
    (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ranks.open_mpi_task),
    (("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID"), slurm.step_task),
    (("JOB_COMPLETION_INDEX",), kubernetes.indexed_job_task),
)


def find_task(environ: Mapping[str, str] | None = None) -> Task | Rank | None:
    """What this process is, by its environment.

    TF_CONFIG decides where it is set, `{}` meaning that this process is alone; else the
    innermost of torchrun, Open MPI, a SLURM step, and a Kubernetes indexed Job.

    Args:
        environ: The environment's variables. Default: this process's.

    Returns:
        Its task; its rank where only the first process's address is known; None if it
        is alone.

    Raises:
        ValueError: a variable is wrong, or one that is needed is missing.
    """
    environ = os.environ if environ is None else environ
    if environ.get("TF_CONFIG", "").strip():
        return read_tf_config(environ)
    for names, read in _ENVIRONMENTS:
        if all(environ.get(name) for name in names):
            return read(environ)
    return None
