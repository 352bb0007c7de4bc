"""A power cut loses no finished file; without the writer's order it does."""

import pytest

from tests.faults import power_cut, small_disks


@pytest.fixture(autouse=True)
def needs_mounts(tmp_path):
    if not small_disks.can_mount(tmp_path):
        pytest.skip("needs the right to mount a loop device")


def test_finished_files_outlive_a_power_cut():
    found = power_cut.run(cuts=2, seed=0)
    assert found["whole"] > 10
    assert set(found) <= {"whole", "unfinished whole"}


def test_files_that_are_only_renamed_do_not():
    """So that the test above would see a loss."""
    found = power_cut.run(cuts=2, seed=0, plain=True)
    assert found["missing"] + found["empty"] + found["torn"] > 0
