"""Layers with weights for the image networks, each with its own name and seed."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers


@tf.custom_gradient
def copied(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """The same values, with a gradient that is added up by itself.

    `ensure_shape` keeps the graph optimizer from making one sum of that gradient's and
    of the one that it is added to; it would look through an identity.
    """
    return tf.identity(x), lambda gradient: tf.ensure_shape(gradient, x.shape)


def forked(x: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """A tensor twice: for two of its readers, where it has more than two.

    The tape adds up the gradients of all readers of one tensor at once, and three or
    more of them in an order that chance decides; two have one sum.
    """
    return x, _Copy()(x)


@keras.saving.register_keras_serializable(package="tem_tf")
class _Copy(layers.Layer):
    """A tensor of its own with the same values."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return copied(inputs)


@keras.saving.register_keras_serializable(package="tem_tf")
class BatchNorm(layers.BatchNormalization):
    """Keras's batch norm, whose gradient repeats bit for bit.

    Its inputs have three readers in training - mean, variance and what is normalised -
    and the first two read a copy here: see `forked`.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """As in Keras."""
        if not training or not self.trainable:
            return super().call(inputs, training=False)
        inputs = copied(inputs)  # One reader for those outside.
        axes = list(range(len(inputs.shape)))
        del axes[self.axis]
        mean, variance = keras.ops.moments(copied(inputs), axes)
        for moving, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return keras.ops.batch_normalization(
            inputs,
            mean,
            variance,
            axis=self.axis,
            offset=self.beta,
            scale=self.gamma,
            epsilon=self.epsilon,
        )


class Weighted:
    """Makes layers one after the other; draws each one's seed from one generator.

    Args:
        seed: Integer >= 0.
        classes: Number of classes of the last layer.
        scale: Variance of a weight times its fan-in. 1 is the DPS authors'; 2 is He et
            al., ICCV 2015, for layers before a relu.
    """

    def __init__(self, seed: int, classes: int, scale: float = 1.0) -> None:
        self.scale = scale
        self._classes = classes
        self._seeds = np.random.default_rng(np.random.SeedSequence(seed))
        self._convolutions = self._batch_norms = 0

    def convolution(self, x, filters, size, stride=1, padding="same", use_bias=True):
        """A square convolution."""
        self._convolutions += 1
        return layers.Conv2D(
            filters,
            size,
            stride,
            padding,
            use_bias=use_bias,
            kernel_initializer=self._initialiser(self.scale),
            name=f"convolution_{self._convolutions}",
        )(x)

    def batch_norm(self, x):
        """Batch normalisation with the constants that TEM's authors had (PyTorch's)."""
        self._batch_norms += 1
        return BatchNorm(
            momentum=0.9, epsilon=1e-5, name=f"batch_norm_{self._batch_norms}"
        )(x)

    def dense(self, x):
        """The last layer: logits of the classes."""
        return layers.Dense(
            self._classes, kernel_initializer=self._initialiser(1.0), name="dense"
        )(x)

    def _initialiser(self, scale: float) -> keras.initializers.Initializer:
        return keras.initializers.VarianceScaling(
            scale=scale,
            mode="fan_in",
            distribution="truncated_normal",
            seed=int(self._seeds.integers(2**31)),
        )
