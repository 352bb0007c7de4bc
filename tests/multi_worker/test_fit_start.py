"""`fit` on several workers: who writes, and what workers must not differ in."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.multi_worker import fit_start_laws as laws

# Keras's own, while it reads a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


@pytest.mark.parametrize(
    ("case", "what", "received"),
    [
        ("batches", "`x` of `fit`", ("3 batches", "4 batches")),
        ("arrays", "`x` of `fit`", ("3 batches", "4 batches")),
        ("distributed", "`x` of `fit`", ("3 batches", "4 batches")),
        (
            "steps",
            "`x` of `fit`",
            ("2 batches of data without an end", "3 batches of data without an end"),
        ),
        (
            "an end",
            "`x` of `fit`",
            ("4 batches", "4 batches of data without an end"),
        ),
        (
            "a later end",
            "`x` of `fit`",
            ("3 batches of data that ends after 5", "3 batches"),
        ),
        ("an unknown end", "`x` of `fit`", ("5 batches", "batches until they end")),
        ("validation", "`validation_data` of `fit`", ("3 batches", "4 batches")),
        ("evaluation", "`x` of `evaluate`", ("3 batches", "4 batches")),
    ],
)
def test_unequal_batches_are_told_to_all_before_the_first_step(
    two_workers, case, what, received
):
    said = two_workers.run(laws.unequal, case, per_worker=[0, 1])
    assert said[0] == said[1]
    assert said[0] == (
        f"{what} must have as many batches on all workers, which would wait for one "
        f"another. Received: worker 0: {received[0]}, worker 1: {received[1]}. Give "
        "all workers the same data, which the strategy shares out; or `.repeat()` it "
        "and set the same number of steps."
    )


def test_unequal_epochs_and_calls_are_told_to_all(two_workers):
    said = two_workers.run(laws.unequal, "epochs", per_worker=[0, 1])
    assert said[0] == said[1]
    assert said[0] == (
        "`epochs` must be the same on all workers, which would wait for one another. "
        "Received: worker 0: 1, worker 1: 2"
    )
    said = two_workers.run(laws.unequal, "calls", per_worker=[0, 1])
    assert said[0] == said[1]
    assert said[0] == (
        "The method of a model that is called must be the same on all workers. "
        "Received: worker 0: fit, worker 1: evaluate. `evaluate`, too, needs all of "
        "them."
    )


@pytest.mark.parametrize(
    ("case", "epochs"),
    [("all unknown", 2), ("longer than needed", 2), ("a function of data", 1)],
)
def test_what_may_differ_passes(two_workers, case, epochs):
    """TensorFlow's end of unknown data is one for all; what is not reached is none."""
    assert two_workers.run(laws.unequal, case, per_worker=[0, 1]) == [epochs] * 2


@pytest.mark.parametrize("case", ["dataset", "arrays"])
def test_the_chief_warns_of_shuffles_without_a_seed(two_workers, case):
    (_, said), (_, others) = two_workers.run(laws.shuffled, case, per_worker=[0, 1])
    assert others == []
    (complaint,) = said
    assert "seeds: worker 0: [None], worker 1: [None]." in complaint


@pytest.mark.parametrize("case", ["arrays, one seed", "own shares"])
def test_shuffles_that_lose_no_row_pass_without_a_warning(two_workers, case):
    (rows, said), (others, said_too) = two_workers.run(
        laws.shuffled, case, per_worker=[0, 1]
    )
    assert sorted(rows + others) == list(range(laws.ROWS))
    assert said == said_too == []


def events(directory):
    """The tags of all scalar and histogram events below a directory, with steps."""
    found = []
    for path in sorted(directory.rglob("events.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [(value.tag, event.step) for value in event.summary.value]
    return found


def test_the_chief_alone_writes_what_callbacks_write(two_workers, tmp_path):
    results = two_workers.run(laws.written, str(tmp_path), per_worker=[0, 1])
    for weights, history, left in results:
        assert left == []
        assert history == results[0][1]
        np.testing.assert_array_equal(weights[0], results[0][0][0])
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == results[0][1]["loss"]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    # No point of a curve is there twice.
    for part in ("train", "validation"):
        curves = events(tmp_path / "logs" / part)
        curves = [c for c in curves if c[0].startswith(("epoch_", "batch_"))]
        assert len(curves) == len(set(curves)) > 3
    assert keras.saving.load_model(tmp_path / "best.keras").built
    for name in ("step_5.weights.h5", "backup/latest.weights.h5"):
        model = laws.small()
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        model.load_weights(tmp_path / name)
        for ours, theirs in zip(model.get_weights(), results[0][0], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("log.csv", "logs", "best.keras", "step_5.weights.h5", "backup"),
        *("scratch_0", "scratch_1"),
    }


def test_all_workers_restore_the_chiefs_backup(two_workers, tmp_path):
    results = two_workers.run(laws.restored, str(tmp_path), True, per_worker=[0, 1])
    for epochs, weights in results:
        assert epochs == [2]
        np.testing.assert_array_equal(weights[0], results[0][1][0])
    assert not any(tmp_path.glob("backup*"))


def test_a_backup_that_one_worker_does_not_see_is_told_to_all(two_workers, tmp_path):
    said = two_workers.run(laws.restored, str(tmp_path), False, per_worker=[0, 1])
    assert said[0] == said[1]
    assert said[0].startswith(
        "`backup_dir` of BackupAndRestore must be a directory that all workers share: "
        "they restore what the chief wrote. Received: worker 0: [['latest.weights.h5 ("
    )
    assert said[0].endswith(
        "worker 1: [[]]. Give it on a file system that all machines see."
    )


def test_a_backup_on_one_worker_alone_is_told_to_all(two_workers, tmp_path):
    said = two_workers.run(laws.one_sided, str(tmp_path), per_worker=[0, 1])
    assert said[0] == said[1]
    assert said[0] == (
        "`callbacks` must hold BackupAndRestore on all workers: all restore what the "
        "chief wrote. Received: worker 0: 1, worker 1: 0 of them"
    )
