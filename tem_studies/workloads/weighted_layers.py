"""Layers with weights for the image networks, each with its own name and seed."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers


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
        return layers.BatchNormalization(
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
