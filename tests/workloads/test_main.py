"""main.py as a user runs it: flags, help, errors, and whole runs in processes."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jsonschema
import pytest
from absl import flags
from absl.testing import flagsaver

from tem_studies import command_line
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.logdir import SCHEMA_PATH

ROOT = pathlib.Path(__file__).parents[2]
NAMES = " ".join(command_line.GROUPS.values()).split()
SHORT = (
    "--datasource digits --arch simple-cnn --target_sparsity 0.9 --batch_size 100 "
    "--train_iterations 20 --check_interval 10 --compressor hard_threshold "
    "--threshold 0.01"
)


@pytest.fixture
def error_of(capsys):
    """What main.py prints for a wrong command line, run in this process."""

    def run(*arguments):
        with flagsaver.flagsaver():
            assert command_line.main(["main.py", *arguments]) == 1
        out, error = capsys.readouterr()
        assert out == ""
        assert error.count("\n") == 1
        return error

    return run


def start(arguments, program=("main.py",), **environment):
    """Runs a program of the repository in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    return subprocess.run(
        [sys.executable, *program, *arguments.split()],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
    )


def result_of(directory):
    """A run's result, checked against the schema."""
    result = json.loads((directory / "result.json").read_text())
    jsonschema.validate(result, json.loads(SCHEMA_PATH.read_text()))
    return result


# ------------------------------------------------------------------------------- flags


def test_every_setting_is_a_flag_with_the_same_default():
    fields = {field.name: field.default for field in dataclasses.fields(Configuration)}
    assert sorted(NAMES) == sorted(fields)
    for name in set(NAMES) - {"goal_error", "logdir"}:
        assert command_line.FLAGS[name].default == fields[name], name
    # What the command may do is no setting: results do not differ by it.
    assert "overwrite" in command_line.FLAGS and "overwrite" not in fields


def test_help_shows_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.main(["main.py", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 88
    words = " ".join(shown.split())
    for name in [*NAMES, "overwrite"]:
        flag = command_line.FLAGS[name]
        assert re.search(rf"--(\[no\])?{name}\b", words)
        assert " ".join(flag.help.split()) in words
        if flag.default is not None:
            assert f"Default: {flag.default}." in words


def test_dps_flags_have_their_authors_defaults():
    # edps/main.py of the authors' code; those of the studies come with them.
    wanted = {
        "datasource": "mnist",
        "arch": "simple-cnn",
        "target_sparsity": 0.9,
        "batch_size": 100,
        "train_iterations": 10_000,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "decay_type": "constant",
        "decay_steps": 1000,
        "end_learning_rate_factor": 0.01,
        "momentum": 0.9,
        "check_interval": 100,
        "save_interval": 1000,
        "check_interval_arrival": 100,
        "goal_error": 0.01,
    }
    assert {name: command_line.FLAGS[name].default for name in wanted} == wanted


@pytest.mark.parametrize(
    ("arguments", "goal"), [((), None), (("--goal_error", "0.01"), 0.01)]
)
def test_goal_error_counts_only_if_it_is_given(arguments, goal):
    with flagsaver.flagsaver():
        flags.FLAGS["goal_error"].present = 0
        command_line.parse(["main.py", *arguments])
        assert command_line.configure().goal_error == goal
        flags.FLAGS["goal_error"].present = 0


@pytest.mark.parametrize(
    ("arguments", "sparsity"),
    [
        ((), 0.9),
        (("--arch", "resnet-8"), 0.9),
        (("--arch", "resnet-18"), 0.0),
        (("--arch", "resnet-18", "--target_sparsity", "0.9"), 0.9),
    ],
)
def test_only_the_dps_networks_are_pruned_unless_told_so(arguments, sparsity):
    with flagsaver.flagsaver():
        flags.FLAGS["target_sparsity"].present = 0
        command_line.parse(["main.py", *arguments])
        assert command_line.configure().target_sparsity == sparsity
        flags.FLAGS["target_sparsity"].present = 0


def test_a_gpts_flags_are_its_own_unless_given(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with flagsaver.flagsaver():
        words = "main.py --datasource text --arch gpt --beta_2 0.95 --workers 2"
        command_line.parse(words.split())
        configuration = command_line.configure()
        flags.FLAGS["beta_2"].present = flags.FLAGS["workers"].present = 0
    assert configuration.optimizer == "adamw"
    assert (configuration.beta_2, configuration.weight_decay) == (0.95, 0.1)
    assert configuration.batch_size == 24


def test_several_decay_epochs_follow_one_flag():
    with flagsaver.flagsaver():
        words = "main.py --decay_type step --decay_epochs 150 250"
        command_line.parse(words.split())
        assert command_line.configure().decay_epochs == (150, 250)


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--density", "10%"),
            "`density` must be a number. Received: density='10%'. Pass a fraction: "
            "10 % is 0.1.",
        ),
        (
            ("--batch_size=1.5",),
            "`batch_size` must be an integer. Received: batch_size='1.5'.",
        ),
        (("--speed=1",), "Unknown command line flag 'speed'"),
        (("digits",), "Every argument must follow a flag. Received: digits."),
        (("--error_feedback=maybe",), "flag --error_feedback=maybe: "),
        (("--compressor", "gzip"), "`compressor` must be one of none, all, "),
        (("--compressor", "topk"), "`compressor` topk needs `density`."),
        (("--path_data", "/nowhere"), "`path_data` must be a directory."),
        (("--arch", "lstm"), "`arch` lstm cannot be trained on `datasource` mnist."),
        (
            ("--arch", "lstm", "--datasource", "tokens"),
            "`datasource` tokens needs `path_data`. Received: path_data=None.",
        ),
        (
            ("--arch", "gpt", "--datasource", "text", "--path_data", "/nowhere.txt"),
            "`path_data` must be a file of text or a directory with one. Received: ",
        ),
        (
            ("--arch", "gpt", "--datasource", "text", "--gpt_heads", "3"),
            "`gpt_features` must be divisible by `gpt_heads`.",
        ),
    ],
)
def test_wrong_command_line_is_one_sentence(error_of, arguments, message):
    assert error_of(*arguments).startswith(f"main.py: error: {message}")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("KERAS_BACKEND", "jax", "Keras's TensorFlow backend is needed. Received: K"),
        ("TF_USE_LEGACY_KERAS", "1", "Keras 3 is needed. Received: TF_USE_LEGACY_K"),
    ],
)
def test_keras_that_cannot_be_used_is_refused(
    error_of, monkeypatch, name, value, message
):
    monkeypatch.setenv(name, value)
    assert error_of().startswith(f"main.py: error: {message}")


def test_virtual_workers_within_a_worker_are_refused(error_of, monkeypatch):
    task = {"type": "worker", "index": 0}
    config = {"cluster": {"worker": ["localhost:1"]}, "task": task}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    error = error_of("--datasource", "digits", "--workers", "2")
    assert "`workers` makes virtual workers in one process and cannot be" in error


def test_batch_larger_than_the_training_split_is_refused(error_of, tmp_path):
    error = error_of(
        "--datasource=digits", "--batch_size=1351", "--logdir", str(tmp_path)
    )
    assert "`batch_size` must be at most the 1350 examples" in error


def test_missing_data_without_network_ends_within_20_seconds(tmp_path):
    # Fifteen for ours; TensorFlow's import, about five, depends on the machine alone.
    program = (
        "import sys, tensorflow, time; began = time.monotonic()\n"
        "from tem_studies import command_line\n"
        "code = command_line.main(['main.py', *sys.argv[1:]])\n"
        "print('seconds', time.monotonic() - began); sys.exit(code)"
    )
    nowhere = "http://127.0.0.1:9"  # a proxy at a port where nothing listens
    done = start(
        "--datasource cifar-10 --arch resnet-8 --target_sparsity 0.9",
        program=("-c", program),
        TFDS_DATA_DIR=str(tmp_path),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), nowhere),
        no_proxy="",
        NO_PROXY="",
    )
    assert float(done.stdout.split()[-1]) < 15
    assert done.returncode == 1
    assert "main.py: error: The data of `datasource` cifar-10 was not f" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------- whole runs


# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_run_prints_accuracy_density_bytes_and_tensorboard(capsys, tmp_path):
    (tmp_path / "result.json").write_text("another run's")
    with flagsaver.flagsaver():
        command = f"main.py {SHORT} --overwrite --logdir {tmp_path}"
        assert command_line.main(command.split()) == 0
    result = result_of(tmp_path)
    assert "overwrite" not in result["configuration"]
    assert result["configuration"]["threshold"] == 0.01
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines.count(f"gradients: {result['gradients']}") == 1
    assert f"test accuracy   {result['test']['accuracy']:.4f}" in lines
    sent = result["communication"]["payload_bytes"]
    sent += result["communication"]["padded_bytes"]
    assert re.search(rf"bytes sent      {sent:,} \(.* % of [\d,]+ dense\)", out)
    assert f"TensorBoard     tensorboard --logdir {tmp_path}" in lines


GPT = (
    "--datasource text --arch gpt --gpt_layers 1 --gpt_features 8 --context 10 "
    "--train_iterations 20 --check_interval 10 --sample_characters 40 --prompt To "
    "--compile_model"
)


@pytest.fixture
def play(tmp_path):
    """A file of text."""
    path = tmp_path / "play.txt"
    path.write_text("To be, or not to be, that is the question:\n" * 20)
    return path


# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_gpt_prints_its_loss_and_a_text(capsys, play, tmp_path):
    said = []
    for name in ("one", "two"):
        with flagsaver.flagsaver():
            command = f"main.py {GPT} --path_data {play} --logdir {tmp_path / name}"
            assert command_line.main(command.split()) == 0
        said.append(capsys.readouterr().out)
    result = result_of(tmp_path / "one")
    loss = result["history"][-1]["validation_loss"]
    assert f"finished after 20 steps\nvalidation loss {loss:.4f}\n" in said[0]
    texts = [re.search(r"done\n(To.*)\nfinished", out, re.DOTALL) for out in said]
    assert texts[0] and texts[0][1] == texts[1][1]
    assert len(texts[0][1]) == 42
    assert result["data"] == {
        "place": str(play),
        "train": 773,
        "validation": 85,
        "test": 0,
    }


@pytest.mark.slow
@pytest.mark.multi_worker
def test_real_workers_train_a_gpt_and_the_chief_alone_prints_its_text(play, tmp_path):
    compressed = f"{GPT} --path_data {play} --compressor topk --density 0.1"
    virtual = start(f"{compressed} --workers 2 --logdir {tmp_path / 'virtual'}")
    assert virtual.returncode == 0, virtual.stderr
    local = ("launch/local.py", "--workers", "2", "--", sys.executable, "main.py")
    done = start(f"{compressed} --logdir {tmp_path / 'real'}", program=local)
    assert done.returncode == 0, done.stderr
    first, second = (result_of(tmp_path / name) for name in ("virtual", "real"))
    assert second["configuration"]["batch_size"] == 24  # 12 of each worker.
    for a, b in zip(first["history"], second["history"], strict=True):
        assert b["validation_loss"] == pytest.approx(a["validation_loss"], rel=1e-4)
    assert done.stdout.count("[worker 0] To") == 1
    assert "[worker 1] To" not in done.stdout


def test_diverged_run_ends_with_a_code_that_is_not_0(capsys, tmp_path):
    with flagsaver.flagsaver():
        command = f"main.py {SHORT} --learning_rate 1e20 --logdir {tmp_path}"
        assert command_line.main(command.split()) == 1
    assert "training diverged: a gradient is not finite" in capsys.readouterr().out
    assert result_of(tmp_path)["status"] == "diverged"


@pytest.fixture(scope="module")
def virtual_run(tmp_path_factory):
    """The result of a run on two virtual workers."""
    directory = tmp_path_factory.mktemp("virtual")
    done = start(f"{SHORT} --workers 2 --logdir {directory}")
    assert done.returncode == 0, done.stderr
    return result_of(directory)


@pytest.mark.slow
def test_same_command_gives_the_same_run(virtual_run, tmp_path):
    done = start(f"{SHORT} --workers 2 --logdir {tmp_path}")
    assert done.returncode == 0, done.stderr
    again = result_of(tmp_path)
    assert again["replicas"] == 2
    for key in ("history", "test", "communication", "pruning"):
        assert virtual_run[key] == again[key]


@pytest.mark.slow
@pytest.mark.multi_worker
def test_real_workers_train_as_virtual_ones_do(virtual_run, tmp_path):
    local = ("launch/local.py", "--workers", "2", "--", sys.executable, "main.py")
    done = start(f"{SHORT} --logdir {tmp_path}", program=local)
    assert done.returncode == 0, done.stderr
    real = result_of(tmp_path)
    assert real["replicas"] == 2
    assert real["pruning"] == virtual_run["pruning"]
    # The same batches and equations; convolutions may share out their sums otherwise.
    for a, b in zip(virtual_run["history"], real["history"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-2)
        assert b["density"] == pytest.approx(a["density"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.multi_worker
def test_workers_with_different_flags_all_end_with_the_difference(tmp_path):
    # Each worker's seed is its own index.
    program = (
        "import json, os, sys\n"
        "from tem_studies import command_line\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "sys.exit(command_line.main(['main.py', '--seed', str(index), *sys.argv[1:]]))"
    )
    local = ("launch/local.py", "--workers", "2", "--", sys.executable, "-c", program)
    done = start(f"{SHORT} --logdir {tmp_path}", program=local, PYTHONPATH=str(ROOT))
    assert done.returncode != 0
    difference = "`seed` (worker 0: 0, worker 1: 1)"
    assert difference in done.stdout + done.stderr
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
@pytest.mark.multi_worker
def test_workers_all_end_where_the_chief_finds_another_run(tmp_path):
    (tmp_path / "result.json").write_text("another run's")
    local = ("launch/local.py", "--workers", "2", "--", sys.executable, "main.py")
    done = start(f"{SHORT} --logdir {tmp_path}", program=local)
    assert done.returncode != 0
    assert "`logdir` must have nothing of another run in it." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_text() == "another run's"


@pytest.mark.slow
def test_fashion_mnist_is_learnt(data_dir, tmp_path):
    done = start(
        "--datasource fashion-mnist --target_sparsity 0.9 --train_iterations 200 "
        f"--path_data {data_dir} --logdir {tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    # Chance is 0.1; the authors' program has 0.87 after ten times as many steps. Single
    # readings move by up to 0.06.
    assert result_of(tmp_path)["test"]["accuracy"] > 0.6
