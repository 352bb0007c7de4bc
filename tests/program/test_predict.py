"""`tem-tf predict`, as its user starts it."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PREDICT = [str(ROOT / "main.py"), "predict", "--datasource", "digits"]


def run(*command):
    """The output of a command that must succeed."""
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_link_that_is_given(tmp_path):
    figure = tmp_path / "forecast.png"
    link = ["--workers", "4", "--link_mbit", "10", "--link_ms", "1"]
    lines = run(*PREDICT, *link, "--figure", str(figure)).splitlines()
    assert lines[0].startswith("62,346 parameters, 4 workers;")
    assert "link as given: 10 Mbit/s, 1 ms" in lines[0]
    assert lines[-2].startswith("dense")  # 374 kB at 10 Mbit/s: nothing is slower.
    assert figure.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.multi_worker
def test_a_link_that_is_measured():
    said = run("-m", "tem_tf_run", "--workers", "2", "--", sys.executable, *PREDICT)
    assert "62,346 parameters, 2 workers;" in said
    assert "link measured: " in said
    assert said.count("link measured: ") == 1  # By the chief alone.
