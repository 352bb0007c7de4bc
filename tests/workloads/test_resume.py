"""Runs that are killed and go on: the same results, files and events in the end."""

import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

import tem_tf
from tem_studies import command_line
from tem_studies.refusal import Refusal
from tem_studies.workloads import (
    command_line as runs,
)
from tem_studies.workloads import (
    data_places,
    experiment,
    results,
    stop_signals,
    training,
)
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.resume_flags import resume_interval
from tem_studies.workloads.tasks import KINDS
from tem_tf.checkpoint import stop_wish
from tem_tf.event_files import EVENTS
from tests.training import make_strategy

pytestmark = [
    pytest.mark.slow,  # Whole runs.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

IMAGES = {
    "datasource": "digits",
    "target_sparsity": 0.5,
    "batch_size": 60,
    "running_mean_epochs": 1,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "compressor": "topk",
    "density": 0.05,
    "memory": "dgc",
    "memory_momentum": 0.5,
}
TEXT = {
    "datasource": "tokens",
    "arch": "lstm",
    "target_sparsity": 0.0,
    "lstm_layers": 1,
    "lstm_units": 4,
    "batch_size": 4,
    "bptt": 5,
    "compressor": "adaptive_threshold",
    "density": 0.1,
    "accumulate_steps": 2,
}
CHARACTERS = {
    "datasource": "text",
    "arch": "gpt",
    "target_sparsity": 0.0,
    "gpt_layers": 1,
    "gpt_heads": 2,
    "gpt_features": 8,
    "context": 5,
    "dropout": 0.1,
    "batch_size": 4,
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "decay_type": "cosine",
    "decay_steps": 24,
    "learning_rate_warmup_steps": 3,
    "compressor": "topk",
    "density": 0.1,
    "compile_model": True,
    "sample_characters": 20,
    "prompt": "w",
}


OF_ADAMW = {
    "datasource": "digits",
    "target_sparsity": 0.0,
    "batch_size": 60,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "compressor": "all",
}
LOCAL = OF_ADAMW | {
    "value_dtype": "int2",
    "local_steps": 4,
    "memory": "decaying_error_feedback",
    "memory_decay": 0.9,
}
FROZEN = OF_ADAMW | {"value_dtype": "sign", "freeze_step": 9}


class Killed(BaseException):
    """Stands for the death of a process."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains, dies after a step of this start, or goes on; returns the result."""
    words = np.random.default_rng(0).integers(0, 9, 600)
    for name in ("train", "valid", "test"):
        text = " ".join(f"w{word}" for word in words)
        (tmp_path / f"{name}.tokens").write_text(text)
    (tmp_path / "input.txt").write_text(text)

    def run_it(name, settings, replicas=1, die_after=None):
        path = None if settings["datasource"] == "digits" else str(tmp_path)
        configuration = Configuration(
            logdir=str(tmp_path / name),
            path_data=path,
            train_iterations=24,
            check_interval=6,
            save_interval=12,
            **settings,
        )
        kind = KINDS[configuration.kind]
        data = kind.load(data_places.locate(configuration))
        work = experiment.Experiment(
            configuration, make_strategy(replicas), data, results.Stopwatch(), 5
        )
        if die_after is None:
            return work.run()
        original = training.Trainer.run

        def dying(trainer, rows):
            if trainer.steps >= die_after:
                work._checkpoint.wait()
                raise Killed
            original(trainer, rows[:1])
            if len(rows) > 1:
                dying(trainer, rows[1:])

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(training.Trainer, "run", dying)
            work.run()
        return None

    return run_it


def weights(folder):
    """Of the last step; the file itself has times in it."""
    found = {}
    with h5py.File(folder / "checkpoints" / "step-000024.weights.h5") as file:
        file.visititems(
            lambda name, it: (
                found.update({name: str(it[...].tobytes())})
                if isinstance(it, h5py.Dataset)
                else None
            )
        )
    return found


def events(folder):
    found = []
    for path in sorted(folder.glob(EVENTS)):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [(event.step, value.tag) for value in event.summary.value]
    return sorted(found)


@pytest.mark.parametrize(
    ("settings", "replicas"),
    [
        pytest.param(IMAGES, 1, id="images-1"),
        pytest.param(IMAGES, 2, id="images-2", marks=pytest.mark.exhaustive),
        pytest.param(TEXT, 1, id="text-1", marks=pytest.mark.exhaustive),
        pytest.param(TEXT, 2, id="text-2"),
        pytest.param(LOCAL, 2, id="local-2"),
        pytest.param(FROZEN, 2, id="frozen-2", marks=pytest.mark.exhaustive),
        pytest.param(CHARACTERS, 1, id="characters-1", marks=pytest.mark.exhaustive),
        pytest.param(CHARACTERS, 2, id="characters-2", marks=pytest.mark.exhaustive),
    ],
)
def test_a_run_that_was_killed_twice_ends_the_same(
    run, tmp_path, capsys, settings, replicas
):
    whole = run("whole", settings, replicas)
    last = capsys.readouterr().out.splitlines()[-1]  # A line of the sample, if any.
    for die_after in (8, 17):  # From 5 and 15 on.
        run("killed", settings, replicas, die_after)
        assert not (tmp_path / "killed" / "result.json").exists()
    ended = run("killed", settings, replicas)
    for name in ("status", "steps", "history", "test", "communication", "pruning"):
        assert ended[name] == whole[name], name
    if settings is CHARACTERS:
        assert capsys.readouterr().out.splitlines()[-1] == last
        assert last.startswith("w") and len(last) == 21
    there, here = (tmp_path / name for name in ("whole", "killed"))
    assert (there / "steps.npz").read_bytes() == (here / "steps.npz").read_bytes()
    assert weights(there) == weights(here)
    for name in ("train", "validation", "communication"):
        assert events(here / name) == events(there / name)
        assert len(set(events(here / name))) == len(events(here / name)) > 0
    assert not (tmp_path / "killed" / "resume").exists()


def test_another_number_of_workers_goes_on_with_all_steps(run, tmp_path):
    run("run", TEXT, 2, die_after=12)
    with pytest.warns(UserWarning, match="From 2 to 1 replicas cannot be carried"):
        ended = run("run", TEXT, 1)
    assert [check["step"] for check in ended["history"]] == [6, 12, 18, 24]
    assert len(results.read_steps(tmp_path / "run")["error"]) == 24


def test_another_configuration_is_refused(run):
    run("run", IMAGES, die_after=12)
    with pytest.raises(Refusal, match=r"differs in .*learning_rate"):
        run("run", IMAGES | {"learning_rate": 0.02})


def test_a_wish_to_stop_is_one_step_and_then_exit_code_75(run, monkeypatch):
    original = training.Trainer.run

    def asked(trainer, rows):
        original(trainer, rows)
        if trainer.steps >= 7:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(training.Trainer, "run", asked)
    with pytest.raises(tem_tf.Stopped) as stopped:
        run("run", IMAGES)
    assert stopped.value.code == 75
    monkeypatch.undo()
    assert run("run", IMAGES)["status"] == "finished"


def test_a_signal_once_the_last_step_is_saved_ends_the_run_until_it_goes_on(
    run, monkeypatch, capfd
):
    """Here and before training it ends the process, for which `Killed` stands."""

    def leave(code):
        assert code == 75
        raise Killed

    def asked(*_):
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    whole = run("whole", IMAGES)
    with stop_signals.leaving_at_once(), monkeypatch.context() as patch:
        patch.setattr(stop_signals.os, "_exit", leave)
        with pytest.raises(Killed):
            asked()
        patch.setattr(experiment.Experiment, "_score", asked)
        for _ in range(2):  # The second goes on after the last step.
            with pytest.raises(Killed):
                run("run", IMAGES)
    words = "SIGTERM: the same command, started again, goes on\n"
    assert capfd.readouterr().err.count(words) == 3
    assert signal.getsignal(signal.SIGTERM) == before == signal.SIG_DFL
    ended = run("run", IMAGES)
    assert ended["test"] == whole["test"]
    assert ended["history"] == whole["history"]


def test_the_signals_are_those_of_a_checkpoint():
    assert tuple(each.name for each in stop_signals.SIGNALS) == stop_wish.SIGNALS


def test_a_run_that_has_just_started_ends_with_exit_code_75(tmp_path):
    """Before TensorFlow is there, at the first look into LOGDIR."""
    code = (
        "import signal, sys\n"
        "from tem_studies import command_line\n"
        "from tem_studies.workloads import command_line as runs\n"
        "runs.finished = lambda _: signal.raise_signal(signal.SIGUSR1)\n"
        "command_line.main(sys.argv)"
    )
    flags = ["--datasource=digits", "--resume=auto", f"--logdir={tmp_path}"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True
    )
    assert ended.returncode == 75, ended.stderr
    assert "SIGUSR1: the same command, started again, goes on\n" in ended.stderr


def test_a_finished_run_is_left_as_it_is(run, tmp_path, monkeypatch, capsys):
    result = run("run", IMAGES)
    flags = [f"--{name}={value}" for name, value in IMAGES.items()]
    flags += [f"--logdir={tmp_path / 'run'}", "--resume=auto", "--train_iterations=24"]
    flags += ["--check_interval=6", "--save_interval=12"]
    with flagsaver.flagsaver():
        assert command_line.main(["main.py", *flags]) == 0
    said = capsys.readouterr().out
    assert "this run has finished: there is nothing to do" in said
    assert f"{result['test']['accuracy']:.4f}" in said
    other = Configuration(**IMAGES | {"seed": 1, "logdir": str(tmp_path / "run")})
    with pytest.raises(Refusal, match=r"`logdir` .* is the run of another .*`seed`"):
        runs.finished(other)


@pytest.mark.parametrize(
    ("given", "arguments", "words"),
    [
        ({"logdir"}, ("maybe", 100, False), "`resume` must be no or auto"),
        ({"resume_interval"}, ("no", 5, False), "has an effect with `resume` auto"),
        (set(), ("auto", 100, False), "needs a `logdir`"),
        ({"logdir"}, ("auto", 100, True), "what `overwrite` would remove"),
        ({"logdir"}, ("auto", 0, False), "must be at least 1"),
    ],
)
def test_flags_that_do_not_fit_are_refused(given, arguments, words):
    with pytest.raises(Refusal, match=words):
        resume_interval(given, *arguments)
