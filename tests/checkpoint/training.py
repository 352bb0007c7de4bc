"""A small training by `fit` that can be killed at a step, and what it ends with."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf.replica_state import values_here

STEPS, BATCH, EXAMPLES = 8, 12, 96  # Steps of an epoch, examples of a step, in all.


class Killed(BaseException):
    """Stands for the death of a process: nothing behind it runs."""


class KillAt(keras.callbacks.Callback):
    """Raises after so many batches of this `fit`."""

    def __init__(self, batches: int):
        super().__init__()
        self._left = batches

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if self._left == 0:
            raise Killed


def examples() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(EXAMPLES, 6)).astype(np.float32)
    return x, (x[:, :2].sum(axis=1) > 0).astype(np.float32)


def make_dataset(epoch):
    dataset = tf.data.Dataset.from_tensor_slices(examples())
    return dataset.shuffle(EXAMPLES, seed=epoch).batch(BATCH)


def held_out():
    """In one order: a shuffle has another one at each epoch, and after each start."""
    return tf.data.Dataset.from_tensor_slices(examples()).batch(BATCH)


def make_model(strategy, optimizer, **options):
    """With a layer of each kind that keeps something between steps."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input([6]),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        made = optimizer()
        model.compile(made, "binary_crossentropy", metrics=["accuracy"], **options)
    return model


def fit(strategy, optimizer, directory, *, kill_at=None, epochs=3, every=3, **options):
    """Trains, or goes on; returns all that must be the same in the end.

    None where it was killed.
    """
    model = make_model(strategy, optimizer, **options)
    checkpoint = tem_tf.Checkpoint(directory, every=every)
    callbacks = [checkpoint]
    if kill_at is not None:
        callbacks.append(KillAt(kill_at))
    try:
        history = model.fit(
            checkpoint.data(make_dataset),
            epochs=epochs,
            validation_data=held_out(),
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
    except Killed:
        checkpoint.wait()
        return None
    return ending(model) | {"history": history.history, "epochs": history.epoch}


def ending(model):
    """All variables, and what the optimizer keeps besides."""
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    kept = {}
    if hasattr(optimizer, "aggregator"):
        for replica, values in enumerate(optimizer.aggregator.state.values()):
            kept |= {f"{replica}/{name}": v.tobytes() for name, v in values.items()}
    found = [
        here.numpy().tobytes()
        for variable in [
            *model.variables,
            *optimizer.variables,
            *getattr(optimizer, "outer_optimizer", model.optimizer).variables,
        ]
        for here in values_here(variable)
    ]
    return {"variables": found, "kept": kept}
