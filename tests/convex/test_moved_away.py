"""A run that leaves again what it had come to is told from one that has finished."""

import csv

import numpy as np
import pytest

from tem_studies.convex import figures, run_files, study
from tem_studies.convex.configuration import ConvexConfiguration

FALLING = np.geomspace(0.7, 0.01, 200)


def test_one_that_left_is_told_with_its_best():
    left = np.concatenate([FALLING, np.geomspace(0.01, 0.3, 100)])
    record, best, last = run_files.moved_away(left)
    assert 190 <= record <= 210
    assert best == pytest.approx(0.0115, rel=0.1)
    assert 0.15 < last < 0.3


@pytest.mark.parametrize(
    "suboptimality",
    [
        FALLING,
        # Noise at rest: single records are ten times others, means are not.
        np.concatenate(
            [FALLING, 0.01 * np.random.default_rng(0).exponential(size=400)]
        ),
        # What rounding leaves, where ratios mean nothing.
        np.concatenate([FALLING, 1e-15 * (1 + np.arange(300.0) % 90)]),
        np.array([0.5]),
        # Too few records to tell noise from a way.
        np.array([0.5, 0.01, 0.3, 0.4]),
    ],
    ids=["falling", "noise", "rounding", "start", "short"],
)
def test_one_that_rests_is_not(suboptimality):
    assert run_files.moved_away(suboptimality) is None


@pytest.mark.slow  # A whole run.
def test_it_is_in_the_summary_and_said(tmp_path, monkeypatch):
    read = run_files.read

    def left(directory):
        row, curve = read(directory)
        curve["suboptimality"][-1] = 90 * curve["suboptimality"].min()
        return row, curve

    monkeypatch.setattr(run_files, "read", left)
    made = ConvexConfiguration(
        compressors=("topk",),
        k=2,
        workers=4,
        train_iterations=60,
        check_interval=2,
        logdir=str(tmp_path),
    )
    said = []
    found = study.run(made, said.append)
    (words,) = found["moved_away"]
    assert words.startswith("ec-sgd topk k=2 seed 0: f - f* = ")
    assert found["diverged"] == []
    with (tmp_path / "summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "moved away"
    assert (tmp_path / "curves.png").exists()  # It is in the figure.
    assert any("1 of 1" in line and "with indices and headers" in line for line in said)
    said.clear()
    study.run(made, said.append)
    assert "1 of the runs is finished already, and is not run again" in said


def test_bits_of_the_figures_are_those_with_indices():
    axes = {name for x, y, _ in figures.PANELS for name in (x, y)}
    assert "encoded_bits" in axes and "bits" not in axes
    assert "indices" in figures._WORDS["encoded_bits"]
