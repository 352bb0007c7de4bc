"""What a process is in its cluster, checked.

A cluster is a dict of jobs, "worker" and at most one "chief", each a list of addresses
"host:port". The first of all tasks, the chief if there is one, else worker 0, is the
one that writes.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

FORM = (
    'Expected for example {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}.'
)
JOBS = ("chief", "worker")
# How long workers wait for one another at the start. TensorFlow's default is an hour;
# ten minutes is our choice: long enough for machines that are started one by one.
START_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Task:
    """One process of a cluster.

    Attributes:
        cluster: Addresses by job, as they were given.
        type: "worker" or "chief".
        index: Among the tasks of its type.
        source: Where this is written, for errors.

    Raises:
        ValueError: the cluster has other jobs, a wrong or repeated address, or not
            this task.
    """

    cluster: Mapping[str, tuple[str, ...]]
    type: str
    index: int
    source: str = dataclasses.field(default="TF_CONFIG", compare=False)

    def __post_init__(self):
        _check_jobs(self)
        addresses = self.cluster[self.type]
        if type(self.index) is not int or not 0 <= self.index < len(addresses):
            raise ValueError(
                f"`task.index` in {self.source} must be in [0, {len(addresses)}), the "
                f"number of {self.type} addresses. Received: task.index={self.index!r}"
            )
        for address in self.addresses.values():
            split_address(address)
        _check_distinct(self)

    @property
    def addresses(self) -> dict[str, str]:
        """Address by name ("chief", "worker 0", ...), the first task first."""
        found = {}
        for address in self.cluster.get("chief", ()):
            found["chief"] = address
        for index, address in enumerate(self.cluster.get("worker", ())):
            found[f"worker {index}"] = address
        return found

    @property
    def name(self) -> str:
        """This task's name in `addresses`."""
        return "chief" if self.type == "chief" else f"worker {self.index}"

    @property
    def address(self) -> str:
        """This task's own "host:port"."""
        return self.addresses[self.name]

    @property
    def is_chief(self) -> bool:
        """Whether this is the first task, which writes."""
        return self.name == next(iter(self.addresses))

    @property
    def size(self) -> int:
        """How many tasks the cluster has."""
        return len(self.addresses)


@dataclasses.dataclass(frozen=True)
class Rank:
    """One process of a cluster that knows where the first is, but not the others.

    The others' addresses come by a roll call at the first (tem_tf/roll_call.py).

    Attributes:
        index: Its number, the first's being 0.
        size: How many processes there are.
        first: "host:port" where the first listens for the roll call, and as worker 0.
        port: On which this one listens as a worker.
        source: Where this is written, for errors.

    Raises:
        ValueError: `first` is no address, or `index` is not below `size`.
    """

    index: int
    size: int
    first: str
    port: int
    source: str = dataclasses.field(compare=False)

    def __post_init__(self):
        split_address(self.first)
        if not 0 <= self.index < self.size:
            raise ValueError(
                f"The rank in {self.source} must be in [0, {self.size}), the number of "
                f"processes. Received: rank={self.index}"
            )

    @property
    def name(self) -> str:
        """As in `Task.name`."""
        return f"worker {self.index}"

    @property
    def is_chief(self) -> bool:
        """Whether this is the first, which writes."""
        return self.index == 0


def split_address(address: str) -> tuple[str, int]:
    """Takes "host:port" or "[IPv6]:port" apart.

    Raises:
        ValueError: it has no host or no port in 1..65535.
    """
    host, _, port = str(address).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    is_host = re.fullmatch(r"[\w.:%-]+", host) is not None
    if not is_host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(
            f'An address of a cluster must be "host:port". Received: {address!r}'
        )
    return host, int(port)


def check_start_seconds(seconds: Any) -> None:
    """Checks how long a worker may wait for the others.

    Raises:
        ValueError: it is no finite number above 0.
    """
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds < math.inf:
        raise ValueError(
            "`start_seconds` must be a number of seconds above 0 and finite. "
            f"Received: start_seconds={seconds!r}"
        )


def _check_jobs(task: Task) -> None:
    others = sorted(set(task.cluster) - set(JOBS))
    if others or task.type == "evaluator":
        raise ValueError(
            f"A cluster in {task.source} has jobs 'chief' and 'worker' only: every "
            "worker takes its share of `fit`'s validation and of `evaluate`. "
            f"Received: task.type={task.type!r}, jobs {sorted(task.cluster)}. Leave "
            f"{others[0] if others else task.type!r} out; what evaluates checkpoints "
            "beside the training runs without TF_CONFIG."
        )
    if task.type not in JOBS or task.type not in task.cluster:
        raise ValueError(
            f'`task.type` in {task.source} must be "worker" or "chief" and have '
            f"addresses in `cluster`. Received: task.type={task.type!r}, "
            f"cluster={dict(task.cluster)!r}. {FORM}"
        )
    if len(task.cluster.get("chief", ())) > 1:
        raise ValueError(
            f"A cluster in {task.source} has one chief at most. "
            f"Received: chief={list(task.cluster['chief'])!r}"
        )


def _check_distinct(task: Task) -> None:
    names: dict[str, str] = {}
    for name, address in task.addresses.items():
        other = names.setdefault(address.strip().lower(), name)
        if other != name:
            raise ValueError(
                f"Each task in {task.source} must have an address of its own. "
                f"Received: {address!r} for {other} and {name}"
            )
