"""What a directory of results may be before a run starts in it."""

import json
import os
import pathlib
import re

import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads import command_line, environment, logdir, set_up
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.environment import AS_USUAL

FILES = (
    "result.json",
    "steps.npz",
    "checkpoints/step-000004.weights.h5",
    "checkpoints/.partial-step-000004.weights.h5",
    "train/events.out.tfevents.1",
    "communication/events.out.tfevents.1",
)


def write(path, content=""):
    """A file below directories that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def cluster(monkeypatch):
    """Sets TF_CONFIG: workers, and which of them this process is."""

    def sets(workers, index, kind="worker", **others):
        config = {
            "cluster": {"worker": [f"host:{i + 1}" for i in range(workers)], **others},
            "task": {"type": kind, "index": index},
        }
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))

    monkeypatch.delenv("TF_CONFIG", raising=False)
    return sets


@pytest.fixture
def prepared(monkeypatch, cluster, tmp_path):
    """Prepares runs of digits as far as TensorFlow; gives what would be set up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(set_up, "set_up", lambda *arguments: arguments)

    def prepare(path=None, overwrite=False):
        configuration = Configuration(datasource="digits", logdir=path or "unused")
        return command_line.prepare(configuration, path, overwrite, AS_USUAL)

    return prepare


# ------------------------------------------------------------------- what is in it


@pytest.mark.parametrize("file", FILES)
def test_what_any_run_left_is_found(tmp_path, file):
    logdir.require_unused(str(tmp_path / "missing"))
    write(tmp_path / "notes.txt")
    write(tmp_path / "checkpoints" / "mine.txt")
    logdir.require_unused(str(tmp_path))
    write(tmp_path / file)
    shown = file.partition("/")[0] + ("/" if "/" in file else "")
    words = re.escape(
        "`logdir` must have nothing of another run in it. Received: "
        f"logdir={str(tmp_path)!r}, which holds {shown}. Pass another directory, or "
        "--overwrite to replace what is there."
    )
    with pytest.raises(Refusal, match=f"^{words}$"):
        logdir.require_unused(str(tmp_path))
    assert logdir.left_by_a_run(tmp_path) == [tmp_path / file]


def test_a_used_directory_is_refused_by_the_chief_alone(prepared, cluster, tmp_path):
    write(tmp_path / "used" / "result.json")
    with pytest.raises(Refusal, match="`logdir` must have nothing of another run"):
        prepared("used")
    assert prepared("used", overwrite=True)[2] is None
    cluster(1, 0)
    with pytest.raises(Refusal, match="`logdir` must have nothing of another run"):
        prepared("used")
    # With others it says so once they have come: they would wait for it.
    cluster(2, 0)
    assert prepared("used")[2].startswith("`logdir` must have nothing of another run")
    # A worker that starts late may find there what its own chief has begun.
    cluster(2, 1)
    assert prepared("used")[2] is None


# ------------------------------------------------------------ whether it can be made


def test_directory_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    logdir.require_writable(tmp_path / "made" / "later")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        words = f"`study_dir` must be a directory that can .*{path}.*Not a directory"
        with pytest.raises(Refusal, match=words):
            logdir.require_writable(path, "study_dir")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(Refusal, match="`logdir` must be .* .Permission denied."):
        logdir.require_writable("relative/path")


# -------------------------------------------------------------------- default ones


def test_runs_of_one_second_have_directories_of_their_own(prepared, monkeypatch):
    monkeypatch.setattr(logdir.time, "strftime", lambda _: "now")
    monkeypatch.setattr(command_line, "give_back", lambda path: None)
    names = [prepared()[0].logdir for _ in range(3)]
    assert names == ["runs/now", "runs/now-2", "runs/now-3"]
    assert all(pathlib.Path(name).is_dir() for name in names)


def test_only_the_chief_makes_a_default_directory(prepared, cluster):
    cluster(2, 1)
    prepared()
    assert not pathlib.Path("runs").exists()
    pathlib.Path("runs").touch()
    with pytest.raises(Refusal, match="`logdir` must be a directory that can be wr"):
        cluster(1, 0)
        prepared()
    cluster(2, 0)
    assert prepared()[2].startswith("`logdir` must be a directory that can be written")


def test_a_run_that_does_not_start_leaves_no_directory(prepared, monkeypatch):
    def fail(configuration, *_):
        assert pathlib.Path(configuration.logdir).is_dir()
        raise Refusal("wrong data")

    monkeypatch.setattr(set_up, "set_up", fail)
    with pytest.raises(Refusal, match="wrong data"):
        prepared()
    assert not pathlib.Path("runs").exists()


def test_roles_are_those_of_the_plugin(cluster, monkeypatch):
    from tem_tf.strategy import is_chief

    assert environment.role(AS_USUAL) == (True, True)
    for arguments in ((1, 0), (2, 0), (2, "0"), (2, 1)):
        cluster(*arguments)
        assert environment.role(AS_USUAL) == (is_chief(), arguments[0] == 1)
    cluster(2, 0, chief=["host:9"])
    assert environment.role(AS_USUAL) == (is_chief(), False) == (False, False)
    cluster(2, 0, "chief", chief=["host:9"])
    assert environment.role(AS_USUAL) == (is_chief(), False) == (True, False)
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert environment.role(AS_USUAL) == (is_chief(), True)
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(Refusal, match="`TF_CONFIG` must be JSON"):
        environment.role(AS_USUAL)


def test_workers_are_counted_before_their_settings_are_checked(cluster, monkeypatch):
    assert [environment.count_workers(n) for n in (1, 3, 0, "x")] == [1, 3, 1, 1]
    cluster(2, 1)
    assert environment.count_workers(1) == 2
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(Refusal, match="`TF_CONFIG` must be JSON"):
        environment.count_workers(1)


def test_one_run_writes_to_a_directory_at_a_time(tmp_path):
    with (
        logdir.hold(tmp_path),
        pytest.raises(Refusal, match="`logdir` .* where another run writes now"),
    ):
        logdir.hold(tmp_path)
    logdir.hold(tmp_path).close()
