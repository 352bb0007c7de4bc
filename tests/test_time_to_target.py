"""The board compares what it says: its jobs, rows, clock and results."""

import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tem_studies.workloads.optimizers import make_learning_rate

ROOT = pathlib.Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
TEXT = "".join(chr(97 + i * i % 23) for i in range(4000))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(ROOT / "studies" / "time_to_target")


@pytest.mark.parametrize("steps", [20, 500, 2000])
def test_both_frameworks_have_the_same_learning_rate(steps):
    import time_to_target_data as data

    warm_up = data.warm_up_steps(steps)
    keras_rate = make_learning_rate(2e-3, "cosine", steps, 0.1, warm_up)
    for step in range(0, steps, max(1, steps // 100)):
        ours = data.learning_rate(step, 2e-3, steps, warm_up)
        assert ours == pytest.approx(float(keras_rate(step)), rel=1e-5)  # float32


def test_a_job_is_read_as_it_was_written(tmp_path):
    import time_to_target_data as data
    import time_to_target_jobs as jobs

    text = tmp_path / "text"
    text.write_text(TEXT)
    job = jobs.gpt(str(text), 0, 5, 2, True)
    with (tmp_path / "job.npz").open("wb"):
        data.save(tmp_path / "job.npz", job)
    read = data.load(str(tmp_path / "job.npz"))
    assert (read.name, read.sizes, read.paths) == (job.name, job.sizes, job.paths)
    assert all(map(np.array_equal, read.weights, job.weights))
    assert all(map(np.array_equal, read[4:], job[4:]))
    # Workers share a step's examples out, and longer trainings begin alike.
    both = np.concatenate([read.of_worker(3, i, 2) for i in range(2)])
    assert np.array_equal(both, read.rows[3])
    assert np.array_equal(jobs.gpt(str(text), 0, 9, 2, True).rows[:5], job.rows)
    # Every character of the (tiny) validation split but the first counts once.
    counts = sum(counts.sum() for *_, counts in read.held_out(3))
    assert counts == (len(TEXT) // 10 - 1) // jobs.TINY_SHARE
    with pytest.raises(ValueError, match="it is another one"):
        read.check_logits(read.logits + 2e-4)
    assert read.check_logits(read.logits) == 0


def test_every_h_of_every_row_ends_where_the_validation_split_is_looked_at():
    import grids
    import time_to_target_rows as rows

    for job in ("gpt", "cnn"):
        for row in rows.ROWS.values():
            for settings in rows.grid(job, row):
                assert grids.WHOLE.check_steps % settings.get("local_steps", 1) == 0
    assert all(steps % 50 == 0 for steps in grids.WHOLE.lengths)


def test_a_training_until_its_target_ends_at_the_first_check_there():
    from time_to_target_runs import Check, Outcome

    checks = [
        Check(50 * i, 2.0 * i, 10.0 * i, 20.0 * i, i, error)
        for i, error in enumerate((0.9, 0.5, 0.6, 0.4), 1)
    ]
    whole = Outcome(checks, True, 200, 8.0, 40.0, 80.0, 0.0)
    assert whole.until(0.55) == (checks[:2], True, 100, 4.0, 20.0, 40.0, 0.0)
    assert whole.until(0.3) == whole._replace(is_there=False)


def test_a_training_must_end_at_an_exchange():
    import time_to_target_runs as runs

    settings = {"steps": 100, "local_steps": 25}
    with pytest.raises(ValueError, match="Received: 60, 50 and 25"):
        runs.train(
            runs.Setup("", None), "LocalUpdates float32", settings, None, None, 60
        )


def test_r_is_a_ring_s_bytes_by_the_link_s_rate():
    from time_to_target import ratio

    # Of 1e6 parameters four workers send 6 MB each: 9.6 s at 5 Mbit/s.
    assert ratio(1_000_000, "5mbit-50ms", 4, 0.1) == pytest.approx(96)
    assert ratio(1_000_000, "loopback", 4, 0.1) == 0


def test_results_are_read_as_they_were_written(tmp_path):
    import results

    line = dict.fromkeys(results.NUMBERS, 1.5) | {"steps": 3, "digest": 2**31}
    line |= {"job": "gpt", "kind": "link", "row": "PowerSGD", "link": "loopback"}
    line |= {"seed": 1, "settings": {"rate": 1e-3, "density": 1 / 64}}
    first = results.Results(tmp_path / "results.csv")
    first.add({**line, "is_there": True})
    first.add({**line, "is_there": False, "link": "100mbit", "seconds": 70.0})
    again = results.Results(tmp_path / "results.csv")
    assert again.lines == first.lines
    assert again.find(settings=line["settings"], link="loopback") == first.lines[:1]
    assert results.seconds_of(again.lines[:1]) == 1.5
    assert results.seconds_of(again.lines) == math.inf
    assert "| PowerSGD | 1.5 s | stopped: 3 steps in 70 s |" in results.report(
        again, "gpt"
    )


@pytest.mark.exhaustive  # Its links are held against their rates, on an idle machine.
@pytest.mark.multi_worker
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tc") is None, reason="needs root and iproute2"
)
@pytest.mark.timeout(600)
def test_the_quick_board(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    command = [sys.executable, str(BENCHMARKS / "time_to_target.py"), "gpt"]
    command += [str(tmp_path / "text"), "--quick", "--json", str(tmp_path / "out.json")]
    command += ["--links", "loopback", "20mbit-50ms", "--rows", "TensorFlow dense"]
    command += ["LocalUpdates int2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = json.loads((tmp_path / "out.json").read_text())["lines"]
    assert [(line["row"], line["link"]) for line in lines] == [
        ("TensorFlow dense", "loopback"),
        ("LocalUpdates int2", "loopback"),
        ("LocalUpdates int2", "20mbit-50ms"),
        ("TensorFlow dense", "20mbit-50ms"),
    ]
    assert lines[2]["has_same_bits"] is True
    dense, ours = lines[3], lines[2]
    assert ours["sent_bytes"] < dense["sent_bytes"] / 5
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    assert f"temtf-{os.getpid()}-" not in listed.stdout
