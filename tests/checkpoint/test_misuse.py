"""What a loop of one's own can get wrong is said at once, and loses nothing."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.checkpoint import NamedArrays, ReplicaVariables


def make_optimizer(dtype="float32", shape=(3,)):
    keras.utils.clear_session()
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build([keras.Variable(np.zeros(shape), dtype=dtype, name="weight")])
    return optimizer


def begin(directory, parts=None, **of_optimizer):
    checkpoint = tem_tf.Checkpoint(directory, every=1)
    checkpoint.begin(None, make_optimizer(**of_optimizer), parts)
    return checkpoint


def plain(value=0):
    return NamedArrays(lambda: {"value": value}, lambda arrays: None)


def test_a_relative_directory_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = begin("checkpoints")
    (tmp_path / "elsewhere").mkdir()
    os.chdir("elsewhere")
    checkpoint.end(1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_directory_is_a_path():
    with pytest.raises(ValueError, match="`directory` must be a path in a file system"):
        tem_tf.Checkpoint("gs://bucket/checkpoints")


@pytest.mark.parametrize("step", [4, -1, 6.0, "6", None])
def test_steps_count_on(step, tmp_path):
    begin(tmp_path).end(5)
    checkpoint = begin(tmp_path)
    with pytest.raises(ValueError, match="`step` must be the number of steps"):
        checkpoint.after(step)
    checkpoint.end(np.int64(6))
    assert begin(tmp_path).step == 6


def test_a_checkpoint_may_begin_again(tmp_path):
    checkpoint = begin(tmp_path)
    checkpoint.after(1)
    assert checkpoint.begin(None, make_optimizer()) == 1


@pytest.mark.parametrize("name", ["weights", "position", "a/b"])
def test_a_part_has_a_name_of_its_own(name, tmp_path):
    with pytest.raises(ValueError, match="`parts` must have names without"):
        begin(tmp_path, {name: plain()})


@pytest.mark.parametrize(("there", "here"), [((), ("mine",)), (("mine",), ())])
def test_parts_are_those_that_were_saved(there, here, tmp_path):
    begin(tmp_path, {name: plain() for name in there}).end(1)
    with pytest.raises(ValueError, match="differs in parts"):
        begin(tmp_path, {name: plain() for name in here})


def test_what_is_no_number_is_refused_where_it_is_saved(tmp_path):
    for part in (plain("text"), ReplicaVariables(lambda: [tf.Variable("text")])):
        checkpoint = begin(tmp_path, {"mine": part})
        with pytest.raises(TypeError, match="must hold numbers"):
            checkpoint.after(1)


def test_variables_keep_their_shape_and_type(tmp_path):
    begin(tmp_path).end(1)
    for other in ({"dtype": "float64"}, {"shape": (4,)}):
        with pytest.raises(ValueError, match="must have the shape .* and the dtype"):
            begin(tmp_path, **other)


def test_a_last_checkpoint_that_is_damaged_is_the_last(tmp_path):
    begin(tmp_path).end(1)
    (tmp_path / "step-00000001" / "shared.arrays").write_bytes(b"")
    with pytest.warns(UserWarning, match="training begins anew"):
        assert begin(tmp_path).step == 0


def test_other_variables_are_named_without_numbers(tmp_path):
    def build(*layers):
        keras.utils.clear_session()
        model = keras.Sequential([keras.Input([2]), *layers])
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)
        return model, optimizer

    dense = keras.layers.Dense
    checkpoint = tem_tf.Checkpoint(tmp_path)
    checkpoint.begin(*build(dense(1), dense(1)))
    checkpoint.end(1)
    message = r"Only saved: \['sequential/dense/bias'.*; only here: \[\]"
    with pytest.raises(ValueError, match=message):
        tem_tf.Checkpoint(tmp_path).begin(*build(dense(1)))
