"""Signs of life and progress: the workers' side, the launcher's, and the folder."""

import os
import pathlib
import signal
import stat
import types

import pytest

from tem_tf import heartbeat
from tests.launch.launcher import HEARTBEAT, changed, launch, running, said
from tests.processes import gone


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A heartbeat's file that was last changed in 1970, named in the environment."""
    path = tmp_path / "worker-0"
    path.touch()
    os.utime(path, (0, 0))
    monkeypatch.setenv("TEM_TF_HEARTBEAT", str(path))
    monkeypatch.setattr(heartbeat, "_next_beat", 0.0)
    return path


@pytest.fixture
def heartbeats():
    """The launcher's side, for two workers."""
    made = heartbeat.Heartbeats(2)
    made.begin()
    yield made
    made.remove()


def worker(heartbeats, index, monkeypatch):
    """From here on this process is worker `index`."""
    monkeypatch.setattr(heartbeat, "_next_beat", 0.0)
    for name, value in heartbeats.environment(index).items():
        monkeypatch.setenv(name, value)


def test_a_beat_changes_the_time_and_not_the_text(file):
    file.write_text("12\n")
    os.utime(file, (0, 0))
    heartbeat.beat()
    assert file.stat().st_mtime > 0
    assert file.read_text() == "12\n"


def test_beats_come_at_most_once_a_second(file, monkeypatch):
    moved = []
    for now in (100.0, 100.5, 100.99, 101.0, 101.5):
        clock = types.SimpleNamespace(monotonic=lambda now=now: now)
        monkeypatch.setattr(heartbeat, "time", clock)
        os.utime(file, (0, 0))
        heartbeat.beat()
        moved.append(file.stat().st_mtime > 0)
    assert moved == [True, False, False, True, False]


def test_a_commit_is_a_decimal_text_and_a_beat(file):
    heartbeat.committed(1200)
    assert file.read_text() == "1200\n"
    assert file.stat().st_mtime > 0
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_launcher_nothing_is_done(monkeypatch, tmp_path, value):
    monkeypatch.chdir(tmp_path)
    if value is None:
        monkeypatch.delenv("TEM_TF_HEARTBEAT", raising=False)
    else:
        monkeypatch.setenv("TEM_TF_HEARTBEAT", value)
    heartbeat.beat()
    heartbeat.committed(3)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_no_error(file):
    file.unlink()
    file.parent.rmdir()
    heartbeat.beat()
    heartbeat.committed(3)
    assert not file.parent.exists()


def test_the_launcher_sees_beats_and_forgets_them(heartbeats, monkeypatch):
    assert [heartbeats.last_beat(index) for index in (0, 1)] == [None, None]
    worker(heartbeats, 1, monkeypatch)
    heartbeat.beat()
    assert heartbeats.last_beat(0) is None
    assert heartbeats.last_beat(1) > 1.7e9  # Seconds since 1970.
    heartbeats.begin()
    assert heartbeats.last_beat(1) is None


def test_progress_is_a_later_step_than_any_before(heartbeats, monkeypatch):
    told = []
    for index, step in [(0, 10), (1, 10), (1, 4), (0, 10), (1, 11), (0, 11), (0, 12)]:
        heartbeats.begin()
        worker(heartbeats, index, monkeypatch)
        heartbeat.committed(step)
        told.append(heartbeats.has_progressed())
    assert told == [True, False, False, False, True, False, True]


def test_without_a_commit_there_is_no_progress(heartbeats, monkeypatch):
    worker(heartbeats, 0, monkeypatch)
    heartbeat.beat()
    assert not heartbeats.has_progressed()


@pytest.mark.parametrize("text", ["", "ten", "1.5", "9" * 5000])
def test_a_text_that_is_no_step_is_no_progress(heartbeats, text):
    path = pathlib.Path(heartbeats.environment(0)["TEM_TF_HEARTBEAT"])
    path.write_text(text)
    assert not heartbeats.has_progressed()


def test_a_folder_that_was_taken_away_is_no_error_for_the_launcher(heartbeats):
    heartbeats.remove()
    heartbeats.begin()
    assert heartbeats.last_beat(0) is None
    assert not heartbeats.has_progressed()


# ---------------------------------------------------------------------- the launcher


def test_each_worker_has_a_file_of_its_own_that_is_gone_afterwards():
    program = (
        "import stat; path = os.environ['TEM_TF_HEARTBEAT']\n"
        "heartbeat.committed(1)\n"
        "print(path, oct(stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode)))"
    )
    # One of the launcher's own, which may be a worker of another kind, is not taken.
    outer = {"TEM_TF_HEARTBEAT": "/nowhere"}
    command = ["--workers=2", "--", "python", "-c", HEARTBEAT + program]
    result = launch(*command, environment=outer)
    words = [line.split()[-2:] for line in result.stdout.splitlines()]
    assert {mode for _, mode in words} == {oct(stat.S_IRWXU)}
    paths = {pathlib.Path(path) for path, _ in words}
    assert {path.name for path in paths} == {"worker-0", "worker-1"}
    (folder,) = {path.parent for path in paths}
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_folder_is_removed_whatever_ends_the_launcher(tmp_path, number):
    program = (
        "import time; heartbeat.beat()\n"
        f"there = open({str(tmp_path)!r} + f'/{{index}}', 'w')\n"
        "print(os.environ['TEM_TF_HEARTBEAT'], file=there, flush=True)\n"
        "print(os.getpid(), flush=True); time.sleep(1000)"
    )
    with running("--", "python", "-c", HEARTBEAT + program) as (launcher, _):
        folder = pathlib.Path((tmp_path / "0").read_text().strip()).parent
        assert folder.is_dir()
        launcher.send_signal(number)
        launcher.wait(timeout=20)
        # The guard of one that was killed takes a moment.
        launcher.communicate()
        assert gone(folder)


NO_FOLDER = """
def none(**options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
local.heartbeat.tempfile.mkdtemp = none
"""


def test_a_job_runs_without_a_folder():
    program = "print(os.environ.get('TEM_TF_HEARTBEAT')); heartbeat.committed(3)"
    command = ["--workers=1", "--stall_seconds=60", "--max_restarts=1", "--"]
    result = launch(
        *command, "python", "-c", HEARTBEAT + program, launcher=changed(NO_FOLDER)
    )
    assert result.returncode == 0
    assert result.stdout == "[worker 0] None\n"
    assert said(result.stderr) == ["no heartbeats: No space left on device"]
