"""What the benchmarks measure is what they say, and they leave nothing behind."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tc") is None, reason="needs root and iproute2"
)


@pytest.fixture
def shaped_links(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import shaped_links

    return shaped_links


def namespaces():
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    return [name for name in listed.stdout.split() if name.startswith("temtf-")]


@needs_root
def test_a_shaped_link_carries_its_rate_and_no_more(shaped_links):
    receive = (
        "import socket, time\n"
        "server = socket.create_server(('0.0.0.0', 5000))\n"
        "print('ready', flush=True)\n"
        "connection, _ = server.accept()\n"
        "received, began = 0, time.perf_counter()\n"
        "while piece := connection.recv(1 << 16): received += len(piece)\n"
        "print(8e-6 * received / (time.perf_counter() - began))\n"
    )
    with shaped_links.ShapedLinks(2, "100mbit") as links:
        send = (
            "import socket\n"
            f"c = socket.create_connection(({links.address(0)!r}, 5000))\n"
            "c.sendall(bytes(4_000_000))\n"
        )
        server = subprocess.Popen(
            [*links.inside(0), sys.executable, "-c", receive],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout.readline() == "ready\n"
        command = [*links.inside(1), sys.executable, "-c", send]
        subprocess.run(command, check=True, timeout=20)
        megabits, _ = server.communicate(timeout=20)
        assert 60 < float(megabits) < 102  # Raw TCP on an idle machine: 95.
        mine = [name for name in namespaces() if f"-{os.getpid()}-" in name]
        assert len(mine) == 3
    assert not [name for name in namespaces() if f"-{os.getpid()}-" in name]


@needs_root
def test_namespaces_of_a_killed_run_are_removed(shaped_links):
    ended = subprocess.Popen(["true"])
    ended.wait()
    name = f"temtf-{ended.pid}-bridge"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        shaped_links.remove_left_over()
        assert name not in namespaces()
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_shaped_links_need_root(shaped_links, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with (
        pytest.raises(PermissionError, match="Shaped links need root"),
        shaped_links.ShapedLinks(2, "1gbit"),
    ):
        pass


@pytest.mark.slow
@pytest.mark.multi_worker
def test_the_short_aggregation_benchmark(tmp_path):
    path = tmp_path / "result.json"
    subprocess.run(
        [sys.executable, BENCHMARKS / "aggregation.py", "--short", "--json", path],
        check=True,
        timeout=200,
        capture_output=True,
    )
    (column,) = json.loads(path.read_text())["columns"]
    ours = column["paths"]["tem_tf"]
    assert abs(ours["density"] - 1e-3) < 5e-5
    # Indices and values of 0.1 % at 32 bits each are 89 kB; a tighter wire sends less.
    per_step = ours["payload_bytes"] / ours["steps"] / column["workers"]
    assert 20e3 < per_step < 95e3
    assert ours["overflow_steps"] == 1  # The first, when nothing is known yet.
    assert column["ratios"]["best TensorFlow dense"] > 0
