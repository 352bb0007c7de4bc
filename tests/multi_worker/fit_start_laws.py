"""What each of several real workers does in test_fit_start.py."""

import contextlib
import os
import pathlib
import tempfile
import unittest.mock
import warnings

import keras
import numpy as np
import tensorflow as tf

from tem_tf import chief_writing

ROWS = 40


def keeping(trained_with):
    """A model of one weight that notes the rows it is trained with in a list."""

    class Rows(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

        def train_step(self, data):
            tf.py_function(
                lambda x: trained_with.extend(x.numpy().ravel().tolist()), data[:1], []
            )
            return super().train_step(data)

    return Rows()


def data(rows=ROWS, policy="DATA", transform=None):
    """Rows that are their own targets, in batches of 8."""
    x = np.arange(rows, dtype="float32")[:, None] / ROWS
    dataset = tf.data.Dataset.from_tensor_slices((x, x))
    if transform is not None:
        dataset = transform(dataset)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = getattr(
        tf.data.experimental.AutoShardPolicy, policy
    )
    return dataset.batch(8).with_options(options)


def _compiled(strategy, make):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make()
        model.compile("adam", "mse", metrics=["mae"])
    return model


def small():
    """A layer and batch normalisation, whose statistics are each worker's own."""
    layers = [keras.layers.Dense(1), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((1,)), *layers])


def unequal(strategy, case, rank):
    """What is said of calls that differ between workers, or how many epochs were run.

    Args:
        strategy: The workers' own.
        case: By name, what differs.
        rank: This worker's number.
    """
    model = _compiled(strategy, small)
    rows = 24 + 8 * rank
    x = np.zeros([rows, 1], "float32")
    endless = data(64).repeat()
    calls = {
        "batches": lambda: model.fit(data(rows, "OFF"), verbose=0),
        "arrays": lambda: model.fit(x, x, batch_size=8, verbose=0),
        "distributed": lambda: model.fit(
            strategy.distribute_datasets_from_function(lambda _: data(rows)), verbose=0
        ),
        "steps": lambda: model.fit(endless, steps_per_epoch=2 + rank, verbose=0),
        "an end": lambda: model.fit(
            endless if rank else data(64), steps_per_epoch=4, verbose=0
        ),
        "a later end": lambda: model.fit(
            data(40 + 8 * rank, "OFF"), steps_per_epoch=3, epochs=2, verbose=0
        ),
        "an unknown end": lambda: model.fit(
            data().filter(lambda *_: True) if rank else data(), verbose=0
        ),
        "validation": lambda: model.fit(
            data(), validation_data=data(rows, "OFF"), verbose=0
        ),
        "evaluation": lambda: model.evaluate(data(rows, "OFF"), verbose=0),
        "epochs": lambda: model.fit(data(), epochs=1 + rank, verbose=0),
        "calls": lambda: (model.evaluate if rank else model.fit)(data(), verbose=0),
        "all unknown": lambda: model.fit(
            data(rows, "OFF").filter(lambda *_: True), epochs=2, verbose=0
        ),
        "longer than needed": lambda: model.fit(
            data(rows, "OFF"), steps_per_epoch=1, epochs=2, verbose=0
        ),
        "a function of data": lambda: model.fit(
            strategy.distribute_datasets_from_function(lambda _: data(24)), verbose=0
        ),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of Keras's, where unknown data ends.
            return len(calls[case]().epoch)
    except ValueError as error:
        return str(error)


def shuffled(strategy, case, rank):
    """The rows that a worker has trained with, and what it was warned of."""
    trained_with = []
    model = _compiled(strategy, lambda: keeping(trained_with))
    tf.random.set_seed(None)  # As in a script that sets none.
    x = np.arange(ROWS, dtype="float32")[:, None] / ROWS

    def share(_):
        mine = tf.data.Dataset.from_tensor_slices((x, x)).shard(2, rank)
        return mine.shuffle(ROWS).batch(4)

    if case == "own shares":
        made = strategy.distribute_datasets_from_function(share)
    elif case == "dataset":
        made = data(transform=lambda dataset: dataset.shuffle(ROWS))
    else:
        made = x
    if case == "arrays, one seed":
        keras.utils.set_random_seed(1)
    given = {"x": made}
    if made is x:
        given |= {"y": x, "batch_size": 8}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(**given, verbose=0)
    said = [str(w.message) for w in caught if "`shuffle`" in str(w.message)]
    return sorted(round(row * ROWS) for row in trained_with), said


@contextlib.contextmanager
def _scratch(directory, rank):
    """Scratch directories are made where the test can see them."""
    path = pathlib.Path(directory, f"scratch_{rank}")
    path.mkdir(exist_ok=True)
    before = tempfile.tempdir
    tempfile.tempdir = str(path)
    try:
        yield path
    finally:
        tempfile.tempdir = before


def written(strategy, directory, rank):
    """Trains, evaluates and predicts with all writing callbacks.

    Returns:
        The model's weights; the logs of its epochs; what is left in the scratch.
    """
    model = _compiled(strategy, small)
    tensorboard = keras.callbacks.TensorBoard(
        os.path.join(directory, "logs"), update_freq=1
    )
    checkpoint = keras.callbacks.ModelCheckpoint(
        os.path.join(directory, "best.keras"), save_best_only=True, verbose=0
    )
    callbacks = [
        keras.callbacks.CSVLogger(os.path.join(directory, "log.csv")),
        tensorboard,
        checkpoint,
        keras.callbacks.ModelCheckpoint(
            os.path.join(directory, "step_{batch}.weights.h5"),
            save_weights_only=True,
            save_freq=5,
        ),
        keras.callbacks.BackupAndRestore(
            os.path.join(directory, "backup"), delete_checkpoint=False
        ),
    ]
    with _scratch(directory, rank) as scratch:
        history = model.fit(
            data(), validation_data=data(), epochs=2, verbose=0, callbacks=callbacks
        )
        model.evaluate(data(), verbose=0, callbacks=[tensorboard])
        model.predict(data(), verbose=0, callbacks=[tensorboard])
        left = [path.name for path in scratch.glob("tem_tf*")]
    assert checkpoint.filepath == os.path.join(directory, "best.keras")
    return model.get_weights(), history.history, left


def restored(strategy, directory, is_shared, rank):
    """Trains two epochs, and goes on to a third with a new model.

    Args:
        strategy: The workers' own.
        directory: Of this test.
        is_shared: Whether the workers see one directory, or each its own alone.
        rank: This worker's number.

    Returns:
        The epochs of the second `fit`, the weights after it, or what was said.
    """
    backup = os.path.join(directory, "backup" if is_shared else f"backup_{rank}")
    isdir = tf.io.gfile.isdir
    hidden = unittest.mock.patch.object(
        chief_writing.tf.io.gfile, "isdir", lambda path: path == backup and isdir(path)
    )
    if is_shared:
        hidden = contextlib.nullcontext()
    with _scratch(directory, rank), hidden:
        for epochs in (2, 3):
            model = _compiled(strategy, small)
            callback = keras.callbacks.BackupAndRestore(
                backup, delete_checkpoint=epochs == 3
            )
            try:
                history = model.fit(
                    data(), epochs=epochs, verbose=0, callbacks=[callback]
                )
            except ValueError as error:
                return str(error)
    return history.epoch, model.get_weights()


def one_sided(strategy, directory, rank):
    """What is said of a BackupAndRestore on one worker alone."""
    callback = keras.callbacks.BackupAndRestore(os.path.join(directory, "backup"))
    try:
        _compiled(strategy, small).fit(
            data(), verbose=0, callbacks=[callback] if rank == 0 else []
        )
    except ValueError as error:
        return str(error)
    return None
