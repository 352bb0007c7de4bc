"""A full disk, or a directory that is gone: one line, and nothing older is lost."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure

from tem_studies import written_files
from tem_studies.refusal import Refusal
from tem_studies.workloads import event_files, figure_files, study_files
from tem_studies.workloads.results import STEPS, RunDirectory
from tem_tf.event_files import EVENTS
from tests.faults import small_disks

# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a disk of 200 kB."""
    if not small_disks.can_mount(tmp_path):
        pytest.skip("needs the right to mount a file system")
    with small_disks.tmpfs(200, tmp_path / "disk") as place:
        yield place


def model(units):
    network = keras.Sequential([keras.Input((64,)), keras.layers.Dense(units)])
    network.compile("sgd", "mse")
    return network


def test_checkpoint_on_a_full_disk_is_refused_and_the_last_one_stays(small_disk):
    """Keras writing to the disk itself ends in a segmentation fault of HDF5's."""
    small, large = model(16), model(4096)
    directory = RunDirectory(str(small_disk / "run"), writes=True)
    directory.open()
    directory.save_weights(1, small)
    place = small_disk / "run" / "checkpoints"
    with pytest.raises(Refusal, match=r"step-000002.*No space left on device\.$"):
        directory.save_weights(2, large)
    assert os.listdir(place) == ["step-000001.weights.h5"]
    directory.close()
    again = model(16)
    again.load_weights(place / "step-000001.weights.h5")
    for one, other in zip(small.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def fill(place: pathlib.Path) -> None:
    """Leaves no byte free."""
    with (place / "filling").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def draw(place):
    makers = {"figure": lambda report: Figure()}
    figure_files.save_figures(makers, None, place)


def save_steps(place):
    directory = RunDirectory(str(place), writes=True)
    directory.save_steps(np.random.default_rng(0).random((9999, len(STEPS))))


ROWS = [{"a": 1}] * 9999
WRITERS = {
    "file.json": lambda p: study_files.write_json(p / "file.json", [1] * 9999),
    "table.csv": lambda p: written_files.write_table(
        p / "table.csv", [{"a": 1}] * 9999
    ),
    "result.json": lambda p: RunDirectory(str(p), True).save_result({"a": [1] * 9999}),
    "steps.npz": save_steps,
    "figure.svg": draw,
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_one_line_and_keeps_what_was_there(small_disk, name):
    if name != "figure.svg":  # Figures of an earlier report are removed first.
        (small_disk / name).write_text("old")
    fill(small_disk)
    before = sorted(os.listdir(small_disk))
    with pytest.raises(Refusal, match=r"cannot be written: No space left on device\.$"):
        WRITERS[name](small_disk)
    assert sorted(os.listdir(small_disk)) == before
    if name != "figure.svg":
        assert (small_disk / name).read_text() == "old"


def test_events_on_a_full_disk_are_refused(small_disk):
    import tensorflow as tf

    (small_disk / "events").mkdir()
    fill(small_disk)
    with (
        pytest.raises(Refusal, match="events cannot be written: No space left"),
        event_files.events(small_disk / "events"),
    ):
        tf.summary.scalar("name", 1.0, step=0)


@pytest.mark.parametrize("name", sorted({*WRITERS} - {"figure.svg"}))
def test_directory_that_was_removed_is_one_line(tmp_path, name):
    with pytest.raises(Refusal, match="cannot be written: No such file or directory"):
        WRITERS[name](tmp_path / "removed")


def test_read_only_disk_is_one_line(small_disk):
    (small_disk / "file.json").write_text("old")
    command = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(command, check=True)
    with pytest.raises(Refusal, match="cannot be written: Read-only file system"):
        study_files.write_json(small_disk / "file.json", [1])
    assert (small_disk / "file.json").read_text() == "old"


def test_closed_events_are_synced(tmp_path, monkeypatch):
    import tensorflow as tf

    synced = []
    fsync = os.fsync

    def recorded(descriptor):
        synced.append(pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    with event_files.events(tmp_path / "run"):
        tf.summary.scalar("name", 1.0, step=0)
    (file,) = (tmp_path / "run").glob(EVENTS)
    assert synced == [file, tmp_path / "run"]


def test_program_on_a_full_disk_ends_with_one_line(small_disk):
    """The whole of it, checkpoints included, with no traceback and no crash."""
    flags = "--datasource digits --arch resnet-8 --target_sparsity 0 --batch_size 16"
    flags += " --train_iterations 2 --check_interval 1 --save_interval 1"
    command = [sys.executable, "main.py", *flags.split()]
    command += ["--logdir", str(small_disk / "run")]
    ended = subprocess.run(
        command,
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "No space left on device." in ended.stderr.splitlines()[-1]
