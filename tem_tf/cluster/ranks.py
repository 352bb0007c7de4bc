"""torchrun and Open MPI: processes that know their rank, and no addresses but one.

On one node all is known: every worker listens on loopback. Over several nodes the host
of rank 0 must be known, MASTER_ADDR, and the others are learnt there (`Rank`).
"""

from __future__ import annotations

from collections.abc import Mapping

from .task import Rank, Task
from .variables import first_port, number, text

TORCHRUN = "torchrun's environment"
OPEN_MPI = "Open MPI's environment"
# Ports of processes on several nodes follow one another, and begin anew after so many:
# our choice, more than a node has.
_DISTINCT_PORTS = 256


def torchrun_task(environ: Mapping[str, str]) -> Task | Rank | None:
    """The task of a process that `torchrun` has started, or whoever writes the same.

    Its own store may listen on MASTER_PORT, which is therefore left alone: our ports
    only follow from it.

    Args:
        environ: The environment's variables, with RANK and WORLD_SIZE.

    Returns:
        None if it is the only one.

    Raises:
        ValueError: a variable is missing or wrong.
    """
    size = number(environ, "WORLD_SIZE", TORCHRUN, 1)
    if size == 1:
        return None
    key = text(environ, "MASTER_PORT", TORCHRUN)
    return _task(environ, size, ("RANK", "LOCAL_WORLD_SIZE"), key, TORCHRUN)


def open_mpi_task(environ: Mapping[str, str]) -> Task | Rank | None:
    """The task of a process that Open MPI's `mpirun` has started.

    Args:
        environ: The environment's variables, with OMPI_COMM_WORLD_RANK and
            OMPI_COMM_WORLD_SIZE.

    Returns:
        None if it is the only one.

    Raises:
        ValueError: a variable is missing or wrong; the processes are on several nodes
            and MASTER_ADDR is not set.
    """
    size = number(environ, "OMPI_COMM_WORLD_SIZE", OPEN_MPI, 1)
    if size == 1:
        return None
    key = text(environ, "PMIX_NAMESPACE", OPEN_MPI)  # The same in all of a job.
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
    return _task(environ, size, names, key, OPEN_MPI)


def _task(
    environ: Mapping[str, str],
    size: int,
    names: tuple[str, str],
    key: str,
    source: str,
) -> Task | Rank:
    """Of the variables that hold the rank, and how many processes the node has."""
    rank, local_size = names
    index = number(environ, rank, source, 0, size - 1)
    # Who writes the variables by hand leaves the number of the node's out.
    on_node = environ.get(local_size) and number(environ, local_size, source, 1, size)
    if on_node == size:
        port = first_port(environ, key, 0, size)
        workers = tuple(f"127.0.0.1:{port + i}" for i in range(size))
        return Task({"worker": workers}, "worker", index, source)
    advice = (
        "The processes are on several nodes, and only the host of rank 0 can tell "
        "each where the others are. Give its name to all, as by `mpirun -x "
        "MASTER_ADDR=HOST`."
    )
    host = text(environ, "MASTER_ADDR", source, advice)
    host = f"[{host}]" if ":" in host else host
    port = first_port(environ, key, 0, _DISTINCT_PORTS)
    own = port + index % _DISTINCT_PORTS
    return Rank(index, size, f"{host}:{port}", own, source)
