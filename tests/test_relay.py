"""The relay of the benchmarks: what it carries, what it refuses, what it leaves."""

import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import pytest

from tests.processes import still_running

ROOT = pathlib.Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tc") is None or shutil.which("g++") is None,
    reason="needs root, iproute2 and g++",
)
pytestmark = pytest.mark.slow
SECONDS = 60  # Beyond anything that is waited for here.


@pytest.fixture
def relay(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import relay

    return relay


def namespaces(pid):
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    return [name for name in listed.stdout.split() if name.startswith(f"temtf-{pid}-")]


def talk(links, receiver, sender):
    """What a program in namespace 0 prints while another one runs in 1."""
    server = subprocess.Popen(
        [*links.inside(0), sys.executable, "-c", receiver],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout.readline() == "ready\n"
        command = [*links.inside(1), sys.executable, "-c", sender]
        subprocess.run(command, check=True, timeout=SECONDS)
        return server.communicate(timeout=SECONDS)[0].split()
    finally:
        server.kill()
        server.communicate()


@needs_root
def test_bytes_come_whole_and_no_faster_than_the_rate(relay):
    rate, delay, size = 20e6, 0.02, 1_000_000
    receive = (
        "import hashlib, socket, time\n"
        "server = socket.create_server(('', 5000))\n"
        "print('ready', flush=True)\n"
        "connection, _ = server.accept()\n"
        "began, digest = time.perf_counter(), hashlib.sha256()\n"
        "while piece := connection.recv(1 << 16): digest.update(piece)\n"
        "print(time.perf_counter() - began, digest.hexdigest())\n"
    )
    with relay.RelayedLinks(2, relay.Link(rate, delay)) as links:
        send = (
            "import random, socket, time\n"
            "began = time.perf_counter()\n"
            f"c = socket.create_connection(({links.address(0)!r}, 5000))\n"
            f"assert time.perf_counter() - began > {2 * delay}\n"
            f"c.sendall(random.Random(0).randbytes({size}))\n"
        )
        seconds, digest = talk(links, receive, send)
        pid = links.relay_pid
        assert len(namespaces(os.getpid())) == 2
    assert digest == hashlib.sha256(random.Random(0).randbytes(size)).hexdigest()
    # What waits in queues comes no faster; how much slower is the machine's.
    assert 8 * size / rate * 0.9 < float(seconds) < SECONDS
    assert not namespaces(os.getpid())
    assert not still_running([pid], 5)


@needs_root
def test_packets_keep_their_order_and_too_many_are_dropped(relay):
    count = 2000  # Of 1,000 bytes each: eight times what may wait.
    receive = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_000_000)\n"
        "s.bind(('', 5000))\n"
        "s.settimeout(5)\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    while True: print(int.from_bytes(s.recv(2000)[:4]))\n"
        "except TimeoutError: pass\n"
    )
    with relay.RelayedLinks(2, relay.Link(10e6, 0.01)) as links:
        send = (
            "import socket\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"for i in range({count}):\n"
            f"    s.sendto(i.to_bytes(4) + bytes(996), ({links.address(0)!r}, 5000))\n"
        )
        numbers = list(map(int, talk(links, receive, send)))
    assert numbers == sorted(numbers)
    assert numbers[:100] == list(range(100))
    assert 100 < len(numbers) < count


@needs_root
def test_a_rate_that_cannot_be_reached_is_an_error(relay, monkeypatch):
    monkeypatch.setattr(relay, "_TRIES", 1)
    wanted = pytest.raises(RuntimeError, match=r"cannot reach its rate .* 1e\+06 Mbit")
    with relay.RelayedLinks(2, relay.Link(1e12)) as links, wanted:
        relay.check(links)
    assert not namespaces(os.getpid())


def test_without_root_nothing_is_begun(relay, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    links = relay.RelayedLinks(2, relay.Link(1e6))
    with pytest.raises(PermissionError, match="need root"), links:
        pass
    assert links.relay_pid is None


@needs_root
def test_without_a_compiler_nothing_is_left(relay, monkeypatch):
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name: None if name == "g++" else which(name)
    )
    links = relay.RelayedLinks(2, relay.Link(1e6))
    with pytest.raises(RuntimeError, match=r"need g\+\+"), links:
        pass
    assert not namespaces(os.getpid())


@needs_root
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_ended(relay, how):
    program = (
        "import time, relay\n"
        "with relay.RelayedLinks(2, relay.Link(1e6)) as links:\n"
        "    print(links.relay_pid, flush=True)\n"
        f"    time.sleep({SECONDS})\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{BENCHMARKS}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with run:
        pid = int(run.stdout.readline())
        assert len(namespaces(run.pid)) == 2
        run.send_signal(how)
        run.wait(SECONDS)
    assert not still_running([pid], 5)
    if how == signal.SIGKILL:  # The next run does that.
        import shaped_links

        shaped_links.remove_left_over()
    assert not namespaces(run.pid)
