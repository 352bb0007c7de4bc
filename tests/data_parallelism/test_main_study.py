"""Studies as a user starts them: main.py in processes of their own, and its flags."""

import csv
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from absl.testing import flagsaver

from tem_studies import command_line
from tests.data_parallelism.small_data import write_cifar10, write_mnist

ROOT = pathlib.Path(__file__).parents[2]
# The two command lines of the DPS authors' README, as they stand there.
MNIST = (
    "--nruns 100 --path_data PATH_TO_DATA --datasource mnist --arch simple-cnn "
    "--target_sparsity 0.9 --batch_size A_BATCH_SIZE --train_iterations 40000 "
    "--optimizer sgd --decay_type constant --mparams_kind learning_rate "
    "--goal_error 0.02 --check_interval 100"
)
CIFAR = (
    "--nruns 100 --path_data PATH_TO_DATA --datasource cifar-10 --arch resnet-8 "
    "--target_sparsity 0.9 --batch_size A_BATCH_SIZE --train_iterations 100000 "
    "--optimizer nesterov --decay_type linear --mparams_kind learning_rate momentum "
    "decay_steps end_learning_rate_factor --goal_error 0.4 --check_interval 100"
)
SMALL = (
    "--datasource mnist --path_data PATH_TO_DATA --batch_size 20 "
    "--target_sparsity 0.5 --train_iterations 60 --check_interval 20 "
    "--check_interval_arrival 20 --goal_error 0.02 --mparams_kind learning_rate "
    "--nruns 4 --threads 1"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_mnist(path / "MNIST")
    write_cifar10(path / "cifar-10-batches-py", per_batch=20)
    return path


def start(arguments, data, *more, batch_size=10):
    """Starts main.py; placeholders are filled in."""
    text = arguments.replace("PATH_TO_DATA", str(data))
    text = text.replace("A_BATCH_SIZE", str(batch_size))
    return subprocess.Popen(
        [sys.executable, "main.py", *text.split(), *map(str, more)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_CONFIG"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Its output; it must have succeeded."""
    out, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    return out


def table_in(report):
    """The rows of a report's table."""
    text = (report / "steps_to_result.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def results_of(directory):
    """Results without times, by trial."""
    found = {}
    for path in directory.glob("run-*/result.json"):
        result = json.loads(path.read_text())
        del result["seconds"]
        found[path.parent.name] = result
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        (MNIST, ["learning_rate"]),
        (
            CIFAR,
            ["learning_rate", "momentum", "decay_steps", "end_learning_rate_factor"],
        ),
    ],
    ids=["mnist", "cifar-10"],
)
def test_authors_command_lines_run_verbatim(data, tmp_path, arguments, kinds):
    more = ["--train_iterations", 5, "--nruns", 2, "--study_dir", tmp_path]
    more += ["--check_lipschitz", "--lipschitz_interval", 3]
    finish(start(arguments, data, *more))
    results = results_of(tmp_path)
    assert set(results) == {"run-0", "run-1"}
    for result in results.values():
        assert list(result["metaparameters"]) == kinds
        assert result["steps"] == 5
        assert [r["step"] for r in result["lipschitz"]["history"]] == [0, 3]
        assert result["lipschitz"]["examples"] == result["data"]["train"]
    # The report is made at the end, with the figures that the data allows.
    report = tmp_path / "report"
    (row,) = table_in(report)
    assert row["trials"] == "2"
    assert (report / "lipschitz.svg").stat().st_size > 1000
    assert (report / "metaparameters.png").stat().st_size > 1000


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """The results of the small study, of four trials, by one process."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    finish(start(SMALL, data, "--study_dir", directory))
    results = results_of(directory)
    assert len(results) == 4
    return results


@pytest.mark.slow
def test_killed_study_is_resumed_to_the_files_of_an_uninterrupted_one(
    data, uninterrupted, tmp_path
):
    killed = tmp_path / "killed"
    process = start(SMALL, data, "--study_dir", killed)
    # At a random moment after its first trial has begun.
    deadline = time.monotonic() + 100
    while not (killed / "run-0").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 3))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {p: p.read_bytes() for p in killed.glob("run-*/result.json")}
    finish(start(SMALL, data, "--study_dir", killed))
    assert results_of(killed) == uninterrupted
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not list(killed.rglob(".partial-*"))


@pytest.mark.slow
def test_processes_on_one_directory_do_each_trial_once(data, uninterrupted, tmp_path):
    """One command, with two processes of its own beside another command."""
    several = ["--study_dir", tmp_path, "--nruns", 6]
    processes = [
        start(SMALL, data, *several, "--parallel_trials", 2),
        start(SMALL, data, *several),
    ]
    out = "".join(finish(process) for process in processes)
    done = re.findall(r"(run-\d) \(learning_rate", out)
    assert sorted(done) == [f"run-{i}" for i in range(6)]
    results = results_of(tmp_path)
    assert len(results) == 6
    assert uninterrupted.items() <= results.items()  # What one process alone finds.


@pytest.mark.slow
def test_report_lays_studies_side_by_side(data, tmp_path):
    for sparsity in (0, 0.9):
        more = ["--batch_size", 10, 20, "--target_sparsity", sparsity]
        more += ["--study_dir", tmp_path / str(sparsity), "--nruns", 2]
        finish(start(SMALL, data, *more))
    target = tmp_path / "both"
    more = [tmp_path / "0", tmp_path / "0.9", "--logdir", target]
    for _ in range(2):  # It may be made again in the same place.
        finish(start("--report", data, *more))
    rows = table_in(target)
    cells = [(row["target_sparsity"], row["batch_size"]) for row in rows]
    assert cells == [("0", "10"), ("0", "20"), ("0.9", "10"), ("0.9", "20")]
    assert {row["series"] for row in rows} == {"sparsity 0", "sparsity 0.9"}
    events = list((target / "tensorboard").rglob("events.out.tfevents.*"))
    assert len(events) == 8 + 1  # each trial, and the figures


# ------------------------------------------------------------------------ the flags


@pytest.fixture
def error_of(capsys):
    """What main.py prints for a wrong command line, run in this process."""

    def run(arguments):
        with flagsaver.flagsaver():
            assert command_line.main(["main.py", *arguments.split()]) == 1
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        return error

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--mparams_kind rate", "`mparams_kind` must be among learning_rate, "),
        ("--mparams_kind momentum", "no effect with `optimizer` sgd"),
        ("--nruns 2 --goal_error 1", "`goal_error` of a study must be in (0, 1)"),
        ("--nruns 0", "`nruns` must be an integer of at least 1. Received: nruns=0."),
        ("--nruns many", "`nruns` must be an integer. Received: nruns='many'."),
        ("--batch_size 8 x", "`batch_size` must be an integer. Received"),
        ("--batch_size 8 8", "must have each value once. Received: s0.9-b8 s0.9-b8."),
        ("--parallel_trials 2", "`parallel_trials` has an effect in a study alone"),
        ("--nruns 2 --lipschitz_examples 9", "no effect without `check_lipschitz`"),
        ("--nruns 2 --workers 2 --parallel_trials 2", "cannot be combined with"),
        ("--report nowhere", "There is no study in nowhere"),
    ],
)
def test_wrong_study_is_refused(error_of, arguments, message):
    assert message in error_of(arguments)


def test_several_values_follow_one_flag():
    with flagsaver.flagsaver():
        line = "main.py --batch_size 8 32 --mparams_kind a b --nruns 3"
        command_line.parse(line.split(" "))
        assert command_line.FLAGS.batch_size == (8, 32)
        assert command_line.FLAGS.mparams_kind == ("a", "b")
        assert command_line.FLAGS.nruns == 3


def test_study_flags_have_their_authors_defaults():
    wanted = {"lipschitz_interval": 1000, "check_lipschitz": False, "nruns": 1}
    assert {name: command_line.FLAGS[name].default for name in wanted} == wanted
