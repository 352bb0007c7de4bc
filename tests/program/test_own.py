"""What users bring by name, as they run it: from their own directory, by main.py."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import jsonschema
import pytest
from absl.testing import flagsaver

from tem_studies import command_line
from tem_studies.workloads.logdir import SCHEMA_PATH
from tests.own_modules import mine, write_npz  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]
NETWORK = "--datasource npz --path_data own.npz --arch mine:network --batch_size 10"
RUN = (
    f"{NETWORK} --train_iterations 12 --check_interval 6 "
    "--compressor mine:AboveTheMean "
    "--compressor_arguments factor=2"
)
STUDY = (
    f"{RUN} --nruns 2 --mparams_kind learning_rate --goal_error 0.1 --study_dir study"
)
COMPARISON = (
    "--datasource npz --path_data own.npz --arch mine:network --batch_size 10 "
    "--train_iterations 12 --check_interval 6 --nseeds 1 --study_dir study "
    "--compare none,topk,mine:AboveTheMean --budgets 0.3 "
    "--compressor_arguments AboveTheMean.factor=2"
)
CONVEX = (
    "--arch logistic-regression --train_iterations 20 --workers 4 --logdir convex "
    "--compressors none,mine:AboveTheMean --compressor_arguments factor=1.5"
)

pytestmark = [
    pytest.mark.usefixtures("mine"),
    # Keras 3.15 asks numpy 2 for an array in the old way when it saves.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def place(mine):  # noqa: F811
    """The user's directory, with a module and data in it."""
    write_npz(mine / "own.npz")
    return mine


def main(text):
    """Runs main.py in this process; returns the exit code."""
    with flagsaver.flagsaver():
        for name in command_line.FLAGS:
            command_line.FLAGS[name].present = 0
        return command_line.main(["main.py", *text.split()])


def start(text):
    """Runs main.py in a process of its own, from the working directory."""
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *text.split()],
        env={k: v for k, v in os.environ.items() if k != "TF_CONFIG"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def result_in(folder):
    """A run's result, checked against the schema."""
    result = json.loads((folder / "result.json").read_text())
    jsonschema.validate(result, json.loads(SCHEMA_PATH.read_text()))
    return result


def test_a_run_of_ones_own_is_recorded_by_name_and_found_again(place, capsys):
    assert main(f"{RUN} --logdir run --resume auto --resume_interval 5") == 0
    result = result_in(place / "run")
    configuration = result["configuration"]
    assert configuration["arch"] == "mine:network"
    assert configuration["compressor"] == "mine:AboveTheMean"
    assert configuration["compressor_arguments"] == {"factor": 2}
    assert configuration["target_sparsity"] == 0.0
    assert result["data"] == {
        "place": "own.npz",
        "train": 54,
        "validation": 6,
        "test": 20,
    }
    assert 0 < result["communication"]["density"] < 1
    assert "54 examples to train" in capsys.readouterr().out
    assert main(f"{RUN} --logdir run --resume auto") == 0
    assert "this run has finished" in capsys.readouterr().out
    assert main(f"{RUN.replace('=2', '=3')} --logdir run --resume auto") == 1
    assert "`compressor_arguments` ({'factor': 2} there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("mine:AboveTheMean", "mine:Below"), "has no Below"),
        (("mine:AboveTheMean", "yours:Below"), "needs a module yours"),
        (("mine:AboveTheMean", "mine:number"), "derived from tem_tf.Compressor"),
        (("factor=2", "k=2"), "unexpected keyword argument 'k'"),
        (("mine:network", "mine:other"), "has no other"),
        (("mine:network", "yours:network"), "needs a module yours"),
        (("mine:network", "mine:softmax"), "must return logits"),
        (("own.npz", "other.npz"), "`datasource` npz needs `path_data`"),
    ],
)
@pytest.mark.parametrize("command", [f"{RUN} --logdir run", STUDY, COMPARISON])
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    place, capsys, change, words, command
):
    before = {path.name for path in place.iterdir()} | {"__pycache__"}
    command = command.replace("AboveTheMean.factor", "factor")
    assert main(command.replace(*change)) == 1
    out, error = capsys.readouterr()
    assert error.startswith("main.py: error: ") and words in error
    assert error.count("\n") == 1
    if "softmax" not in change[1]:  # Which is known once there is data.
        assert out == ""
        assert {path.name for path in place.iterdir()} <= before


def test_a_study_of_ones_own(place):
    assert main(STUDY) == 0
    configuration = json.loads((place / "study/study.json").read_text())
    assert configuration["configuration"]["compressor"] == "mine:AboveTheMean"
    assert configuration["configuration"]["compressor_arguments"] == {"factor": 2}
    assert main("--report study") == 0


def test_a_study_takes_no_network_with_more_than_weights(place, capsys):
    assert main(STUDY.replace("mine:network", "mine:normalised")) == 1
    assert "must have trained variables alone in a study" in capsys.readouterr().err


def test_a_comparison_shows_ones_own_at_its_own_volume(place, capsys):
    assert main(COMPARISON) == 0
    out = capsys.readouterr().out
    (line,) = [x for x in out.splitlines() if x.startswith("  mine:AboveTheMean")]
    assert "% (its own)" in line
    with (place / "study/report/comparison.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows["mine:AboveTheMean"]["other_volume"] == "own"
    assert rows["none"]["other_volume"] == ""
    run = result_in(place / "study/runs/mine.AboveTheMean-rate-0.1-seed-0")
    assert run["configuration"]["compressor_arguments"] == {"factor": 2}
    (place / "mine.py").unlink()  # A report needs it no more.
    assert main("--compare study") == 0


def test_the_laboratory_takes_ones_own(place):
    assert main(CONVEX) == 0
    with (place / "convex/summary.csv").open(newline="") as file:
        rows = {row["compressor"]: row for row in csv.DictReader(file)}
    assert rows["mine:AboveTheMean"]["setting"] == "factor=1.5"
    assert 0 < float(rows["mine:AboveTheMean"]["density"]) < 1
    assert all(":" not in path.name for path in (place / "convex/runs").iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("mine:AboveTheMean", "mine:Below"), "has no Below"),
        (("mine:AboveTheMean", "yours:Below"), "needs a module yours"),
        (("factor", "Other.factor"), "given as module:Class. Received: Other.factor"),
    ],
)
def test_what_is_wrong_in_the_laboratory_is_one_line(place, capsys, change, words):
    assert main(CONVEX.replace(*change)) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (place / "convex").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        f"{RUN} --logdir run --workers 2",
        f"{STUDY} --parallel_trials 2",
        pytest.param(f"{COMPARISON} --parallel_trials 2", marks=pytest.mark.exhaustive),
        pytest.param(
            f"predict {NETWORK} --workers 2 --link_mbit 100",
            marks=pytest.mark.exhaustive,
        ),
    ],
    ids=["workers", "study", "comparison", "forecast"],
)
def test_other_devices_and_processes_find_ones_own(place, command):
    done = start(command)
    # TensorFlow has words of its own there, which hang on the machine.
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
