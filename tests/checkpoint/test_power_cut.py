"""A disk as it is when the power fails has the checkpoint that was reported."""

import os
import threading
import time

import numpy as np
import pytest

from tem_tf.checkpoint.directory import Directory
from tests.faults import checkpoint_power_cut, small_disks

STEPS = 12


@pytest.fixture
def images(tmp_path):
    """Copies taken all the time while one worker saves, looked through."""
    if not small_disks.can_mount(tmp_path):
        pytest.skip("needs to mount")
    return lambda: images_of_a_run(tmp_path)


def images_of_a_run(folder):
    image = folder / "disk.img"
    photographer = checkpoint_power_cut.Photographer(image, folder, seed=0)
    reported = []
    with small_disks.ext4(image, 16, folder / "disk") as place:
        files = Directory(place / "checkpoints", 0, 1, keep=2)
        files.prepare("run")
        files.forget_start()

        def save():
            draw = np.random.default_rng(0)
            for step in range(1, STEPS + 1):
                arrays = {"x": draw.normal(size=3000)}
                files.write(step, arrays, arrays)
                files.commit(step, 1, {"facts": {}, "versions": {}}, seconds=1.0)
                reported.append(step)
                time.sleep(0.05)  # Else there is no moment at which nothing is written.

        thread = threading.Thread(target=save)
        thread.start()
        while thread.is_alive():
            photographer.take(max(reported, default=0))
        thread.join()
        photographer.take(STEPS)
    assert len(reported) == STEPS
    return checkpoint_power_cut.looked_through(
        photographer.copies, folder / "copy", workers=1
    )


def test_a_power_cut_loses_no_checkpoint(images):
    found = images()
    assert found.pop("images") >= 2
    assert found == dict.fromkeys(checkpoint_power_cut.FINDINGS, 0)


def test_without_fsync_this_would_be_noticed(images, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    assert images()["lost"] > 0
