"""Which process of which cluster this is: TF_CONFIG or a resolver, read and checked.

A cluster is a dict of jobs, "worker" and at most one "chief", each a list of addresses
"host:port". The first of all tasks, the chief if there is one, else worker 0, is the
one that writes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import json
import math
import os
import re
import socket
import sys
from collections.abc import Mapping
from typing import Any

_FORM = (
    'Expected for example {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}.'
)
_JOBS = ("chief", "worker")
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


def read_tf_config() -> Task | None:
    """Reads and checks the environment variable TF_CONFIG.

    Returns:
        This process's task; None if the variable is not set or names no cluster.

    Raises:
        ValueError: it is not JSON or does not describe this task.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"The environment variable `TF_CONFIG` must be JSON: {error}. "
            f"Received: TF_CONFIG={text!r}. {_FORM}"
        ) from None
    if not isinstance(config, dict):
        raise ValueError(
            "The environment variable `TF_CONFIG` must hold an object. "
            f"Received: TF_CONFIG={text!r}. {_FORM}"
        )
    cluster: Any = config.get("cluster", {})
    task: Any = config.get("task", {})
    if not cluster and ("cluster" in config or not {*config} & {"task", *_JOBS}):
        return None
    if not cluster:
        raise ValueError(
            "The environment variable `TF_CONFIG` must have a `cluster` beside its "
            f"`task`. Received: TF_CONFIG={text!r}. {_FORM}"
        )
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise ValueError(
            "`cluster` and `task` in TF_CONFIG must be objects. "
            f"Received: TF_CONFIG={text!r}. {_FORM}"
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


def check_public(task: Task, refuse: bool) -> None:
    """Says on the chief's stderr which addresses are public.

    Args:
        task: This process's.
        refuse: Whether that is an error instead, on every worker.

    Raises:
        ValueError: an address is public and that is refused.
    """
    if not refuse and not task.is_chief:
        return  # Names are looked up, which takes time.
    public = ", ".join(f"{n} at {a}" for n, a in public_addresses(task).items())
    if not public:
        return
    why = (
        "TensorFlow's server has no authentication: whoever reaches its port can read "
        "and write files as this user (SECURITY.md)."
    )
    if refuse:
        raise ValueError(
            f"With `refuse_public` no address may be public. Received: {public}. {why} "
            "Use addresses of a private network."
        )
    print(
        f"tem_tf: public addresses: {public}. {why} Let a firewall keep all but the "
        "workers out.",
        file=sys.stderr,
        flush=True,
    )


def public_addresses(task: Task) -> dict[str, str]:
    """Those addresses of a cluster, by name, that the whole internet can reach.

    A host name counts by what it stands for here; one that is not known does not.
    """
    hosts = [split_address(address)[0] for address in task.addresses.values()]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # A look-up may take long.
        numbers = list(pool.map(_numbers, hosts))
    return {
        name: address
        for (name, address), of_host in zip(
            task.addresses.items(), numbers, strict=True
        )
        if any(map(_is_public, of_host))
    }


def _numbers(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # The name is not known, or is none.
        return []
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def _is_public(number: str) -> bool:
    return ipaddress.ip_address(number).is_global


def _index(value: Any) -> Any:
    """Some launchers write "0"; what is wrong stays as it is."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _tuples(cluster: Mapping[str, Any], source: str) -> dict[str, tuple[str, ...]]:
    for job, addresses in cluster.items():
        if not isinstance(addresses, list) or not addresses:
            raise ValueError(
                f"A job in {source} must have a list of addresses. "
                f"Received: {job}={addresses!r}. {_FORM}"
            )
    return {job: tuple(map(str, addresses)) for job, addresses in cluster.items()}


def _check_jobs(task: Task) -> None:
    others = sorted(set(task.cluster) - set(_JOBS))
    if others or task.type == "evaluator":
        raise ValueError(
            f"A cluster in {task.source} has jobs 'chief' and 'worker' only: every "
            "worker takes its share of `fit`'s validation and of `evaluate`. "
            f"Received: task.type={task.type!r}, jobs {sorted(task.cluster)}. Leave "
            f"{others[0] if others else task.type!r} out; what evaluates checkpoints "
            "beside the training runs without TF_CONFIG."
        )
    if task.type not in _JOBS or task.type not in task.cluster:
        raise ValueError(
            f'`task.type` in {task.source} must be "worker" or "chief" and have '
            f"addresses in `cluster`. Received: task.type={task.type!r}, "
            f"cluster={dict(task.cluster)!r}. {_FORM}"
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
