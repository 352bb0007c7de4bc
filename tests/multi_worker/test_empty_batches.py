"""Workers that get no rows: 33 rows in batches of 16, or datasets of unequal length."""

import pytest

import tem_tf
from tem_tf.nonfinite import EMPTY_BATCH
from tests.multi_worker import empty_batch_laws as laws
from tests.multi_worker.harness import WorkerError


@pytest.mark.parametrize(
    ("rows", "options", "noted"),
    [
        # The last batch has one row, which is worker 0's.
        (33, {}, [[0, 0, 0], [0, 0, 1]]),
        (33, {"form": True}, [[0, 0, 0], [0, 0, 1]]),
        (33, {"count_known": False}, [[0, 0, 0], [0, 0, 1]]),
        (33, {"steps_per_execution": 2}, [[0, 0, 0], [0, 0, 1]]),
        (33, {"run_eagerly": True}, [[0, 0, 0], [0, 0, 1]]),
        (34, {}, [[0, 0, 0], [0, 0, 0]]),
        (17, {}, [[0, 0], [0, 1]]),
        # Each worker takes 8 rows of its own at a time.
        ((24, 8), {"count_known": False}, [[0, 0, 0], [0, 1, 1]]),
    ],
    ids=str,
)
def test_fit_knows_each_workers_empty_batches(two_workers, rows, options, noted):
    results = two_workers.run(laws.fit, rows, options)
    assert [[int(v) for v in r["noted"]] for r in results] == noted
    # Without batch norm the gradient of no rows is zeros.
    assert [result["not_finite"] for result in results] == [[], []]


@pytest.mark.parametrize(
    ("nonfinite", "compressor"),
    [
        ("skip", tem_tf.TopK(0.5)),
        ("zero", tem_tf.TopK(0.5)),
        ("skip", tem_tf.Identity()),
    ],
)
def test_no_rows_count_for_nothing(two_workers, nonfinite, compressor):
    """Neither the step nor moving statistics; worker 0's one row does count."""
    options = {"norm": True, "compressor": compressor, "nonfinite": nonfinite}
    results = two_workers.run(laws.fit, 33, options)
    assert [[int(v) for v in r["noted"]] for r in results] == [[0, 0, 0], [0, 0, 1]]
    assert [result["not_finite"] for result in results] == [[], []]
    assert [result["updates"] for result in results] == [3, 3]


@pytest.mark.parametrize(
    ("compressor", "loss_scale"),
    [
        (tem_tf.HardThreshold(1e-3), None),
        (tem_tf.RandomK(0.5), None),
        (tem_tf.TopK(0.5), "dynamic"),
        pytest.param(tem_tf.Identity(), "dynamic", marks=pytest.mark.exhaustive),
    ],
)
def test_all_workers_are_told_that_a_batch_was_empty(
    two_workers, compressor, loss_scale
):
    """Gathered and reduced; not that a learning rate, or a scale, is too high."""
    options = {"norm": True, "compressor": compressor, "loss_scale": loss_scale}
    with pytest.raises(WorkerError) as error:
        two_workers.run(laws.fit, 33, options)
    assert set(error.value.failures) == {0, 1}
    for failure in error.value.failures.values():
        assert EMPTY_BATCH in failure
        assert "Replicas whose gradient is not finite:] [1]" in failure
        assert "Of these with an empty batch:] [1]" in failure
        assert "Lower the learning rate" not in failure
