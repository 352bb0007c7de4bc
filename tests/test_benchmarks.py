"""What the benchmarks measure is what they say, and they leave nothing behind."""

import json
import math
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


def test_growth_is_per_thousand_steps_after_the_warm_up(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import leaks

    samples = [[100, 9e9, 7, 1], [200, 9e9, 8, 1]]  # Of the warm-up.
    samples += [[step, 5e8 + 20 * step, 10, 3] for step in range(300, 900, 100)]
    found = leaks.growth(samples, warm_up=200)
    assert found == {
        "resident_bytes": pytest.approx(20_000),
        "descriptors": pytest.approx(0, abs=1e-9),
        "threads": pytest.approx(0, abs=1e-9),
    }


def namespaces():
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    return [name for name in listed.stdout.split() if name.startswith("temtf-")]


@needs_root
def test_a_shaped_link_carries_its_rate_and_no_more(shaped_links):
    receive = (
        "import socket, time\n"
        "server = socket.create_server(('0.0.0.0', 5000))\n"
        "print('ready', flush=True)\n"
        "for _ in range(3):\n"
        "    connection, _ = server.accept()\n"
        "    received, began = 0, time.perf_counter()\n"
        "    while piece := connection.recv(1 << 16): received += len(piece)\n"
        "    print(8e-6 * received / (time.perf_counter() - began))\n"
    )
    with shaped_links.ShapedLinks(2, "100mbit") as links:
        send = (
            "import socket\n"
            "for _ in range(3):\n"
            f"    with socket.create_connection(({links.address(0)!r}, 5000)) as c:\n"
            "        c.sendall(bytes(4_000_000))\n"
        )
        server = subprocess.Popen(
            [*links.inside(0), sys.executable, "-c", receive],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout.readline() == "ready\n"
        command = [*links.inside(1), sys.executable, "-c", send]
        subprocess.run(command, check=True, timeout=20)
        out, _ = server.communicate(timeout=20)
        # Raw TCP on an idle machine: 95. What else runs there can only slow it down.
        assert 60 < max(map(float, out.split())) < 102
        mine = [name for name in namespaces() if f"-{os.getpid()}-" in name]
        assert len(mine) == 3
    assert not [name for name in namespaces() if f"-{os.getpid()}-" in name]


@needs_root
def test_a_link_that_is_cut_carries_nothing_until_it_is_joined(shaped_links):
    listen = (
        "import socket\n"
        "server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "server.bind(('0.0.0.0', 5000))\n"
        "print('ready', flush=True)\n"
        "while True: server.sendto(*server.recvfrom(1))\n"
    )
    with shaped_links.ShapedLinks(2, "1gbit") as links:
        ask = (
            "import socket\n"
            "client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "client.settimeout(0.2)\n"
            f"client.sendto(b'x', ({links.address(0)!r}, 5000))\n"
            "client.recv(1)\n"
        )

        def answered():
            command = [*links.inside(1), sys.executable, "-c", ask]
            done = subprocess.run(command, capture_output=True, timeout=20)
            return done.returncode == 0

        server = subprocess.Popen(
            [*links.inside(0), sys.executable, "-c", listen],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout.readline() == "ready\n"
            assert any(answered() for _ in range(20))  # The bridge learns its ports.
            links.cut(1)
            assert not any(answered() for _ in range(3))
            links.join(1)
            assert any(answered() for _ in range(20))
        finally:
            server.kill()
            server.communicate()


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


@pytest.fixture
def aggregation(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import aggregation

    return aggregation


def test_turns_of_two_versions_are_compared_one_by_one(aggregation):
    # Logarithms ln 2 ± ln 1.1 and ln 2: mean ln 2, standard error ln 1.1 / √3;
    # Student's t of 2 degrees of freedom is 4.3027 at 97.5 %.
    compared = aggregation.compare_turns([2.2, 20.0, 2.0], [1.0, 10.0, 1.1])
    assert compared["ratios"] == pytest.approx([2.2, 2.0, 2 / 1.1])
    assert compared["median"] == 2.0
    width = 1.1 ** (4.3027 / 3**0.5)
    assert compared["low"] == pytest.approx(2 / width, rel=1e-4)
    assert compared["high"] == pytest.approx(2 * width, rel=1e-4)


def test_one_turn_has_no_interval(aggregation):
    compared = aggregation.compare_turns([1.0], [2.0])
    assert compared == {"ratios": [0.5], "median": 0.5, "low": None, "high": None}


def test_two_versions_are_neighbours_in_each_turn_and_take_turns_in_leading(
    aggregation,
):
    names = ["tem_tf", "other", "tem_tf, before"]
    orders = [aggregation.in_order(names, turn) for turn in range(3)]
    ours_first = ["tem_tf", "tem_tf, before", "other"]
    assert orders == [ours_first, ["tem_tf, before", "tem_tf", "other"], ours_first]
    assert aggregation.in_order(["other", "tem_tf"], 1) == ["tem_tf", "other"]


@pytest.mark.parametrize(
    ("seconds", "steps"), [(6.0, 1), (0.5, 2), (0.1, 8), (0.02, 40), (0.001, 40)]
)
def test_a_turn_has_as_many_steps_as_fit(aggregation, seconds, steps):
    assert aggregation.steps_that_fit(seconds) == steps


class Steps:
    """A group of one worker whose steps take what they are told to, in seconds."""

    def __init__(self, *seconds):
        self.left, self.taken = list(seconds), 0

    def run(self, request, limit):
        path, steps = request
        taken = [self.left.pop(0) if len(self.left) > 1 else self.left[0]] * steps
        self.taken += steps
        return [{"seconds": taken}]


def test_first_steps_that_are_slow_do_not_shorten_a_turn(aggregation):
    results = aggregation._take_turns(
        {
            "tem_tf": aggregation.Lane(Steps(9.0, 1.5, 0.9, 0.1, 0.1), "tem_tf"),
            "dense": aggregation.Lane(Steps(0.2, 0.08), "dense"),
            "slow": aggregation.Lane(Steps(6.0), "slow"),
        },
        turns=2,
    )
    steps = {name: result["steps_per_turn"] for name, result in results.items()}
    assert steps == {"tem_tf": 10, "dense": 10, "slow": 1}
    assert results["slow"]["turns"] == [6000, 6000]


def test_workers_of_another_python_need_nothing_of_the_plugin():
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['tem_tf', 'tensorflow', 'keras'])\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import aggregation, resnet18, worker_group"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_worker_that_ended_before_it_was_asked_is_named(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from worker_group import WorkerGroup

    command = [sys.executable, "-c", "raise SystemExit('no such device')"]
    with WorkerGroup(command, 1) as group:
        group._processes[0].wait(timeout=60)
        with pytest.raises(RuntimeError, match=r"worker 0 ended.\nno such device"):
            group.run("anything", 60)


def test_workers_import_from_the_checkout_that_they_are_told(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from worker_group import WorkerGroup

    (tmp_path / "told.py").write_text("WHAT = 'earlier'")
    program = tmp_path / "worker.py"
    program.write_text(
        f"import sys; sys.path[0] = {str(BENCHMARKS)!r}\n"
        "import os, told, worker_group\n"
        "worker_group.serve(lambda request: (told.WHAT, os.getcwd()))\n"
    )
    with WorkerGroup([sys.executable, str(program)], 1, root=tmp_path) as group:
        assert group.run(None, 60) == [("earlier", str(tmp_path))]


@pytest.mark.parametrize("name", ["aggregation.py", "tracing.py"])
def test_a_version_before_must_be_a_checkout(name, tmp_path):
    command = [sys.executable, BENCHMARKS / name, "--before", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert (
        "argument --before: must be a checkout of this repository. Received: "
        f"{tmp_path}. Make one by `git worktree add DIRECTORY COMMIT`."
    ) in " ".join(ended.stderr.split())


def test_the_shapes_are_resnet_18s(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from resnet18 import resnet18_shapes

    shapes = resnet18_shapes()
    assert len(shapes) == 62
    assert sum(math.prod(shape) for shape in shapes) == 11_173_962


@pytest.mark.exhaustive
@pytest.mark.multi_worker
def test_the_short_aggregation_benchmark(tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, BENCHMARKS / "aggregation.py", "--short", "--json", path]
    subprocess.run(
        [*command, "--before", ROOT], check=True, timeout=300, capture_output=True
    )
    (column,) = json.loads(path.read_text())["columns"]
    assert len(column["by_before"]["ratios"]) == 1
    steps = {path: row["steps_per_turn"] for path, row in column["paths"].items()}
    assert steps["tem_tf"] == steps["tem_tf, before"] == max(steps.values())
    ours = column["paths"]["tem_tf"]
    assert abs(ours["density"] - 1e-3) < 5e-5
    # Indices and values of 0.1 % at 32 bits each are 89 kB; a tighter wire sends less.
    per_step = ours["payload_bytes"] / ours["steps"] / column["workers"]
    assert 20e3 < per_step < 95e3
    assert ours["overflow_steps"] == 1  # The first, when nothing is known yet.
    assert column["ratios"]["best TensorFlow dense"] > 0


def run_short(name, path, option):
    """Runs a benchmark's short mode and returns what it writes."""
    command = [sys.executable, BENCHMARKS / name, "--short", option, path]
    subprocess.run(command, check=True, timeout=200, capture_output=True)
    return json.loads(path.read_text())


@pytest.mark.exhaustive
def test_the_short_overhead_benchmark(tmp_path):
    rows = run_short("overhead.py", tmp_path / "result.json", "--output")["rows"]
    sizes = {row["model"]: row["parameters"] for row in rows}
    assert sizes == {"simple-cnn": 62_346, "neumf": 1_976_577}
    for row in rows:
        assert row["ratio"] > 0
        if row["compressor"] == "HardThreshold":
            assert 1e-4 < row["density"] < 1e-2  # About 0.1 %.
        else:
            assert row["density"] == 1


@pytest.mark.exhaustive
@pytest.mark.multi_worker
def test_the_short_memory_benchmark(tmp_path):
    rows = run_short("memory.py", tmp_path / "result.json", "--json")["rows"]
    assert [row["workers"] for row in rows] == [1, 1, 2, 2]
    assert {row["parameters"] for row in rows} == {1_198_210}
    for row in rows:
        settled, peak = (row["bytes"][x][0] for x in ("settled_bytes", "peak_bytes"))
        assert 12 < settled <= peak  # Weights, velocity, gradient.
        if row["case"] != "inner optimizer":
            assert 1e-4 < row["density"] < 1e-2


@pytest.mark.exhaustive
@pytest.mark.multi_worker
def test_the_short_logs_benchmark(tmp_path):
    rows = run_short("logs.py", tmp_path / "result.json", "--json")["rows"]
    assert [(row["kind"], row["metrics"]) for row in rows] == [
        ("global", 0),
        ("global", 3),
    ]
    for row in rows:
        assert row["collectives"] == 2  # The gradient's and the logs'.
        assert row["milliseconds"] > 0


@pytest.mark.exhaustive
def test_the_short_tracing_benchmark(tmp_path):
    figures = run_short("tracing.py", tmp_path / "result.json", "--json")
    results, steps = figures["results"], figures["steps"]
    for by in {row["by"] for row in results}:
        nodes = {
            way: [x["nodes"] for x in results if (x["by"], x["way"]) == (by, way)]
            for way in ("sum_payloads", "one by one")
        }
        few, many = nodes["sum_payloads"]
        assert few == many
        few, many = nodes["one by one"]
        assert few < many
    assert {row["rows"] for row in results} == {2, 8}
    assert all(row["trace_seconds"] > 0 for row in results)
    for by in {row["by"] for row in steps}:
        few, many = [row["nodes"] for row in steps if row["by"] == by]
        assert few == many > 62


@pytest.fixture
def tracing(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tracing

    return tracing


def test_an_earlier_version_is_not_traced_for_many_rows(tracing, monkeypatch, capsys):
    step = {"trace_seconds": 1.5, "nodes": 1234, "kernels": False}
    asked = []

    def trace_step(root, rows, kernels):
        asked.append((root.name, rows))
        return step

    monkeypatch.setattr(tracing, "trace_step", trace_step)
    rows = tracing.trace_steps([64, 65], pathlib.Path("earlier"), [False])
    assert asked == [(ROOT.name, 64), ("earlier", 64), (ROOT.name, 65)]
    assert rows[-1]["stopped"] == "at 64 rows"
    lines = capsys.readouterr().out.splitlines()
    words = [" ".join(line.split()) for line in lines[-2:]]
    now = "65 operations now 1.500 1,234"
    assert words == [now, "65 operations before stopped at 64 rows"]


def test_one_by_one_is_not_measured_for_many_rows(tracing, monkeypatch, capsys):
    figures = "trace_seconds", "nodes", "first_call_seconds", "later_call_milliseconds"
    monkeypatch.setattr(tracing, "gathered", lambda count: None)
    monkeypatch.setattr(tracing, "measure", lambda *_: dict.fromkeys(figures, 1))
    monkeypatch.setattr(tracing, "trace_steps", lambda *_: [])
    monkeypatch.setattr(sys, "argv", ["tracing.py", "--rows", "64", "65"])
    tracing.main()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "64 operations one by one 1.000 1 1.000 1.00" in lines
    assert "65 operations one by one stopped at 64 rows" in lines
    assert "65 operations sum_payloads 1.000 1 1.000 1.00" in lines


def test_a_step_whose_time_is_up_is_said_to_be(tracing, monkeypatch):
    monkeypatch.setattr(tracing, "STEP_SECONDS", 0.01)
    assert tracing.trace_step(ROOT, 2, False) == {"stopped": "after 0.01 s"}


def test_a_step_that_fails_says_why(tracing, tmp_path):
    (tmp_path / "tem_tf.py").write_text("raise ImportError('an earlier one')")
    with pytest.raises(RuntimeError, match="an earlier one"):
        tracing.trace_step(tmp_path, 2, False)


@pytest.fixture
def overhead(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import overhead

    return overhead


def test_the_networks_of_the_overhead_benchmark_have_their_sizes(overhead):
    sizes = {
        name: overhead.Training(workload, workload.optimizer()).parameters
        for name, workload in overhead.WORKLOADS.items()
    }
    assert sizes == {
        "simple-cnn": 62_346,
        "resnet-18": 11_173_962,
        "neumf": 1_976_577,
        "lstm": 16_657_800,
    }


def test_the_mean_gradient_is_that_of_all_batches(overhead):
    workload = overhead.WORKLOADS["simple-cnn"]
    training = overhead.Training(workload, overhead.keras.optimizers.SGD(0.25))
    before = [v.numpy() for v in training.model.trainable_variables]
    gradient = training.mean_gradient()
    after = [v.numpy() for v in training.model.trainable_variables]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert gradient.shape == (62_346,)
    # Each batch has random images: its logits' gradients sum to zero over classes.
    assert abs(gradient[-10:].sum()) < 1e-5 < abs(gradient[-10:]).max()
