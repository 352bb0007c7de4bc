"""What a Checkpoint refuses, and that nothing is lost by it."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.checkpoint import directory
from tem_tf.checkpoint.epoch_data import EpochData
from tests.checkpoint.one_weight import OneWeight
from tests.checkpoint.training import fit, make_dataset, make_model
from tests.training import make_strategy


def sgd():
    return keras.optimizers.SGD(0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "`every` must be an integer >= 1. Received: every=0"),
        ({"every": True}, "Received: every=True"),
        ({"keep": 0.5}, "`keep` must be an integer >= 1. Received: keep=0.5"),
        ({"stop_signals": "SIGTERM"}, "`stop_signals` must be names of signals"),
        ({"stop_signals": ["SIGNOT"]}, "that can be handled. Received: 'SIGNOT'"),
        ({"stop_signals": ["SIGKILL"]}, "that can be handled. Received: 'SIGKILL'"),
    ],
)
def test_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tem_tf.Checkpoint(tmp_path, **arguments)


def test_a_loop_must_begin_with_a_built_optimizer(tmp_path):
    checkpoint = tem_tf.Checkpoint(tmp_path)
    with pytest.raises(ValueError, match="A checkpoint must begin first"):
        checkpoint.after(1)
    for optimizer in (sgd(), None):
        with pytest.raises(
            ValueError, match="`optimizer` must be a Keras optimizer th"
        ):
            checkpoint.begin(None, optimizer)


def test_a_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="`directory` must be a directory that can be"):
        OneWeight(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_model_that_is_not_built(tmp_path):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(sgd(), "mse")
    with pytest.raises(ValueError, match="A model must be built before a checkpoint"):
        model.fit(
            np.ones((4, 2)),
            np.ones((4, 1)),
            callbacks=[tem_tf.Checkpoint(tmp_path)],
            verbose=0,
        )


def test_data_whose_length_nobody_knows():
    def endless(epoch):
        return make_dataset(epoch).repeat()

    with pytest.raises(ValueError, match="`steps` must be the number of batches"):
        EpochData(endless, None)
    assert EpochData(endless, 5).steps == 5


def test_steps_per_epoch_with_the_data_of_a_checkpoint(tmp_path):
    model = make_model(make_strategy(1), sgd)
    checkpoint = tem_tf.Checkpoint(tmp_path)
    with pytest.raises(ValueError, match="`steps_per_epoch`, `class_weight` and"):
        model.fit(
            checkpoint.data(make_dataset),
            steps_per_epoch=3,
            callbacks=[checkpoint],
            shuffle=False,
            verbose=0,
        )


def test_a_checkpoint_within_an_epoch_without_its_data(tmp_path):
    assert fit(make_strategy(1), sgd, tmp_path, kill_at=5) is None
    model = make_model(make_strategy(1), sgd)
    with pytest.raises(ValueError, match="A checkpoint within an epoch needs the data"):
        model.fit(
            make_dataset(0),
            callbacks=[tem_tf.Checkpoint(tmp_path)],
            shuffle=False,
            verbose=0,
        )
    assert fit(make_strategy(1), sgd, tmp_path)["epochs"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (lambda: keras.optimizers.SGD(0.2), "inner_optimizer.learning_rate"),
        (lambda: keras.optimizers.Adam(0.1), "inner_optimizer"),
        (
            lambda: tem_tf.SparsifiedOptimizer(sgd(), tem_tf.TopK(0.1)),
            "compressor",
        ),
    ],
)
def test_other_settings(other, difference, tmp_path):
    assert fit(make_strategy(1), sgd, tmp_path, kill_at=5) is None
    with pytest.raises(ValueError, match=rf"differs in .*{difference} \("):
        fit(make_strategy(1), other, tmp_path)
    assert fit(make_strategy(1), sgd, tmp_path) is not None  # Nothing was lost.


def test_another_model(tmp_path):
    OneWeight(tmp_path).run(2)
    weight = keras.Variable(np.zeros((2, 2), np.float32), name="other")
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(0.5), tem_tf.HardThreshold(1.5)
    )
    optimizer.build([weight])
    with pytest.raises(ValueError, match="must be of the same variables"):
        tem_tf.Checkpoint(tmp_path).begin(None, optimizer)


def test_a_newer_format(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(directory, "FORMAT", 2)
        OneWeight(tmp_path).run(2)
    with pytest.raises(ValueError, match="is of format 2; this tem_tf reads 1"):
        OneWeight(tmp_path)
    manifest = max(tmp_path.glob("step-*/manifest.json"))
    assert json.loads(manifest.read_text())["format"] == 2


def test_other_versions_are_told_of(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(tem_tf.checkpoint.saver._VERSIONS, "keras", "3.0.0")
        OneWeight(tmp_path).run(2)
    with pytest.warns(UserWarning, match=r"keras 3\.0\.0, .* with other versions"):
        assert OneWeight(tmp_path).start == 2


def test_text_cannot_be_saved(tmp_path):
    words = tf.Variable(["a"])
    from tem_tf.checkpoint import ReplicaVariables

    with pytest.raises(TypeError, match="must hold numbers. Received: "):
        from tem_tf.checkpoint.array_files import write_arrays

        write_arrays(tmp_path / "file", ReplicaVariables(lambda: [words]).read()[0])
