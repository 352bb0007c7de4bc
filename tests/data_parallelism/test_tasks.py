"""Which trials are run next, with a bench that knows every trial's K beforehand."""

import pytest

from tem_studies.data_parallelism import study as engine
from tem_studies.data_parallelism.configuration import Cell, Study
from tem_studies.data_parallelism.directory import StudyDirectory
from tem_studies.data_parallelism.metaparameters import metaparameters
from tem_studies.refusal import Refusal
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.study_progress import StudyProgress

POINTS = metaparameters(["learning_rate"], 20)
LIMIT = 100


@pytest.fixture
def study_of(tmp_path, monkeypatch):
    """Runs a study, returns its directory. Trials of other seeds take one step more."""

    def run(steps, **settings):
        class Bench:
            def __init__(self, cell, *_):
                self._cell = cell

            def run(self, point, seed, best, name):
                ends = steps[POINTS.index(point)] + seed
                beyond = best() if ends > (best() or LIMIT) else None
                complete = beyond is None and ends <= LIMIT
                return {
                    "configuration": self._cell.run.as_dict(),
                    "history": [{"step": 10, "validation_accuracy": 1 - ends / 1000}],
                    "metaparameters": point,
                    "seconds": {},
                    "seed": seed,
                    "status": "complete" if complete else "incomplete",
                    "steps": min(ends, beyond or LIMIT),
                    "steps_to_result": ends if complete else None,
                    "stopped_beyond": beyond,
                }

        monkeypatch.setattr(engine, "Workbench", Bench)
        configuration = Configuration(goal_error=0.3)
        cell = Cell(configuration, ("learning_rate",), stop_beyond_best=True)
        study = Study((cell,), directory=str(tmp_path / "study"), **settings)
        StudyDirectory(study.path).open(cell, study.nruns)
        engine._work_on_cell(study, cell, None, None, None, StudyProgress(0))
        return StudyDirectory(study.path)

    return run


def reruns(directory):
    return {name for name in directory.results() if name.startswith("rerun-")}


def test_nearest_of_the_stopped_go_on_until_three_are_complete(study_of):
    directory = study_of([50, 90, 200, 70, 95], nruns=5)
    assert reruns(directory) == {"rerun-3-seed-0", "rerun-1-seed-0"}
    found = [result["steps_to_result"] for result in directory.trials().values()]
    assert found == [50, 90, None, 70, None]


def test_one_that_does_not_come_to_the_goal_is_followed_by_the_next(study_of):
    directory = study_of([50, 120, 110, 95, 130], nruns=5)
    assert reruns(directory) == {f"rerun-{i}-seed-0" for i in (3, 2, 1, 4)}


def test_more_trials_may_bring_another_winner(study_of):
    steps = [50, 90, 70, 40]
    first = study_of(steps, nruns=3, rerun_seeds=1)
    wanted = {"rerun-1-seed-0", "rerun-2-seed-0", "rerun-0-seed-1"}
    assert reruns(first) == wanted
    more = study_of(steps, nruns=4, rerun_seeds=2)
    assert reruns(more) == wanted | {"rerun-3-seed-1", "rerun-3-seed-2"}


def test_fewer_trials_than_there_are_change_nothing_but_the_reruns(study_of):
    steps = [90, 200, 200, 80, 70, 200, 200, 60]
    assert not reruns(study_of(steps, nruns=8))
    directory = study_of(steps, nruns=2, rerun_seeds=1)
    # Of all trials that there are three are complete, and the last is the winner.
    assert reruns(directory) == {"rerun-7-seed-1"}
    assert directory.results()["rerun-7-seed-1"]["metaparameters"] == POINTS[7]
    assert directory.points() == POINTS[:8]


def test_trials_say_whose_they_are_where_study_json_is_gone(study_of):
    directory = study_of([50, 60, 70], nruns=3)
    (directory.path / "study.json").unlink()
    configuration = Configuration(goal_error=0.3, batch_size=50)
    cell = Cell(configuration, ("learning_rate",), stop_beyond_best=True)
    for refuses in (lambda d: d.check(cell, True), lambda d: d.open(cell, 3)):
        with pytest.raises(Refusal, match=r"`batch_size` \(100 there, 50 here\)"):
            refuses(StudyDirectory(directory.path))
    assert not (directory.path / "study.json").exists()
