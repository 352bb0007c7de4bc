"""Whole studies on a small data set, in this process."""

import dataclasses
import json
import math
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from tem_studies.data_parallelism import study as engine
from tem_studies.data_parallelism import trials
from tem_studies.data_parallelism.configuration import Cell, Study
from tem_studies.data_parallelism.directory import StudyDirectory
from tem_studies.refusal import Refusal
from tem_studies.workloads import data_places, data_sources
from tem_studies.workloads.configuration import Configuration
from tests.data_parallelism.small_data import write_mnist

pytestmark = pytest.mark.slow  # Whole runs.

SMALL = {
    "datasource": "mnist",
    "batch_size": 20,
    "target_sparsity": 0.5,
    "train_iterations": 60,
    "check_interval": 20,
    "check_interval_arrival": 10,
    "goal_error": 0.3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The directory for `path_data`."""
    path = tmp_path_factory.mktemp("data")
    write_mnist(path / "MNIST")
    return path


@pytest.fixture
def plan(data, tmp_path):
    """Makes a study of one cell; settings of a run by name, others in `study`."""

    def make(name="study", study=(), kinds=("learning_rate",), cell=(), **settings):
        run = Configuration(**SMALL | {"path_data": str(data)} | settings)
        one = Cell(run, mparams_kind=kinds, **dict(cell))
        return Study((one,), directory=str(tmp_path / name), **dict(study))

    return make


@pytest.fixture(scope="module")
def splits(data):
    return trials.Splits.of(
        data_sources.load(data_places.locate_images("mnist", str(data)))
    )


def results_of(study):
    return StudyDirectory(study.path).results()


def without_times(results):
    """Results without what is never twice the same."""
    return {
        name: {key: value for key, value in result.items() if key != "seconds"}
        for name, result in results.items()
    }


def contents(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*.json")}


def test_study_leaves_the_authors_files(plan):
    study = plan(study={"nruns": 3, "rerun_seeds": 1}, cell={"stop_beyond_best": True})
    assert engine.run(study)
    results = results_of(study)
    # Points: learning rates 0.01, 0.1, 0.001.
    points = json.loads((study.path / "metaparameters.json").read_text())
    assert [p["learning_rate"] for p in points] == pytest.approx([0.01, 0.1, 0.001])
    winner = engine.winning_trial(StudyDirectory(study.path))
    assert results["run-1"]["status"] == "complete"
    names = [f"run-{trial}" for trial in range(3)]
    best = min(results[name]["steps_to_result"] or 99 for name in names)
    assert StudyDirectory(study.path).best() == best
    for trial, point in enumerate(points):
        result = results[f"run-{trial}"]
        assert result["metaparameters"] == point
        assert result["configuration"]["learning_rate"] == point["learning_rate"]
        assert result["seed"] == 0
        path = study.path / f"run-{trial}" / "batch-science" / "metadata.json"
        metadata = json.loads(path.read_text())
        steps = result["steps_to_result"]
        assert metadata["steps_to_result"] == (-1 if steps is None else steps)
        # K is the first check of the goal at which it holds.
        errors = {r["step"]: 1 - r["validation_accuracy"] for r in result["history"]}
        arrivals = [s for s, e in errors.items() if s % 10 == 0 and e <= 0.3 + 1e-9]
        assert arrivals == ([steps] if steps else [])
    # The slow one is stopped at the first check at or after the best K.
    assert results["run-2"]["status"] == "incomplete"
    assert results["run-2"]["stopped_beyond"] == best
    assert results["run-2"]["steps"] == best
    assert results[f"rerun-{winner}-seed-1"]["seed"] == 1
    assert results["run-0"]["pruning"]["dense/bias"]["kept"] == 0
    # Fewer than three would be complete for its stop alone: it went on to its end.
    whole = results["rerun-2-seed-0"]
    assert whole["stopped_beyond"] is None and whole["steps"] > best
    assert (
        whole["history"][: len(results["run-2"]["history"])]
        == (results["run-2"]["history"])
    )
    assert StudyDirectory(study.path).trials()["run-2"] == whole
    stopped = {n for n in names if results[n]["stopped_beyond"] is not None}
    again = {n.replace("run", "rerun") + "-seed-0" for n in stopped}
    assert set(results) == {*names, *again, f"rerun-{winner}-seed-1"}
    before = contents(study.path)
    assert engine.run(study)  # Nothing to do.
    assert contents(study.path) == before


@pytest.mark.slow
def test_resumed_study_has_the_files_of_an_uninterrupted_one(plan):
    whole, parts = plan("whole", {"nruns": 3}), plan("parts", {"nruns": 1})
    assert engine.run(whole)
    assert engine.run(parts)
    before = contents(parts.path)
    assert engine.run(dataclasses.replace(parts, nruns=3))
    after = contents(parts.path)
    del before["metaparameters.json"]  # It has grown; run-0 is as it was.
    assert before.items() <= after.items()
    assert without_times(results_of(parts)) == without_times(results_of(whole))
    assert engine.run(whole)  # Nothing to do.


def test_trials_do_not_depend_on_those_before_them(plan, splits):
    """Weights, optimizer, residuals, masks and order start anew; nothing is traced."""
    settings = {"optimizer": "nesterov", "compressor": "topk", "density": 0.1}
    cell = plan(kinds=("learning_rate", "momentum"), **settings).cells[0]
    points = [
        {"learning_rate": 0.03, "momentum": 0.9},
        {"learning_rate": 0.01, "momentum": 0.99},
    ]
    strategy = tf.distribute.get_strategy()

    def run(bench, point, seed):
        result = bench.run(point, seed)
        return without_times({"": result})

    bench = trials.Workbench(cell, splits, strategy)
    first = run(bench, points[0], seed=0)
    other = run(bench, points[1], seed=3)
    assert first[""]["history"] != other[""]["history"]
    assert first[""]["pruning"] != other[""]["pruning"]
    assert run(bench, points[0], seed=0) == first
    alone = trials.Workbench(cell, splits, strategy)
    assert run(alone, points[1], seed=3) == other


def test_metaparameters_act_as_the_flags_of_their_names(plan, splits):
    strategy = tf.distribute.get_strategy()
    point = {
        "learning_rate": 0.05,
        "momentum": 0.8,
        "decay_steps": 30,
        "end_learning_rate_factor": 0.1,
    }
    settings = {
        "optimizer": "momentum",
        "decay_type": "linear",
        "goal_error": 0.001,
        "check_interval_arrival": 20,
    }
    by_point = plan(kinds=tuple(point), **settings).cells[0]
    by_flags = plan(kinds=(), **settings, **point).cells[0]
    histories = [
        trials.Workbench(by_point, splits, strategy).run(point, 0)["history"],
        trials.Workbench(by_flags, splits, strategy).run({}, 0)["history"],
    ]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("compressor", [{}, {"compressor": "topk", "density": 0.1}])
def test_divergence_is_infeasible(plan, splits, compressor):
    cell = plan(kinds=(), learning_rate=1e20, **compressor).cells[0]
    bench = trials.Workbench(cell, splits, tf.distribute.get_strategy())
    result = bench.run({}, 0)
    assert result["status"] == "infeasible"
    assert result["steps"] <= 10  # at the step itself, or at the first check
    assert result["steps_to_result"] is None


def test_trial_at_its_last_step_has_not_ended_early(plan, splits):
    settings = {"learning_rate": 0.001, "goal_error": 0.001, "train_iterations": 20}
    cell = plan(kinds=(), cell={"stop_beyond_best": True}, **settings).cells[0]
    bench = trials.Workbench(cell, splits, tf.distribute.get_strategy())
    for best, stopped in ((10, 10), (20, None)):
        result = bench.run({}, 0, lambda best=best: best)
        assert (result["steps"], result["stopped_beyond"]) == (best, stopped)


def test_infeasible_trial_has_the_authors_code(plan):
    study = plan(kinds=(), learning_rate=1e20)
    assert engine.run(study)
    path = study.path / "run-0" / "batch-science" / "metadata.json"
    assert json.loads(path.read_text())["steps_to_result"] == -2
    result = json.loads((study.path / "run-0" / "result.json").read_text())
    assert result["status"] == "infeasible"


@pytest.mark.slow
def test_several_cells_have_a_directory_each(plan):
    study = plan(study={"nruns": 1}, train_iterations=10)
    small = dataclasses.replace(study.cells[0].run, batch_size=10)
    cells = (study.cells[0], dataclasses.replace(study.cells[0], run=small))
    both = dataclasses.replace(study, cells=cells)
    assert engine.run(both)
    assert {p.parent.name for p in study.path.glob("*/study.json")} == {
        "s0.5-b20",
        "s0.5-b10",
    }
    with pytest.raises(Refusal, match="holds studies of several cells"):
        engine.run(study)


def test_lipschitz_constant_is_measured_at_its_interval(plan, splits):
    cell = {
        "check_lipschitz": True,
        "lipschitz_interval": 25,
        "lipschitz_examples": 50,
    }
    made = plan(kinds=(), cell=cell, learning_rate=0.001, goal_error=0.001).cells[0]
    plain = plan(kinds=(), learning_rate=0.001, goal_error=0.001).cells[0]
    strategy = tf.distribute.get_strategy()
    result = trials.Workbench(made, splits, strategy).run({}, 0)
    assert result["lipschitz"]["examples"] == 50
    assert [r["step"] for r in result["lipschitz"]["history"]] == [0, 25, 50]
    assert all(r["lipschitz"] > 0 for r in result["lipschitz"]["history"])
    # Looking does not change what is looked at.
    without = trials.Workbench(plain, splits, strategy).run({}, 0)
    assert result["history"] == without["history"]
    assert without["lipschitz"] is None


def test_memory_does_not_grow_with_the_number_of_trials(plan, splits):
    cell = plan(kinds=(), train_iterations=20, goal_error=0.001).cells[0]
    bench = trials.Workbench(cell, splits, tf.distribute.get_strategy())
    for _ in range(3):
        bench.run({}, 0)
    tracemalloc.start()
    try:
        sizes = []
        for _ in range(6):
            bench.run({}, 0)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # One traced graph of this network is more than a megabyte of Python objects.
    assert np.polyfit(range(6), sizes, 1)[0] < 50_000  # bytes per trial


# ------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goal_error": 0.2}, r"`goal_error` \(0.3 there, 0.2 here\)"),
        ({"optimizer": "momentum"}, r"`optimizer` \('sgd' there, 'momentum' here\)"),
        ({"kinds": ()}, r"`mparams_kind` \(\['learning_rate'\] there, \[\] here\)"),
    ],
)
def test_directory_of_another_configuration_is_refused(plan, changes, message):
    study = plan()
    StudyDirectory(study.path).open(study.cells[0], 1)
    before = contents(study.path)
    with pytest.raises(Refusal, match=message):
        engine.run(plan(**changes))
    assert contents(study.path) == before


@pytest.mark.parametrize(
    "name", ["study.json", "metaparameters.json", "run-0/result.json"]
)
def test_half_written_file_is_refused_and_kept(plan, name):
    study = plan()
    StudyDirectory(study.path).open(study.cells[0], 1)
    (study.path / "run-0").mkdir()
    (study.path / name).write_text('{"half": ')
    before = contents(study.path)
    with pytest.raises(Refusal, match=f"{name} cannot be read as JSON"):
        engine.run(study)
    assert contents(study.path) == before


def test_result_of_something_else_is_refused_and_kept(plan):
    study = plan()
    StudyDirectory(study.path).open(study.cells[0], 1)
    (study.path / "run-0").mkdir()
    (study.path / "run-0" / "result.json").write_text("{}")
    before = contents(study.path)
    with pytest.raises(Refusal, match="result.json is damaged, or not of this stu"):
        engine.run(study)
    assert contents(study.path) == before


def test_directory_of_other_data_is_refused(plan, data, tmp_path):
    """Whatever `path_data` says."""
    study = plan(train_iterations=10)
    engine.run(study)
    before = contents(study.path)
    write_mnist(tmp_path / "other" / "MNIST", train=390)
    words = "another configuration: `checksum of the data`"
    with pytest.raises(Refusal, match=words):
        engine.run(plan(train_iterations=10, path_data=str(tmp_path / "other")))
    assert contents(study.path) == before


def test_configuration_that_lacks_a_setting_is_named(plan):
    study = plan()
    StudyDirectory(study.path).open(study.cells[0], 1)
    (study.path / "study.json").write_text('{"configuration": {"batch_size": 20}}')
    words = "'check_interval' is a required property .*configuration"
    with pytest.raises(Refusal, match=words):
        StudyDirectory(study.path).configuration()


def test_no_load_cache_refuses_finished_trials(plan):
    study = plan(train_iterations=10)
    engine.run(study)
    with pytest.raises(Refusal, match="has 1 finished trials, and --no_load_cache"):
        engine.run(dataclasses.replace(study, resumes=False))


def test_batch_larger_than_the_training_split_is_refused(plan):
    study = plan(batch_size=361)
    with pytest.raises(Refusal, match="at most the 360 examples"):
        engine.run(study)
    assert not study.path.exists()


@pytest.mark.parametrize("goal", [0.0, 1.0, -0.1, math.nan, None])
def test_goal_error_outside_its_range_is_refused(plan, goal):
    with pytest.raises(Refusal, match="`goal_error`.*must be .*in"):
        plan(goal_error=goal)


def test_missing_data_file_is_named(plan, tmp_path):
    (tmp_path / "bad" / "MNIST").mkdir(parents=True)
    study = plan(path_data=str(tmp_path / "bad"))
    with pytest.raises(Refusal, match="train-images-idx3-ubyte"):
        engine.run(study)
    assert not study.path.exists()
