"""Lines on the terminal: whose they are, that long work goes on, how far a study is."""

import re
import time

import pytest

from tem_studies.workloads.progress import Progress
from tem_studies.workloads.study_progress import (
    StudyProgress,
    duration,
    said_at_start,
)


def test_each_line_of_a_trial_begins_with_its_name(capsys):
    progress = Progress(100, prints=True, name="run-3")
    progress.say("pruning ...")
    progress.report(50, 10.0, "loss 0.5")
    assert capsys.readouterr().out.splitlines() == [
        "run-3: pruning ...",
        "run-3: step  50/100  loss 0.5  10 steps/s  0:05 left",
    ]


@pytest.mark.parametrize(
    ("expected", "pattern"),
    [
        (None, r"testing 9 images: 0:00 so far"),
        (70.0, r"testing 9 images: 0:00 so far, about 1:(10|09) left"),
        (0.001, r"testing 9 images: 0:00 so far"),  # Longer than it should take.
    ],
)
def test_work_that_takes_long_is_said(capsys, expected, pattern):
    progress = Progress(1, prints=True, seconds=0.02)
    with progress.waiting("testing 9 images", expected):
        time.sleep(0.3)
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(re.fullmatch(pattern, line) for line in lines)
    time.sleep(0.1)
    assert capsys.readouterr().out == ""


def test_short_work_and_other_workers_print_nothing(capsys):
    for progress in (Progress(1, prints=True), Progress(1, prints=False, seconds=0.01)):
        with progress.waiting("testing"):
            time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_what_the_work_raises_ends_the_lines(capsys):
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with Progress(1, prints=True, seconds=0.01).waiting("testing"):
            raise KeyboardInterrupt
    time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_a_study_says_how_far_it_is():
    now = [0.0]
    progress = StudyProgress(4, clock=lambda: now[0])  # A restart: four were there.
    assert progress.words(4, 40) == "4 of 40"
    now[0] = 80.0
    assert progress.words(12, 40) == "12 of 40, about 5 min left"
    assert progress.words(12, 14, at_least=True) == (
        "12 of at least 14, about 20 s left"
    )
    assert progress.words(40, 40) == "40 of 40"


def test_times_are_said_as_roughly_as_they_are_known():
    assert [duration(x) for x in (0.2, 59.6, 61, 3599, 9000)] == [
        *("1 s", "60 s", "1 min", "60 min", "2.5 h")
    ]


def test_a_restart_says_what_is_done():
    assert said_at_start(0, "runs") is None
    assert said_at_start(12, "runs") == (
        "12 runs are finished already, and are not run again"
    )
