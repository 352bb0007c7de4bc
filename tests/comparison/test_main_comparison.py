"""Comparisons as a user starts them: main.py as a process, and its flags."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl.testing import flagsaver

from tem_studies import command_line
from tem_studies.comparison import study
from tem_studies.comparison.configuration import Comparison
from tem_studies.workloads.configuration import Configuration

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "--datasource digits --target_sparsity 0 --batch_size 16 --workers 2 "
    "--train_iterations 12 --check_interval 6 --threads 1 "
    "--compare hard_threshold,topk_replay --budgets 0.05 --nseeds 1"
)


def start(place):
    """Starts main.py on the study directory `place`."""
    return subprocess.Popen(
        [sys.executable, "main.py", *SMALL.split(), "--study_dir", str(place)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_CONFIG"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_comparison_that_was_killed_goes_on_and_loses_nothing(tmp_path):
    place = tmp_path / "study"
    first = start(place)
    results = lambda: sorted(place.glob("runs/*/result.json"))  # noqa: E731
    deadline = time.monotonic() + 120
    while len(results()) < 2 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = {path: path.read_bytes() for path in results()}
    assert len(before) >= 2

    second = start(place)
    text, _ = second.communicate(timeout=200)
    assert second.returncode == 0, text
    assert {path: path.read_bytes() for path in before} == before
    assert "topk_replay" in text
    with (place / "report" / "comparison.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"hard_threshold", "topk_replay"}
    volume = float(rows["hard_threshold"]["volume_over_budget"])
    assert volume == pytest.approx(1, abs=0.2)  # Another seed than the pilot's.

    # What is replayed is the mean over workers of what the last pilot sent.
    (run,) = place.glob("runs/topk_replay*seed-0")
    result = json.loads((run / "result.json").read_text())
    counts = [int(line) for line in (run / "counts.txt").read_text().split()]
    assert result["configuration"]["compressor"] == "topk_schedule"
    with np.load(run / "steps.npz") as file:
        np.testing.assert_allclose(file["entries"], counts)
    pilot = f"strength-{float(rows['hard_threshold']['strength']):.6g}-seed-1000"
    (path,) = place.glob(f"runs/hard_threshold*{pilot}/steps.npz")
    with np.load(path) as file:
        assert abs(file["entries"].sum() - sum(counts)) < 1


def test_the_start_says_what_is_pruned(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(study, "load", lambda *_, **__: None)
    monkeypatch.setattr(study, "_work", lambda _: None)
    for sparsity in ({}, {"target_sparsity": 0.0}):
        run = Configuration(datasource="digits", **sparsity)
        directory = str(tmp_path / str(len(sparsity)))
        study.run(Comparison(run, ("none", "topk"), (0.1,), directory=directory))
        said = capsys.readouterr().out
        assert said.startswith("each run prunes 90 % of the network") == (not sparsity)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--budgets 0.1", "`budgets` has an effect in a comparison alone"),
        ("--compare none", "`compare` needs at least two methods"),
        ("--compare none,topk", "`budgets` must be given for topk"),
        ("--compare none,nothing --budgets 0.1", "`compare` must name methods among"),
        ("--compare none,topk --budgets 10%", "Pass a fraction: 10 % is 0.1."),
        ("--compare none,topk --budgets 0.1 --nruns 3", "`nruns` has no effect in a"),
        (
            "--compare none,topk --budgets 0.1 --threshold 1",
            "`threshold` has no effect in a comparison: each method sets its own",
        ),
        (
            "--compare none,topk --budgets 0.1 --batch_size 8 16",
            "`batch_size` must be an integer",
        ),
        ("--compare missing.json", "or a file that can be read"),
    ],
)
def test_wrong_flags_are_refused_before_any_work(flags, words, capsys, monkeypatch):
    monkeypatch.setattr("tem_studies.comparison.study.run", None)  # Nothing is started.
    with flagsaver.flagsaver():
        assert (
            command_line.main(["main.py", "--datasource", "digits", *flags.split()])
            == 1
        )
    assert words in capsys.readouterr().err
