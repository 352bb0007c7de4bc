"""SLURM: a step's tasks are the workers of a cluster.

Workers are numbered by node and, on a node, by local number, so that tasks may be dealt
out to the nodes in any order. No GPU and no command is asked. A batch script is one
process, whatever its job asks for: only `srun` makes tasks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from .task import Task
from .variables import first_port, number, text

SOURCE = "SLURM's environment"
_MOST_NODES = 100_000  # Our choice: more than any cluster has, less than hurts.
_DISTINCT_PORTS = 16  # Our choice: no more than any job takes.
_COUNT = re.compile(r"(\d{1,9})(?:\(x(\d{1,9})\))?", re.ASCII)
_NAME = re.compile(r"(?:[\w.-]+|\[[\d,-]+\])+", re.ASCII)
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


def step_task(environ: Mapping[str, str]) -> Task | None:
    """The task of a process that `srun` has started.

    Args:
        environ: The environment's variables, with SLURM_JOB_ID, SLURM_STEP_ID and
            SLURM_PROCID.

    Returns:
        None if the step has one task.

    Raises:
        ValueError: variables are missing or contradict one another.
    """
    if number(environ, "SLURM_STEP_NUM_TASKS", SOURCE, 1) == 1:
        return None
    nodes = expand_nodes(text(environ, "SLURM_STEP_NODELIST", SOURCE))
    counts = expand_counts(text(environ, "SLURM_STEP_TASKS_PER_NODE", SOURCE))
    total = number(environ, "SLURM_STEP_NUM_TASKS", SOURCE)
    if len(nodes) != len(counts) or sum(counts) != total:
        raise ValueError(
            f"SLURM_STEP_TASKS_PER_NODE in {SOURCE} must have a number for each node "
            "of SLURM_STEP_NODELIST, SLURM_STEP_NUM_TASKS in all. Received: "
            f"{environ['SLURM_STEP_TASKS_PER_NODE']!r} for {len(nodes)} nodes and "
            f"{total} tasks. A step over several components of a heterogeneous job "
            "has no such list: write TF_CONFIG yourself."
        )
    of_job = environ.get("SLURM_TASKS_PER_NODE")
    if of_job and of_job != environ["SLURM_STEP_TASKS_PER_NODE"]:
        # Seen in a job that was submitted from within a step, which exports all.
        raise ValueError(
            f"SLURM_TASKS_PER_NODE and SLURM_STEP_TASKS_PER_NODE in {SOURCE} must "
            f"agree. Received: {of_job!r} and "
            f"{environ['SLURM_STEP_TASKS_PER_NODE']!r}. The latter is left over from "
            "another job's step: start the workers by srun, or, if this process is "
            "alone, set TF_CONFIG={}."
        )
    node = number(environ, "SLURM_NODEID", SOURCE, 0, len(nodes) - 1)
    local = number(environ, "SLURM_LOCALID", SOURCE, 0, counts[node] - 1)
    # A requeued job keeps its id and counts its restarts. Steps are numbered, too.
    restarts = environ.get("SLURM_RESTART_COUNT") and number(
        environ, "SLURM_RESTART_COUNT", SOURCE
    )
    turn = 7 * int(restarts or 0) + number(environ, "SLURM_STEP_ID", SOURCE, 0, 2**32)
    # Distinct on a node; in small jobs everywhere, as nodes may be daemons on one host.
    width = max(*counts, min(total, _DISTINCT_PORTS))
    port = first_port(environ, environ["SLURM_JOB_ID"], turn, width)
    hosts = [n for n, count in zip(nodes, counts, strict=True) for _ in range(count)]
    workers = tuple(f"{host}:{port + i % width}" for i, host in enumerate(hosts))
    return Task({"worker": workers}, "worker", sum(counts[:node]) + local, SOURCE)


def expand_nodes(node_list: str) -> list[str]:
    """The nodes of a list in SLURM's short form.

    Args:
        node_list: As "a[01-03,07],b,rack[0-1]n[2-3]".

    Raises:
        ValueError: it is not in that form, or has more than 100,000 nodes.

    Example:

    >>> expand_nodes("a[09-10,7],b,r[0-1]n[2-3]")
    ['a09', 'a10', 'a7', 'b', 'r0n2', 'r0n3', 'r1n2', 'r1n3']
    """
    names = []
    # Commas between names, not those in brackets.
    for part in re.split(r",(?![^\[]*\])", node_list):
        if not _NAME.fullmatch(part):
            raise _no_node_list(node_list)
        pieces = [
            list(itertools.islice(_numbers(piece, node_list), _MOST_NODES + 1))
            if piece.startswith("[")
            else [piece]
            for piece in re.findall(r"\[[^\]]*\]|[^\[]+", part)
        ]
        room = _MOST_NODES + 1 - len(names)
        names += map("".join, itertools.islice(itertools.product(*pieces), room))
    if len(names) > _MOST_NODES:
        raise _no_node_list(node_list)
    return names


def _numbers(bracket: str, node_list: str) -> Iterator[str]:
    """What "[01-03,07]" stands for: a number keeps its zeros."""
    for part in bracket[1:-1].split(","):
        found = _RANGE.fullmatch(part)
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise _no_node_list(node_list)
        for value in range(int(found[1]), int(found[2] or found[1]) + 1):
            yield str(value).zfill(len(found[1]))


def _no_node_list(node_list: str) -> ValueError:
    shown = node_list if len(node_list) <= 200 else f"{node_list[:200]}..."
    return ValueError(
        f"`SLURM_STEP_NODELIST` in {SOURCE} must be a list as 'a[01-03,07],b' of at "
        f"most {_MOST_NODES} nodes. Received: SLURM_STEP_NODELIST={shown!r}"
    )


def expand_counts(counts: str) -> list[int]:
    """Tasks of each node, of a list in SLURM's short form.

    Args:
        counts: As "2(x3),1".

    Raises:
        ValueError: it is not in that form, or for more than 100,000 nodes.

    Example:

    >>> expand_counts("2(x3),1")
    [2, 2, 2, 1]
    """
    found = [_COUNT.fullmatch(part) for part in counts.split(",")]
    runs = [(int(one[1]), int(one[2] or 1)) for one in found if one]
    if None in found or sum(nodes for _, nodes in runs) > _MOST_NODES:
        raise ValueError(
            f"`SLURM_STEP_TASKS_PER_NODE` in {SOURCE} must be a list as '2(x3),1' for "
            f"at most {_MOST_NODES} nodes. Received: SLURM_STEP_TASKS_PER_NODE="
            f"{counts[:200]!r}"
        )
    return [tasks for tasks, nodes in runs for _ in range(nodes)]
