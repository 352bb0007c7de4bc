"""Checkpoints of several real workers."""

import shutil

import pytest

from tests.multi_worker import checkpoint_laws as laws


def test_killed_twice_they_end_the_same(two_workers, tmp_path):
    whole = two_workers.run(laws.trained, str(tmp_path / "whole"))
    for kill_at in (5, 7):
        assert two_workers.run(laws.trained, str(tmp_path / "killed"), kill_at) == [
            None,
            None,
        ]
    ended = two_workers.run(laws.trained, str(tmp_path / "killed"))
    assert ended == whole
    assert ended[0]["kept"] != ended[1]["kept"]  # Residuals are each worker's own.


@pytest.mark.exhaustive
def test_killed_before_and_after_freezing_they_end_the_same(two_workers, tmp_path):
    whole = two_workers.run(laws.trained_across_freezing, str(tmp_path / "whole"))
    for kill_at in (5, 9):
        two_workers.run(laws.trained_across_freezing, str(tmp_path / "killed"), kill_at)
    ended = two_workers.run(laws.trained_across_freezing, str(tmp_path / "killed"))
    assert ended == whole
    assert ended[0]["kept"] != ended[1]["kept"]


def test_a_file_damaged_on_one_worker_takes_all_to_the_checkpoint_before(
    two_workers, tmp_path
):
    assert two_workers.run(laws.began, str(tmp_path)) == [4, 4]
    file = tmp_path / "step-00000004" / "worker-1.arrays"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert two_workers.run(laws.began, str(tmp_path)) == [4, 4]
    assert (tmp_path / "damaged-step-00000004").is_dir()


def test_a_missing_workers_file_is_noticed(two_workers, tmp_path):
    assert two_workers.run(laws.began, str(tmp_path)) == [4, 4]
    for step in (2, 4):
        (tmp_path / f"step-{step:08d}" / "worker-1.arrays").unlink()
    assert two_workers.run(laws.began, str(tmp_path)) == [4, 4]  # From the start.
    assert len(list(tmp_path.glob("damaged-*"))) == 2


def test_other_settings_are_refused_on_all(two_workers, tmp_path):
    two_workers.run(laws.began, str(tmp_path))
    for said in two_workers.run(laws.began, str(tmp_path), 0.5):
        assert "inner_optimizer.learning_rate (1.0 there, 0.5 here)" in said


def test_a_directory_that_is_not_shared_is_named_on_all(two_workers, tmp_path):
    for said in two_workers.run(laws.began, str(tmp_path), 1.0, "directory"):
        assert said.startswith("`directory` must be shared by all workers")
        assert "in which worker 1 cannot see what the chief has written" in said


def test_a_worker_that_drifts_is_noticed_before_it_is_saved(two_workers, tmp_path):
    for said in two_workers.run(laws.began, str(tmp_path), 1.0, "weights"):
        assert "diverged by step 4: they differ in weights." in said
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002"]


@pytest.mark.parametrize("worker", [0, 1])
def test_all_stop_after_the_same_step(two_workers, tmp_path, worker):
    assert two_workers.run(laws.stopped, str(tmp_path), worker) == [(10, 75)] * 2
    assert (tmp_path / "step-00000010" / "manifest.json").exists()
    shutil.rmtree(tmp_path)
