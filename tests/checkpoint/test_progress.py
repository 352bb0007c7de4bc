"""The launcher hears of a checkpoint when it is committed, and not before."""

import errno
import os

import pytest

from tem_tf.checkpoint import directory
from tem_tf.checkpoint.saver import Saver


class TwoWorkers:
    """Stands for the texts of two workers, who have no variables here."""

    workers = 2

    def gather(self, text):
        return [text, text]


@pytest.fixture
def told(tmp_path, monkeypatch):
    path = tmp_path / "heartbeat"
    path.write_text("")
    monkeypatch.setenv("TEM_TF_HEARTBEAT", str(path))
    return path


def make(directory, worker):
    return Saver(directory, 2, TwoWorkers(), worker, {}, {}, commit_seconds=0.1)


def test_a_worker_that_has_written_its_part_is_no_progress(told, tmp_path):
    other = make(tmp_path / "checkpoints", worker=1)
    other.save(1)
    other.wait()
    assert told.read_text() == ""
    chief = make(tmp_path / "checkpoints", worker=0)
    chief.save(1)
    chief.wait()
    assert told.read_text() == "1\n"


def test_a_worker_that_cannot_write_does_not_keep_the_chief_waiting(
    told, tmp_path, capfd, monkeypatch
):
    chief, other = (
        Saver(tmp_path / "checkpoints", 2, TwoWorkers(), worker, {}, {}, 60.0)
        for worker in (0, 1)
    )

    def fail(path, arrays):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(directory, "write_arrays", fail)
        other.save(1)
        other.wait()
    chief.save(1)
    chief._thread.join(timeout=30)
    assert not chief._thread.is_alive()
    begin = "tem_tf: the checkpoint of step 1 cannot be written: "
    end = ". Training goes on; there is none.\n"
    assert capfd.readouterr().err == (
        f"{begin}No space left on device{end}{begin}worker 1 cannot write its part{end}"
    )
    assert told.read_text() == ""
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_chief_that_cannot_commit_says_why(told, tmp_path, capfd):
    chief, other = (make(tmp_path / "checkpoints", worker) for worker in (0, 1))
    for step in (1, 2):
        chief.save(step)
        chief.wait()
        other.save(step + 1)  # For the next one.
        other.wait()
    assert told.read_text() == "2\n"
    assert capfd.readouterr().err == (
        "tem_tf: the checkpoint of step 1 cannot be written: worker 1 has not written "
        "its part in 0.1 s. Training goes on; there is none.\n"
    )
