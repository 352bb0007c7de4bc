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


def identity_sgd():
    return tem_tf.SparsifiedOptimizer("sgd", tem_tf.Identity())


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
    events = event_accumulator.EventAccumulator(
        str(log_dir / "communication"),
        size_guidance={event_accumulator.TENSORS: 0},  # All, and not ten of them.
    )
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
        "bytes_by_dense": {3: 4.0, 4: 4.0},
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


def of_seven(known):
    """Seven batches of one gradient, which say how many they are or do not."""
    data = tf.data.Dataset.range(7).filter(lambda i: i >= 0)
    data = data.map(lambda i: (tf.constant([GRADIENT]), tf.zeros([1, 1])))
    return data.apply(tf.data.experimental.assert_cardinality(7)) if known else data


# Keras says that data of unknown length has run out, at each epoch's end.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize(
    ("execution", "every", "expected"),
    [
        (1, 1, list(range(1, 15))),
        (1, 2, [2, 4, 6, 8, 10, 12, 14]),
        (1, 5, [5, 10, 14]),
        # An epoch's last execution has one step, and Keras counts it as three.
        (3, 1, [3, 6, 7, 10, 13, 14]),
        (3, 2, [3, 6, 10, 13, 14]),
        (3, 5, [6, 10, 14]),
        (3, 9, [10, 14]),
    ],
)
def test_records_are_at_steps_that_were_taken(
    execution, every, expected, known, tmp_path
):
    # Eagerly and without compression for those of one number each.
    make = identity_sgd if every == 5 else thresholded
    arguments = {"steps_per_execution": execution, "run_eagerly": every == 1}
    model = compiled(make, **arguments)
    callback = tem_tf.TensorBoardSparsification(tmp_path, every)
    data = of_seven(known)
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
    assert steps_of(tmp_path) == expected
    assert model.optimizer.communication_summary()["steps"] == 14


@pytest.mark.parametrize("per_variable", [True, False])
def test_a_record_costs_one_collective(per_variable, tmp_path, monkeypatch):
    counted = []
    gather = tem_tf.SparsifiedCrossDeviceOps.gather_numbers

    def counting(self, numbers, use):
        tf.py_function(lambda: counted.append(1), [], [])
        return gather(self, numbers, use)

    monkeypatch.setattr(tem_tf.SparsifiedCrossDeviceOps, "gather_numbers", counting)
    model = compiled()
    for _ in range(2):
        callback = tem_tf.TensorBoardSparsification(
            tmp_path, every=2, per_variable=per_variable
        )
        fit(model, 4, callback)
    # At steps 2, 4, 6 and 8, and where the second `fit` begins.
    assert len(counted) == 5


def test_forgetting_between_two_fits_starts_the_sums_anew(tmp_path):
    model, callback = compiled(), tem_tf.TensorBoardSparsification(tmp_path, every=1)
    fit(model, 1, callback)
    model.optimizer.forget()
    fit(model, 1, callback)
    written = read(tmp_path)
    # Nothing was held back any more that would have been sent at step 2.
    assert written["communication/entries_sent"] == {1: 1.0, 2: 1.0}


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
    fit(compiled(identity_sgd), 2, tem_tf.TensorBoardSparsification(tmp_path, every=1))
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


def test_what_keras_puts_around_the_optimizer_is_seen_through(tmp_path):
    """As under the policy mixed_float16."""

    def scaled():
        return keras.optimizers.LossScaleOptimizer(thresholded(), initial_scale=1.0)

    callback = tem_tf.TensorBoardSparsification(tmp_path, every=1)
    fit(compiled(scaled), 2, callback)
    assert steps_of(tmp_path) == [1, 2]
    assert callback.summary()["entries_sent"] == 3


def test_a_missing_tensorboard_is_told_before_training(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs the package tensorboard"):
        tem_tf.TensorBoardSparsification(tmp_path)


def test_events_of_a_killed_training_are_there_once(tmp_path):
    """Its later ones are removed, even if this callback comes before the checkpoint."""

    class Killed(BaseException):
        pass

    class KillAt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if checkpoint.step == 7:
                checkpoint.wait()
                raise Killed

    def steps():
        found = []
        for path in (tmp_path / "logs" / "communication").glob("events*"):
            for record in tf.data.TFRecordDataset(str(path)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                tags = [value.tag for value in event.summary.value]
                found += [event.step] * ("communication/density" in tags)
        return sorted(found)

    def make_dataset(epoch):
        examples = (np.ones((40, 3), "f"), np.ones((40, 2), "f"))
        return tf.data.Dataset.from_tensor_slices(examples).batch(4)

    for kills in (True, False):
        keras.utils.clear_session()
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
        model.compile(tem_tf.SparsifiedOptimizer("sgd", tem_tf.TopK(0.5)), "mse")
        checkpoint = tem_tf.Checkpoint(tmp_path / "checkpoints", every=4)
        board = tem_tf.TensorBoardSparsification(tmp_path / "logs", every=2)
        callbacks = [board, checkpoint, KillAt()] if kills else [board, checkpoint]
        try:
            model.fit(
                checkpoint.data(make_dataset),
                callbacks=callbacks,
                shuffle=False,
                verbose=0,
            )
        except Killed:
            board._writer.flush()
            assert steps() == [2, 4, 6]
    assert steps() == [2, 4, 6, 8, 10]
