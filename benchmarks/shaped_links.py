"""Real links of a given rate between worker processes of one Linux machine.

One bridge in a network namespace of its own, one namespace per worker, a veth pair
between them, and on both ends of each pair a token bucket filter (tc's tbf). Rate
only: no latency is added (relay.py adds some). Needs root and Debian's iproute2.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from typing import NamedTuple, Self

_PREFIX = "temtf-"
# Longest wait of a packet in the filter's queue; beyond it packets are dropped.
_QUEUE = "50ms"
_COMMAND_SECONDS = 20


class Rate(NamedTuple):
    """What tbf is told.

    Attributes:
        rate: As tc writes it.
        burst: Bytes that may pass at once. Small: a whole sparse message would slip
            through a large one unshaped.
    """

    rate: str
    burst: str


RATES = {
    "1gbit": Rate("1gbit", "64k"),
    "100mbit": Rate("100mbit", "16k"),
}


class Namespaces:
    """Namespaces that are made on entering, by `_set_up`, and removed again.

    Those that a killed run has left are removed first.
    """

    _names: list[str]

    def __enter__(self) -> Self:
        check_may_make_links()
        remove_left_over()
        try:
            self._set_up()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._tear_down()

    @staticmethod
    def address(worker: int) -> str:
        """IPv4 address of a worker."""
        return f"10.77.0.{worker + 1}"

    def _set_up(self) -> None:
        raise NotImplementedError

    def _tear_down(self) -> None:
        for name in self._names:
            delete(name)


class ShapedLinks(Namespaces):
    """Namespaces for so many workers; a context manager that removes them again.

    Args:
        workers: Number of namespaces.
        rate: A name in `RATES`; None: as fast as the machine carries packets.

    Raises:
        PermissionError: on entering, if this is not root or iproute2 is missing.

    Example:
        with ShapedLinks(4, "1gbit") as links:
            subprocess.run([*links.inside(0), "ping", "-c1", links.address(1)])
    """

    def __init__(self, workers: int, rate: str | None):
        self._rate = None if rate is None else RATES[rate]
        self._names = [namespace(name) for name in ("bridge", *range(workers))]

    def inside(self, worker: int) -> list[str]:
        """What to write before a command so that it runs in a worker's namespace."""
        return ["ip", "netns", "exec", self._names[1 + worker]]

    def cut(self, worker: int) -> None:
        """Takes a worker's cable out: packets are lost, and nobody is told."""
        self._set_port(worker, "down")

    def join(self, worker: int) -> None:
        """Puts it in again."""
        self._set_port(worker, "up")

    def _set_port(self, worker: int, state: str) -> None:
        # The bridge's end: the worker's own device stays up, as a cable's other end.
        run("ip", "-n", self._names[0], "link", "set", f"port{worker}", state)

    def _set_up(self) -> None:
        bridge, *names = self._names
        for name in self._names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", bridge, "link", "set", "br0", "up")
        for worker, name in enumerate(names):
            port = f"port{worker}"
            pair = ("type", "veth", "peer", "name", port, "netns", bridge)
            run("ip", "-n", name, "link", "add", "eth0", *pair)
            address = f"{self.address(worker)}/24"
            run("ip", "-n", name, "address", "add", address, "dev", "eth0")
            run("ip", "-n", bridge, "link", "set", port, "master", "br0", "up")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            if self._rate is None:
                continue
            for space, device in ((name, "eth0"), (bridge, port)):
                shape = ("rate", self._rate.rate, "burst", self._rate.burst)
                root = ("qdisc", "add", "dev", device, "root", "tbf")
                run("tc", "-n", space, *root, *shape, "latency", _QUEUE)


def namespace(name: object) -> str:
    """The name of a namespace of this process."""
    return f"{_PREFIX}{os.getpid()}-{name}"


def check_may_make_links() -> None:
    """Raises a PermissionError if this is not root or iproute2 is missing."""
    if os.geteuid() != 0 or shutil.which("tc") is None:
        raise PermissionError(
            "Shaped links need root and the commands ip and tc (Debian: iproute2). "
            "Leave the shaped columns out with `--links loopback`."
        )


def remove_left_over() -> None:
    """Removes the namespaces of runs that were killed."""
    listed = run("ip", "netns", "list")
    for name in re.findall(rf"^({_PREFIX}\d+-\w+)", listed, re.MULTILINE):
        owner = name.removeprefix(_PREFIX).split("-")[0]
        if not pathlib.Path("/proc", owner).exists():
            delete(name)


def delete(name: str) -> None:
    """Removes a namespace and its devices, and with a veth its other end."""
    command = ["ip", "netns", "delete", name]
    subprocess.run(command, capture_output=True, timeout=_COMMAND_SECONDS)


def run(*command: str) -> str:
    """What a command prints; a RuntimeError with what it says if it fails."""
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=_COMMAND_SECONDS
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    return result.stdout
