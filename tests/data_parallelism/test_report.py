"""Reports of made-up study directories."""

import json

import pytest

from tem_studies.data_parallelism import report

SETTINGS = {
    "target_sparsity": 0.0,
    "train_iterations": 900,
    "goal_error": 0.2,
    "check_interval": 10,
    "check_interval_arrival": 10,
    "mparams_kind": ["learning_rate"],
    "seed": 0,
}


@pytest.fixture
def write(tmp_path):
    """Writes a study: for each name steps, learning rate, seed, and whether stopped."""

    def make(batch, runs, **settings):
        place = tmp_path / f"b{batch}"
        place.mkdir()
        configuration = SETTINGS | {"batch_size": batch} | settings
        content = json.dumps({"configuration": configuration})
        (place / "study.json").write_text(content)
        for name, (steps, rate, seed, stopped) in runs.items():
            (place / name).mkdir()
            result = {
                "configuration": configuration,
                "history": [{"step": steps, "validation_accuracy": 0.5}],
                "metaparameters": {"learning_rate": rate},
                "seconds": {"train": 1.0},
                "seed": seed,
                "status": "incomplete" if stopped else "complete",
                "steps": steps,
                "steps_to_result": None if stopped else steps,
                "stopped_beyond": steps if stopped else None,
                "trial": int(name.split("-")[1]),
            }
            (place / name / "result.json").write_text(json.dumps(result))
        return place

    return make


def test_setting_without_a_value_is_as_one_that_is_missing(write, tmp_path):
    for batch, settings in ((8, {"memory": None}), (32, {})):
        write(batch, {"run-0": (100, 0.1, 0, False)}, **settings)
    (series,) = report.read([tmp_path])
    assert [study.cell.batch_size for study in series.studies] == [8, 32]
    write(64, {"run-0": (100, 0.1, 0, False)}, memory="ef21")
    assert [one.label for one in report.read([tmp_path])] == [
        "sparsity 0",
        "sparsity 0, memory ef21",
    ]


def test_trial_that_was_run_to_its_end_counts_as_that(write, tmp_path):
    runs = {
        "run-0": (100, 0.1, 0, False),
        "run-1": (110, 0.01, 0, True),
        "run-2": (100, 1.0, 0, True),
        "rerun-1-seed-0": (160, 0.01, 0, False),
        "rerun-0-seed-1": (130, 0.1, 1, False),
        "rerun-0-seed-2": (150, 0.1, 2, False),
    }
    write(8, runs)
    ((study,),) = (one.studies for one in report.read([tmp_path]))
    assert study.cell.steps == (100, 160, float("inf"))
    assert study.cell.rerun_steps == (130, 150)
    (row,) = report.table(report.read([tmp_path]))
    assert (row["complete"], row["incomplete"], row["reruns"]) == (2, 1, 2)
    assert row["rerun_median"] == 140
    assert row["seconds"] == 6  # Of all that was run.


def test_what_is_censored_or_coarse_is_explained(write, tmp_path):
    write(8, {"run-0": (30, 0.1, 0, False), "run-1": (40, 0.01, 0, False)})
    series = report.read([tmp_path])
    first, *rest = report._text(report.table(series), series).splitlines()
    assert first.startswith(
        "sparsity 0, batch 8: K* 30 steps (censored: 2 complete; learning_rate on the "
        "edge) (looked for every 10 steps: no finer is known);"
    )
    assert rest[-1].startswith("censored: other metaparameters or more steps may do")


def test_what_is_neither_is_not(write, tmp_path):
    steps = {"run-0": (300, 0.1, 0, False), "run-1": (400, 0.01, 0, False)}
    write(8, steps | {"run-2": (350, 0.3, 0, False)})
    series = report.read([tmp_path])
    (line,) = report._text(report.table(series), series).splitlines()
    assert line.startswith("sparsity 0, batch 8: K* 300 steps; 3 complete")
