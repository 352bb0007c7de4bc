"""Workers that are killed: training ends as if nothing had been. A short form.

All of it: `python benchmarks/faults.py kills`.
"""

import pytest

from tests.faults.job import Job, differences
from tests.faults.kills import Kill, Matrix, plan, table
from tests.faults.points import POINTS, Moment

pytestmark = [pytest.mark.slow, pytest.mark.multi_worker]


def test_a_plan_has_every_point_five_times_in_a_hundred_kills():
    kills = plan(seed=0, number=100, rows=["a", "b", "c"])
    at_points = [kill.moment.point for kill in kills if kill.moment]
    assert {point: at_points.count(point) for point in POINTS} == dict.fromkeys(
        POINTS, 5
    )
    assert {kill.row for kill in kills if kill.moment} == {"a", "b", "c"}
    assert {kill.worker for kill in kills} == {0, 1, 2}
    assert kills == plan(seed=0, number=100, rows=["a", "b", "c"])
    assert kills != plan(seed=1, number=100, rows=["a", "b", "c"])


def test_differences_are_named():
    wanted = [{"history": {"loss": ["1", "2"]}, "kept": {}}]
    assert differences(wanted, wanted) == []
    other = [{"history": {"loss": ["1", "3"]}, "kept": {}}]
    assert differences(other, wanted) == ["/0/history/loss/1"]
    assert differences(None, wanted) == [""]
    shorter = [{"history": {"loss": ["1"]}, "kept": {}}]
    assert differences(shorter, wanted) == ["/0/history/loss: 1 instead of 2"]


def test_a_worker_killed_between_two_steps_and_one_amid_a_file(tmp_path):
    row = "topk_16_bits"
    kills = [
        Kill(0, row, 0, Moment("before exchange", occurrence=5), 0.0),
        Kill(1, row, 1, Moment("write", occurrence=2), 0.0),
    ]
    matrix = Matrix(tmp_path, kills, workers=2)
    matrix.run()
    killed = list(matrix.trainings())
    assert len(killed) == 1, table(matrix.results)
    assert [kill["number"] for kill in killed[0]["kills"]] == [0, 1]
    assert killed[0]["same"], killed[0]["differences"]
    assert killed[0]["left"] == []
    assert killed[0]["unplanned"] == 0
    again = Matrix(tmp_path, kills, workers=2)  # It is all done.
    again.run()
    assert again.results == matrix.results


def test_what_is_left_behind_is_found(tmp_path):
    job = Job(tmp_path / "job", "dense")
    job.directory.mkdir()
    (job.directory / "step-00000002").mkdir()
    (job.directory / ".partial-1-x").write_text("")
    (job.temporary / "mine").write_text("")
    assert job.left_behind() == [
        "temporary mine",
        ".partial-1-x",
        "step-00000002",
    ]
