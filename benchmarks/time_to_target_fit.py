"""One worker of time_to_target.py: whole Keras `fit`s until an accuracy is reached."""

from __future__ import annotations

import math
import pathlib
import time
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from worker_group import serve

import tem_tf
from tem_studies.workloads import architectures, data_files

BATCH = 128  # Over all workers; our choice.
CHECK_STEPS = 20  # Between two measurements of the accuracy.
VALIDATION = 2000  # Examples; a measurement costs about as much as a few steps.
SHAPE = (28, 28, 1)


class Fit(NamedTuple):
    """What to train.

    Attributes:
        path_data: Holds Fashion-MNIST/.
        model: "simple-cnn" or "mlp", three hidden layers of 2048: 10 M parameters.
        threshold: λ of the hard threshold; None: dense, Keras's own all-reduce.
        rate: Learning rate of SGD.
        target: Validation accuracy that ends the training.
        steps: Most steps.
    """

    path_data: str
    model: str
    threshold: float | None
    rate: float
    target: float
    steps: int


class _StopAtTarget(keras.callbacks.Callback):
    """Ends the training at the target; all workers see the same accuracy."""

    def __init__(self, target: float):
        super().__init__()
        self._target = target
        self.began = self.first_step = self.seconds = math.nan
        self.steps = 0

    def on_train_begin(self, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == 1:  # Traced and connected.
            self.first_step = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and logs["val_accuracy"] >= self._target:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.seconds = time.perf_counter() - self.began


class Worker:
    """Answers the benchmark's requests; see `handle`."""

    def __init__(self):
        self._strategy = tem_tf.MultiWorkerMirroredStrategy()

    def handle(self, request: Fit) -> dict[str, Any]:
        """Trains once.

        Returns:
            `seconds` of the whole `fit` with tracing and validation, `steps`,
            `accuracy`, `seconds_per_step` after the first, validation included, and
            with a threshold the `density`.
        """
        request = Fit(*request)
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        (images, labels), (held_out, answers) = data_files.read_mnist(
            pathlib.Path(request.path_data, "Fashion-MNIST")
        )
        index = self._strategy.cluster_resolver.task_id
        train = _dataset(images, labels).shuffle(10_000, seed=index)
        train = train.repeat().batch(BATCH, drop_remainder=True)
        check = _dataset(held_out[:VALIDATION], answers[:VALIDATION]).batch(500)
        model, optimizer = self._model(request)
        stop = _StopAtTarget(request.target)
        history = model.fit(
            _sharded(train, "OFF"),  # Each worker shuffles all with its own seed.
            steps_per_epoch=min(CHECK_STEPS, request.steps),
            epochs=math.ceil(request.steps / CHECK_STEPS),
            validation_data=_sharded(check, "DATA"),
            verbose=0,
            callbacks=[stop],
        ).history
        result = {
            "seconds": stop.seconds,
            "steps": stop.steps,
            "accuracy": history["val_accuracy"][-1],
            "seconds_per_step": (stop.began + stop.seconds - stop.first_step)
            / max(1, stop.steps - 1),
        }
        if request.threshold is not None:
            summary = optimizer.communication_summary()
            keys = ("density", "payload_bytes", "padded_bytes", "overflow_steps")
            result |= {key: summary[key] for key in keys}
        return result

    def _model(self, request: Fit) -> tuple[keras.Model, Any]:
        with self._strategy.scope():
            if request.model == "mlp":
                layers = [keras.layers.Dense(2048, "relu") for _ in range(3)]
                model = keras.Sequential(
                    [
                        keras.Input(SHAPE),
                        keras.layers.Flatten(),
                        *layers,
                        keras.layers.Dense(10),
                    ]
                )
            else:
                model = architectures.build(request.model, SHAPE, seed=0)
            optimizer: Any = keras.optimizers.SGD(request.rate)
            if request.threshold is not None:
                optimizer = tem_tf.SparsifiedOptimizer(
                    optimizer, tem_tf.HardThreshold(request.threshold)
                )
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, loss, metrics=["accuracy"])
        return model, optimizer


def _dataset(images: np.ndarray, labels: np.ndarray) -> tf.data.Dataset:
    def prepare(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(image, tf.float32) / 127.5 - 1, label

    return tf.data.Dataset.from_tensor_slices((images, labels)).map(prepare)


def _sharded(dataset: tf.data.Dataset, policy: str) -> tf.data.Dataset:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = getattr(
        tf.data.experimental.AutoShardPolicy, policy
    )
    return dataset.with_options(options)


if __name__ == "__main__":
    serve(Worker().handle)
