"""Disks that fail while a checkpoint is written: one line, nothing older is lost."""

import numpy as np
import pytest

from tem_tf.checkpoint.directory import Directory
from tests.checkpoint.one_weight import OneWeight
from tests.faults import disk, small_disks
from tests.faults.checkpoints import committed, newest_whole

REASONS = {
    "full": "No space left on device",
    "read_only": "Read-only file system",
}


@pytest.fixture
def place(tmp_path):
    if not small_disks.can_mount(tmp_path):
        pytest.skip("needs to mount")
    with small_disks.tmpfs(1024, tmp_path / "disk") as found:
        yield found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return OneWeight(tmp_path_factory.mktemp("whole")).run(6)


@pytest.mark.parametrize("fault", REASONS)
def test_training_goes_on_without_the_disk(fault, place, whole, capfd):
    directory = place / "checkpoints"
    training = OneWeight(directory)
    training.run(3)
    disk.FAULTS[fault](directory)
    training.start = 3
    training.run(5)  # Steps 4 and 5 cannot be saved.
    said = [line for line in capfd.readouterr().err.split("\n") if "tem_tf:" in line]
    assert said == [
        f"tem_tf: the checkpoint of step {step} cannot be written: {REASONS[fault]}. "
        "Training goes on; the last one is of step 3."
        for step in (4, 5)
    ]
    assert newest_whole(directory, 1) == 3
    assert committed(directory, 1) == [3, 2]
    disk.mend(directory)
    training.start = 5
    assert training.run(6) == whole
    assert committed(directory, 1) == [6, 3]
    assert newest_whole(directory, 1) == 6
    assert [path.name for path in sorted(directory.iterdir())] == [
        "step-00000003",
        "step-00000006",
    ]
    assert OneWeight(directory).start == 6


def test_a_start_without_a_writable_disk_says_so(place):
    directory = place / "checkpoints"
    OneWeight(directory).run(3)
    disk.forbid(directory)
    with pytest.raises(ValueError, match=r"can be written to.*Read-only file system"):
        OneWeight(directory)
    disk.mend(directory)
    assert OneWeight(directory).start == 3


def test_a_start_on_a_full_disk_goes_on_from_what_is_there(place):
    directory = place / "checkpoints"
    OneWeight(directory).run(3)
    disk.fill(directory)
    assert OneWeight(directory).start == 3


def test_a_directory_that_was_removed_is_made_anew(tmp_path, whole):
    directory = tmp_path / "checkpoints"
    training = OneWeight(directory)
    training.run(3)
    disk.remove(directory)
    training.start = 3
    assert training.run(6) == whole
    assert committed(directory, 1) == [6, 5]
    assert OneWeight(directory).start == 6


def test_what_others_wrote_of_a_checkpoint_that_failed_goes_with_the_next(tmp_path):
    chief, other = (Directory(tmp_path, worker, 2, keep=1) for worker in range(2))
    other.write(1, None, {})
    with pytest.raises(TimeoutError, match="worker 0 has not written its part"):
        chief.commit(1, 1, {}, seconds=0.0)
    chief.give_up(1)
    assert list(tmp_path.iterdir()) == []
    other.write(1, None, {})  # It was late.
    other.write(2, None, {})
    other.write(3, None, {})
    chief.write(2, {}, {})
    chief.commit(2, 1, {}, seconds=0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002",
        "step-00000003",  # On its way.
    ]
    chief.give_up(2)  # It is a checkpoint: there is nothing to give up.
    assert chief.committed() == [2]


def test_on_a_full_disk_a_worker_can_still_say_that_it_cannot_write(place):
    chief, other = (Directory(place / "disk", worker, 2, keep=1) for worker in (0, 1))
    chief.write(1, {}, {})
    disk.fill(place / "disk")
    with pytest.raises(OSError, match="No space left on device"):
        other.write(1, None, {"x": np.zeros(10)})
    other.say_failed(1)
    with pytest.raises(OSError, match="worker 1 cannot write its part"):
        chief.commit(1, 1, {}, seconds=60.0)
