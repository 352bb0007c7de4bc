"""Image classification: cross-entropy and accuracy on one of the image data sets."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_studies.workloads import architectures
from tem_studies.workloads.augmentation import augment, draw
from tem_studies.workloads.batches import DeviceSplit, EpochOrder
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.data_sources import Data
from tem_studies.workloads.examples import Share
from tem_studies.workloads.task import Task
from tem_studies.workloads.workload_settings import NPZ


class ImageTask(Task):
    """A network that tells images apart. See `Task`.

    Args:
        configuration: The run's settings.
        data: The images.
        replicas: Unused: every batch is shared out alike.

    Raises:
        Refusal: what is to be augmented is no image.
    """

    unit = "images"

    def __init__(
        self, configuration: Configuration, data: Data, replicas: int = 1
    ) -> None:
        del replicas
        self._configuration = configuration
        self._data = data
        if configuration.datasource == NPZ:
            self.unit = "examples"
            _check_augmentation(configuration, data)
        epochs = data.epochs(configuration.seed)
        # The pruning epoch is drawn at every sparsity, so that runs that differ in
        # sparsity alone see the same training batches.
        self.pruning_order = epochs.permutation(len(data.train))
        self._order = EpochOrder(epochs, len(data.train), configuration.batch_size)
        self.steps_per_epoch = len(data.train) // configuration.batch_size
        mean, deviation = data.mean, data.deviation
        change = None if configuration.augmentation == "none" else self._augment
        self.train = DeviceSplit(data.train, mean, deviation, change)
        most = configuration.evaluation_examples
        self.validation = DeviceSplit(data.validation.first(most), mean, deviation)
        self.test = DeviceSplit(data.test.first(most), mean, deviation)

    def new_model(self) -> keras.Model:
        configuration, data = self._configuration, self._data
        return architectures.build(
            configuration.arch,
            data.input_shape,
            configuration.seed,
            data.classes,
            configuration.dtype_policy,
        )

    def take(self, steps: int) -> np.ndarray:
        return self._order.take(steps)

    def _augment(self, images: tf.Tensor, share: Share, batch: int) -> tf.Tensor:
        draws = draw(share.seed(self._configuration.seed), batch)
        first, last = share.of(batch)
        rotates = self._configuration.augmentation == "crop-flip-rotate"
        return augment(images, draws[first:last], rotates)


def _check_augmentation(configuration: Configuration, data: Data) -> None:
    if configuration.augmentation != "none" and data.train.images.dtype != "uint8":
        raise Refusal(
            "`augmentation` is of images, which are bytes. Received: augmentation="
            f"{configuration.augmentation!r}, and x_train of {data.train.images.dtype}."
            " Pass --augmentation none."
        )
