"""A disk as it is when the power fails has the checkpoint that was reported."""

import os
import threading

import numpy as np
import pytest

from tem_tf.checkpoint.directory import Directory
from tests.faults import checkpoint_power_cut as power_cut

STEPS = 12


@pytest.fixture
def image(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    try:
        image = power_cut.make_image(tmp_path / "disk.img")
        with power_cut.mounted(image, tmp_path / "disk"):
            pass
    except (PermissionError, FileNotFoundError) as error:
        pytest.skip(f"no loop-mounted ext4 here: {error}")
    return image


def images_of_a_run(image, tmp_path):
    """Copies taken all the time while one worker saves."""
    photographer = power_cut.Photographer(image, tmp_path, seed=0)
    reported = []
    with power_cut.mounted(image, tmp_path / "disk") as place:
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

        thread = threading.Thread(target=save)
        thread.start()
        while thread.is_alive():
            photographer.take(max(reported, default=0))
        thread.join()
        photographer.take(STEPS)
    assert len(reported) == STEPS
    return power_cut.looked_through(photographer.copies, tmp_path / "copy", workers=1)


def test_a_power_cut_loses_no_checkpoint(image, tmp_path):
    found = images_of_a_run(image, tmp_path)
    assert found.pop("images") >= 2
    assert found == dict.fromkeys(power_cut.FINDINGS, 0)


def test_without_fsync_this_would_be_noticed(image, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    found = images_of_a_run(image, tmp_path)
    assert found["lost"] > 0
