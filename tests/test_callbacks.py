"""What TensorBoardSparsification writes, in numbers that can be followed by hand.

A gradient of (0.25, 1.0) at each step against a threshold of 0.5: at odd steps 1.0 is
sent and 0.25 held back, at even steps 0.5 and 1.0 are sent and nothing is held back. A
payload has six words of header and two words per entry.
"""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

import tem_tf
from tests.training import linear_model, make_strategy, thresholded

GRADIENT = [0.25, 1.0]


def compiled(optimizer=thresholded, replicas=1, **arguments):
    with make_strategy(replicas).scope():
        model = linear_model("only")
        model.compile(optimizer(), loss=lambda target, output: output, **arguments)
    return model


def fit(model, steps, *callbacks, replicas=1):
    inputs = np.array([GRADIENT] * (steps * replicas))
    targets = np.zeros((len(inputs), 1))
    model.fit(inputs, targets, batch_size=replicas, verbose=0, callbacks=callbacks)


def read(log_dir):
    """Returns {tag: {step: value}}."""
    events = event_accumulator.EventAccumulator(str(log_dir / "communication"))
    events.Reload()
    return {
        tag: {
            e.step: float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)
        }
        for tag in events.Tags()["tensors"]
    }


def steps_of(log_dir):
    return sorted(read(log_dir)["communication/density"])


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_tag_of_the_docstring_has_its_value(replicas, tmp_path):
    callback = tem_tf.TensorBoardSparsification(tmp_path, every=3)
    fit(compiled(replicas=replicas), 4, callback, replicas=replicas)
    expected = {
        # At step 3, of steps 1 to 3; at the end, of step 4.
        "entries_sent": {3: 4 / 3, 4: 2.0},
        # Header, then a bitmap and one value, or both values.
        "payload_bytes": {3: 4 * (6 + 2), 4: 4 * (6 + 2)},
        "padded_bytes": {3: 0.0, 4: 0.0},
        "dense_bytes": {3: 8.0, 4: 8.0},
        "density": {3: 4 / 6, 4: 1.0},
        # Of the run so far.
        "total_error": {3: 2 * 0.25**2, 4: 2 * 0.25**2},
        # Of steps 3 and 4.
        "compression_error": {3: 0.25**2, 4: 0.0},
        "relative_error": {3: 0.25**2 / (0.25**2 + 1), 4: 0.0},
        "residual_norm": {3: 0.25, 4: 0.0},
        "residual_max": {3: 0.25, 4: 0.0},
        "gradient_norm": {3: math.hypot(*GRADIENT), 4: math.hypot(*GRADIENT)},
    }
    written = read(tmp_path)
    tags = {tag for tag in written if not tag.startswith("variables/")}
    assert tags == {f"communication/{name}" for name in expected}
    for name, values in expected.items():
        # Event files hold float32.
        assert written[f"communication/{name}"] == pytest.approx(values, rel=1e-6)
        assert f"`{name}`" in tem_tf.TensorBoardSparsification.__doc__


@pytest.mark.parametrize("replicas", [1, 2])
def test_variables_have_tags_of_their_own(replicas, tmp_path):
    callback = tem_tf.TensorBoardSparsification(tmp_path, every=3)
    fit(compiled(replicas=replicas), 4, callback, replicas=replicas)
    # p² is 0.25² + 1 at odd steps, 0.5² + 1 at even ones.
    error, squares = 0.25**2, 3 * 1 + 2 * 0.25**2 + 0.5**2
    expected = {
        "density": {3: 4 / 6, 4: 1.0},
        "mean_relative_error": {3: 2 * error / squares, 4: 0.0},
        "total_error": {3: 2 * error, 4: 2 * error},
        "relative_error": {3: error / (error + 1), 4: 0.0},
        "residual_norm": {3: 0.25, 4: 0.0},
        "residual_max": {3: 0.25, 4: 0.0},
        "gradient_norm": {3: math.hypot(*GRADIENT), 4: math.hypot(*GRADIENT)},
    }
    written = read(tmp_path)
    (path,) = {
        tag.split("/", 1)[1].rsplit("/", 1)[0]
        for tag in written
        if tag.startswith("variables/")
    }
    assert path == "only/kernel"
    for name, values in expected.items():
        assert written.pop(f"variables/{path}/{name}") == pytest.approx(values)
        assert f"`{name}`" in tem_tf.TensorBoardSparsification.__doc__
    assert not any(tag.startswith("variables/") for tag in written)


def test_variables_may_be_left_out(tmp_path):
    callback = tem_tf.TensorBoardSparsification(tmp_path, every=1, per_variable=False)
    fit(compiled(), 2, callback)
    assert not any(tag.startswith("variables/") for tag in read(tmp_path))
    with pytest.raises(ValueError, match="`per_variable` must be True or False"):
        tem_tf.TensorBoardSparsification(tmp_path, per_variable=1)


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (100, [5])]
)
def test_every_says_how_many_steps_lie_between_records(every, expected, tmp_path):
    fit(compiled(), 5, tem_tf.TensorBoardSparsification(str(tmp_path), every))
    assert steps_of(tmp_path) == expected


def test_steps_are_counted_and_not_executions(tmp_path):
    model = compiled(steps_per_execution=2)
    fit(model, 6, tem_tf.TensorBoardSparsification(tmp_path, every=3))
    assert steps_of(tmp_path) == [4, 6]  # The first call after each third step.


def test_epochs_are_counted_through(tmp_path):
    callback = tem_tf.TensorBoardSparsification(tmp_path, every=2)
    model = compiled()
    inputs, targets = np.array([GRADIENT] * 3), np.zeros((3, 1))
    model.fit(inputs, targets, 1, epochs=2, verbose=0, callbacks=[callback])
    assert steps_of(tmp_path) == [2, 4, 6]


def test_a_second_fit_goes_on(tmp_path):
    model, callback = compiled(), tem_tf.TensorBoardSparsification(tmp_path, every=2)
    fit(model, 3, callback)
    fit(model, 2)  # Unobserved, so in no record: 2 entries and 1.
    fit(model, 1, callback)
    written = read(tmp_path)
    assert written["communication/entries_sent"] == {2: 1.5, 3: 1.0, 6: 2.0}
    assert written["communication/total_error"][6] == 3 * 0.25**2


def test_a_resumed_run_goes_on_counting(tmp_path):
    model = compiled()
    model.optimizer.iterations.assign(100)  # As loading a model does.
    fit(model, 3, tem_tf.TensorBoardSparsification(tmp_path, every=2))
    assert steps_of(tmp_path) == [102, 103]


@pytest.mark.parametrize(
    ("kind", "index", "writes"), [("worker", 0, True), ("worker", 1, False)]
)
def test_the_chief_alone_writes(kind, index, writes, tmp_path, monkeypatch):
    model, callback = compiled(), tem_tf.TensorBoardSparsification(tmp_path, every=1)
    cluster = {"worker": ["localhost:1", "localhost:2"]}
    config = {"cluster": cluster, "task": {"type": kind, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    fit(model, 2, callback)
    assert bool(list(tmp_path.rglob("*tfevents*"))) == writes
    # The others took part in every sum.
    assert callback.summary() == model.optimizer.communication_summary()
    assert callback._last["steps"] == 2


def test_without_compression_all_is_dense(tmp_path):
    def identity():
        return tem_tf.SparsifiedOptimizer("sgd", tem_tf.Identity())

    fit(compiled(identity), 2, tem_tf.TensorBoardSparsification(tmp_path, every=1))
    written = read(tmp_path)
    assert written["communication/density"] == {1: 1.0, 2: 1.0}
    assert written["communication/payload_bytes"] == {1: 8.0, 2: 8.0}
    assert written["communication/total_error"] == {1: 0.0, 2: 0.0}
    assert written["variables/only/kernel/density"] == {1: 1.0, 2: 1.0}


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "10", None])
def test_every_out_of_range(every):
    with pytest.raises(ValueError, match="`every` must be an integer >= 1. Received: "):
        tem_tf.TensorBoardSparsification("logs", every)


def test_a_model_without_the_optimizer(tmp_path):
    callback = tem_tf.TensorBoardSparsification(tmp_path)
    with pytest.raises(ValueError, match="needs a model compiled with a Sparsified"):
        fit(compiled(keras.optimizers.SGD), 1, callback)
    assert not list(tmp_path.iterdir())


def test_a_missing_tensorboard_is_told_before_training(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs the package tensorboard"):
        tem_tf.TensorBoardSparsification(tmp_path)
