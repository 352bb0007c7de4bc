"""Whole runs on scikit-learn's digits, in this process."""

import dataclasses
import json
import math

import jsonschema
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_studies.refusal import Refusal
from tem_studies.workloads import (
    architectures,
    data_places,
    data_sources,
    experiment,
    image_task,
    results,
    study_files,
)
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.logdir import SCHEMA_PATH

# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
pytestmark = [
    pytest.mark.slow,  # Whole runs.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SMALL = {
    "datasource": "digits",
    "target_sparsity": 0.0,
    "batch_size": 30,
    "train_iterations": 7,
    "check_interval": 3,
    "save_interval": 4,
}


@pytest.fixture(scope="module")
def digits():
    """The first of the digits, 200 / 50 / 50."""
    data = data_sources.load(data_places.locate_images("digits", None))

    def first(split, count):
        return data_sources.Split(split.images[:count], split.labels[:count])

    return dataclasses.replace(
        data,
        train=first(data.train, 200),
        validation=first(data.validation, 50),
        test=first(data.test, 50),
    )


@pytest.fixture
def run(digits, tmp_path):
    """Runs a configuration of digits; returns the result and its directory."""

    def run_it(name="run", replicas=1, **settings):
        configuration = Configuration(
            **SMALL | {"logdir": str(tmp_path / name)} | settings
        )
        strategy = tf.distribute.get_strategy()
        if replicas > 1:
            devices = [f"CPU:{i}" for i in range(replicas)]
            strategy = tf.distribute.MirroredStrategy(devices)
        stopwatch = results.Stopwatch()
        work = experiment.Experiment(configuration, strategy, digits, stopwatch)
        return work.run(), tmp_path / name

    return run_it


def weights_of(directory, step):
    """The weights of a checkpoint."""
    model = architectures.build("simple-cnn", (28, 28, 1), seed=99)
    model.load_weights(directory / "checkpoints" / f"step-{step:06d}.weights.h5")
    return model.get_weights()


def events_of(directory):
    """Steps by tag, of the TensorBoard events in a directory."""
    steps = {}
    for file in directory.glob("events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                steps.setdefault(value.tag, []).append(event.step)
    return steps


def test_run_leaves_what_it_promises(run):
    result, directory = run(
        target_sparsity=0.5, compressor="hard_threshold", threshold=0.01, replicas=2
    )
    written = json.loads((directory / "result.json").read_text())
    jsonschema.validate(written, json.loads(SCHEMA_PATH.read_text()))
    assert written == json.loads(json.dumps(result))
    assert written["status"] == "finished"
    assert [record["step"] for record in written["history"]] == [3, 6, 7]
    assert written["versions"]["tem_tf"] == tem_tf.__version__
    assert written["replicas"] == 2
    kernels = ("native kernels", "TensorFlow's operations: ")
    assert written["gradients"].startswith(kernels)

    kept = {name: counts["kept"] for name, counts in written["pruning"].items()}
    assert sum(kept.values()) == 31_173
    assert kept["convolution_1/bias"] == kept["dense/bias"] == 0
    files = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert files == ["step-000004.weights.h5", "step-000007.weights.h5"]
    zeros = sum((weight == 0).sum() for weight in weights_of(directory, 7))
    assert zeros == 62_346 - 31_173

    communication = written["communication"]
    assert communication["dense_bytes"] == 4 * 62_346 * 7 * 2
    assert 0 < communication["density"] < 0.5
    steps = np.load(directory / "steps.npz")
    assert sorted(steps) == ["entries", "error", "payload_bytes"]
    assert [steps[name].shape for name in steps] == [(7,)] * 3
    for name in ("entries_sent", "payload_bytes"):
        total = steps[name.removesuffix("_sent")].sum()
        assert 2 * total == pytest.approx(communication[name], rel=1e-12)
    assert steps["error"].sum() == pytest.approx(communication["total_error"])
    assert communication["sent_per_live_entry"] == pytest.approx(
        2 * communication["density"]
    )
    assert communication["live_dense_bytes"] == 4 * 31_173 * 7 * 2
    last = written["history"][-1]
    for name in ("payload_bytes", "padded_bytes"):
        assert last[name] == communication[name]
    assert events_of(directory / "train")["loss"] == [3, 6, 7]
    assert events_of(directory / "validation")["accuracy"] == [3, 6, 7]
    assert events_of(directory / "communication")["communication/density"] == [3, 6, 7]


def test_every_curve_is_described_and_the_settings_are_hyperparameters(run):
    _, directory = run(compressor="topk", density=0.1, running_mean_epochs=1)
    described, settings = {}, []
    for file in directory.glob("*/events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag.startswith("_hparams_"):
                    settings.append((file.parent.name, value))
                else:
                    described[value.tag] = value.metadata.summary_description
    assert {"loss", "communication/total_error", "learning_rate"} <= described.keys()
    assert [tag for tag, words in described.items() if not words.endswith(".")] == []
    ((folder, value),) = settings
    assert folder == "validation"  # Whose scores stand beside them.
    content = value.metadata.plugin_data.content
    for name in (b"learning_rate", b"density", b"batch_size", b"running_mean_epochs"):
        assert name in content
    assert b"logdir" not in content and b"lstm_layers" not in content


def test_same_seed_gives_the_same_run_bit_for_bit(run):
    settings = {
        "target_sparsity": 0.5,
        "compressor": "topk",
        "density": 0.05,
        "optimizer": "nesterov",
    }
    (first, a), (second, b), (other, _) = (
        run(name, seed=seed, **settings)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    for key in ("history", "test", "communication", "pruning"):
        assert first[key] == second[key]
        assert first[key] != other[key]
    for x, y in zip(weights_of(a, 7), weights_of(b, 7), strict=True):
        np.testing.assert_array_equal(x, y)


def test_sparsity_does_not_change_the_order_of_examples(digits, monkeypatch, run):
    taken = []

    class Recorder(image_task.EpochOrder):
        def take(self, steps):
            taken.append(super().take(steps))
            return taken[-1]

    monkeypatch.setattr(image_task, "EpochOrder", Recorder)
    for sparsity in (0.0, 0.5):
        run(target_sparsity=sparsity, train_iterations=2)
    dense, sparse = np.concatenate(taken).reshape(2, 2, 30)
    np.testing.assert_array_equal(dense, sparse)
    epochs = digits.epochs(seed=0)
    epochs.permutation(200)  # the pruning epoch
    np.testing.assert_array_equal(dense.ravel(), epochs.permutation(200)[:60])


def test_running_mean_is_evaluated_beside_the_last_weights(run):
    settings = {
        "optimizer": "momentum",
        "weight_decay": 1e-4,
        "augmentation": "crop-flip-rotate",
        "decay_type": "step",
        "decay_epochs": (1,),
        "learning_rate_warmup_epochs": 1,
        "learning_rate_warmup_factor": 2.0,
    }
    plain, _ = run("plain", replicas=2, **settings)
    # Six steps an epoch: the mean starts again at the last step, the seventh.
    result, directory = run("mean", replicas=2, running_mean_epochs=1, **settings)
    written = json.loads((directory / "result.json").read_text())
    jsonschema.validate(written, json.loads(SCHEMA_PATH.read_text()))
    for with_mean, without in zip(result["history"], plain["history"], strict=True):
        assert without.items() <= with_mean.items()
    means = [r["running_mean_validation_loss"] for r in result["history"]]
    last = [r["validation_loss"] for r in result["history"]]
    assert means[0] != last[0]
    assert means[2] == last[2]
    assert result["test"]["running_mean_accuracy"] == result["test"]["accuracy"]
    rates = [record["learning_rate"] for record in result["history"]]
    assert rates == pytest.approx([0.1 * 1.5, 0.01 * 2, 0.01 * 2])


def test_goal_error_ends_the_run_at_a_multiple_of_its_own_interval(run):
    result, directory = run(goal_error=0.95, check_interval_arrival=2)
    assert result["status"] == "goal_reached"
    assert result["steps"] % 2 == 0
    # Between two checks: what was sent and measured is that of all steps.
    assert result["steps"] % SMALL["check_interval"]
    assert result["history"][-1]["step"] == result["steps"]
    assert result["communication"]["dense_bytes"] == 4 * 62_346 * result["steps"]
    assert result["test"] is not None
    assert (
        directory / "checkpoints" / f"step-{result['steps']:06d}.weights.h5"
    ).exists()


def test_goal_that_is_not_reached_changes_nothing(run):
    result, _ = run("a", goal_error=0.0, check_interval_arrival=2)
    plain, _ = run("b")
    assert result["status"] == "finished"
    assert result["history"] == plain["history"]


@pytest.mark.parametrize(
    ("settings", "records"),
    [
        # Dense: noticed at the first check, by the loss.
        ({}, 1),
        # With a compressor the optimizer raises at the step itself.
        ({"compressor": "hard_threshold", "threshold": 0.01}, 0),
    ],
)
def test_divergence_ends_the_run_with_a_status(run, settings, records):
    result, directory = run(learning_rate=1e20, **settings)
    assert result["status"] == "diverged"
    assert result["steps"] < 7
    assert result["test"] is None
    assert len(result["history"]) == records
    written = json.loads((directory / "result.json").read_text())
    jsonschema.validate(written, json.loads(SCHEMA_PATH.read_text()))
    assert list((directory / "checkpoints").iterdir()) == []


def test_progress_shows_speed_and_what_is_left(run, capsys):
    run(target_sparsity=0.5)
    out = capsys.readouterr().out
    assert "simple-cnn (62,346 parameters) on digits" in out
    assert "pruned: 31,173 of 62,346 entries are kept" in out
    for part in ("step 3/7  loss ", "validation accuracy ", "density 100 %", "s/s"):
        assert part.replace("s/s", " steps/s") in out
    assert out.rstrip().endswith("done")


def test_what_an_earlier_run_left_is_replaced(run, tmp_path):
    stranger = tmp_path / "run" / "checkpoints" / "mine.txt"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("kept")
    run()
    _, directory = run(train_iterations=3)
    files = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert files == ["mine.txt", "step-000003.weights.h5"]
    assert events_of(directory / "train")["loss"] == [3]


def test_directory_that_cannot_be_made_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="`logdir` must be a directory that can be writt"):
        run("file/below")


def test_numbers_that_json_lacks_become_null():
    value = {"a": [1.5, math.nan], "b": {"c": -math.inf, "d": "nan", "e": 2}}
    want = {"a": [1.5, None], "b": {"c": None, "d": "nan", "e": 2}}
    assert study_files.finite_or_null(value) == want
