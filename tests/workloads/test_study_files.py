"""Files of studies: what several processes may do at once, and what they may not."""

import shutil
import threading

import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads.study_files import alone_in, empty_report, is_finished


def test_a_second_report_waits_for_the_first(tmp_path):
    place, order = tmp_path / "report", []

    def second():
        with alone_in(place):
            order.append("second")

    waiting = threading.Thread(target=second)
    with alone_in(place):
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
        order.append("first")
    waiting.join(timeout=10)
    assert order == ["first", "second"]


def test_report_replaces_an_earlier_one_alone(tmp_path):
    place = tmp_path / "tensorboard"
    empty_report(place)
    (place / "run-0").mkdir()
    (place / "run-0" / "events").touch()
    (place / "file").touch()
    empty_report(place)
    assert not list(place.glob("[!.]*"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(Refusal, match="was not made by a report and is not over"):
        empty_report(other)
    assert (other / "file").exists()


def test_report_killed_while_it_removes_an_earlier_one_is_made_again(
    tmp_path, monkeypatch
):
    place = tmp_path / "tensorboard"
    empty_report(place)
    for name in ("run-0", "run-1"):
        (place / name).mkdir()
    removed = []

    def killed(folder):
        if removed:
            raise KeyboardInterrupt
        removed.append(folder)
        rmtree(folder)

    rmtree = shutil.rmtree
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        empty_report(place)
    assert len(removed) == 1
    empty_report(place)
    assert not list(place.glob("run-*"))


@pytest.mark.parametrize(
    ("content", "finished"),
    [
        ('{"status": "finished"}', True),
        ('{"status": "diverged"}', True),
        ('{"status": "interrupted"}', False),
        (None, False),
    ],
)
def test_a_run_that_was_interrupted_is_not_finished(tmp_path, content, finished):
    if content:
        (tmp_path / "result.json").write_text(content)
    assert is_finished(tmp_path) is finished
