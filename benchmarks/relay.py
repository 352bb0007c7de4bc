"""Links with a rate and a delay between worker processes of one Linux machine.

Kernels lack netem as a rule, so a process of our own (relay.cc, compiled when it is
needed) carries packets between the workers' namespaces. A worker's uplink and its
downlink have the rate each, both ways at once; the delay is added once on the way from
one worker to another, so that an answer takes twice that. Bytes are those of IP
packets of at most 1,500; TCP is Linux's cubic, whatever the machine has beside it.
Needs root, iproute2 and g++.

`check` measures with TCP what the links carry before they are believed.
"""

from __future__ import annotations

import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import shaped_links
from worker_group import START_SECONDS, WorkerGroup

HERE = pathlib.Path(__file__).parent
_SECONDS_TO_COMPILE = 120
_SECONDS_TO_START = 20
_SECONDS_TO_END = 5
# What may wait before a line: as many bytes as pass in a round trip, as routers are
# built, and so much longer, as acknowledgements wait behind what travels the other way;
# and no less than what four workers send at once.
_QUEUE_SECONDS = 0.05
_LEAST_QUEUE_BYTES = 256_000
# Packets that the relay has not read yet: more than TCP ever has on its way.
_UNREAD_PACKETS = 20_000

_TCP = "cubic"

TOLERANCE = 0.1  # Of rate and delay, where they are checked.
_LEAST_DELAY_ERROR = 0.002  # Seconds; ticks of the relay, and waking up.
_TRIES = 5  # Others use the machine, too.


class Link(NamedTuple):
    """What a worker is connected by.

    Attributes:
        bits_per_second: Of its uplink, and of its downlink.
        delay_seconds: From one worker to another.
    """

    bits_per_second: float
    delay_seconds: float = 0.0


LINKS = {
    "100mbit": Link(100e6),
    "20mbit-50ms": Link(20e6, 0.05),
    "5mbit-50ms": Link(5e6, 0.05),
}


class RelayedLinks(shaped_links.Namespaces):
    """Namespaces for so many workers; a context manager that removes them again.

    Args:
        workers: Number of namespaces.
        link: What connects each of them.

    Raises:
        PermissionError: on entering, if this is not root or iproute2 is missing.
        RuntimeError: on entering, if the relay does not compile or start.

    Example:
        with RelayedLinks(4, LINKS["20mbit-50ms"]) as links:
            subprocess.run([*links.inside(0), "ping", "-c1", links.address(1)])
    """

    def __init__(self, workers: int, link: Link):
        self.link = link
        self.workers = workers
        self._names = [shaped_links.namespace(worker) for worker in range(workers)]
        self._relay: subprocess.Popen | None = None

    @property
    def relay_pid(self) -> int | None:
        """The relay's, while it runs."""
        return None if self._relay is None else self._relay.pid

    def inside(self, worker: int) -> list[str]:
        """What to write before a command so that it runs in a worker's namespace."""
        return ["ip", "netns", "exec", self._names[worker]]

    def _set_up(self) -> None:
        for name in self._names:
            shaped_links.run("ip", "netns", "add", name)
            shaped_links.run("ip", "-n", name, "link", "set", "lo", "up")
        self._start_relay()
        for worker, name in enumerate(self._names):
            device = ("dev", "eth0")
            address = f"{self.address(worker)}/24"
            shaped_links.run("ip", "-n", name, "address", "add", address, *device)
            size = ("mtu", "1500", "txqueuelen", str(_UNREAD_PACKETS))
            shaped_links.run("ip", "-n", name, "link", "set", *device, *size, "up")
            # By the route: a namespace may not choose another than the machine's.
            network = ("10.77.0.0/24", *device, "congctl", _TCP)
            shaped_links.run("ip", "-n", name, "route", "replace", *network)

    def _start_relay(self) -> None:
        rate, delay = self.link
        queue = max(_LEAST_QUEUE_BYTES, rate / 8 * (2 * delay + _QUEUE_SECONDS))
        numbers = (f"{rate:.0f}", f"{delay * 1e6:.0f}", f"{queue:.0f}")
        with tempfile.TemporaryDirectory() as folder:
            program = _compiled(pathlib.Path(folder))
            self._relay = subprocess.Popen(
                [program, *numbers, *self._names],
                stdin=subprocess.PIPE,  # It ends when this does, even if we are killed.
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for us.
            )
            output, errors = self._relay.stdout, self._relay.stderr
            assert output is not None and errors is not None
            ready, _, _ = select.select([output], [], [], _SECONDS_TO_START)
            if not ready or output.readline() != "ready\n":
                self._relay.kill()
                raise RuntimeError(f"The relay does not start: {errors.read()}")

    def _tear_down(self) -> None:
        if self._relay is not None:
            relay, self._relay = self._relay, None
            try:
                relay.communicate(timeout=_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                relay.kill()
                relay.communicate()
        super()._tear_down()


def _compiled(folder: pathlib.Path) -> str:
    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("Links with a delay need g++ (Debian: g++).")
    program = str(folder / "relay")
    command = [compiler, "-O2", "-o", program, str(HERE / "relay.cc")]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=_SECONDS_TO_COMPILE
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    return program


class Measured(NamedTuple):
    """What TCP sees of links.

    Attributes:
        bits_per_second: Of payload, headers added; of the worst worker, while each
            sends to the next one and receives from the one before.
        round_trip_seconds: Of one byte there and back, the least of some, while
            nothing else travels.
    """

    bits_per_second: float
    round_trip_seconds: float


def measure(links: RelayedLinks) -> Measured:
    """Measures links; takes some seconds."""
    command = [sys.executable, str(HERE / "relay_probe.py")]
    with WorkerGroup(command, links.workers, links) as group:
        group.run(("listen", 0.0, 0.0), START_SECONDS)  # All are there afterwards.
        trips = group.run(("trips", 0.0, 0.0), START_SECONDS)
        # TCP finds the rate within some round trips.
        rate, delay = links.link
        begin = 1.0 + 30 * delay
        flows = group.run(("flows", begin, rate), START_SECONDS)
    return Measured(min(flows), trips[0])


def check(links: RelayedLinks) -> Measured:
    """Measures links, and again if it has to be.

    Raises:
        RuntimeError: they are not what they should be.
    """
    rate, delay = links.link
    for _ in range(_TRIES):
        found = measure(links)
        most = max(TOLERANCE * 2 * delay, _LEAST_DELAY_ERROR)
        is_late = abs(found.round_trip_seconds - 2 * delay) > most
        if not is_late and abs(found.bits_per_second / rate - 1) <= TOLERANCE:
            return found
    raise RuntimeError(
        "A relay that cannot reach its rate or delay: "
        f"{found.bits_per_second / 1e6:.1f} Mbit/s and "
        f"{1e3 * found.round_trip_seconds:.1f} ms there and back, where "
        f"{rate / 1e6:g} Mbit/s and {2e3 * delay:g} ms were asked for, each with an "
        f"error of {TOLERANCE:.0%} at most. Is the machine busy?"
    )


if __name__ == "__main__":
    for name, wanted in LINKS.items():
        with RelayedLinks(4, wanted) as relayed:
            print(name, check(relayed), flush=True)
