"""Random crops, flips and rotations of images, as a function of the seed and the step.

One look-up does all three: an output pixel (y, x) is turned by the angle, mirrored if
the image is to be flipped, and shifted by the crop's offset into the padded image; what
comes from outside is 0, black. The draws are those of the global batch, so that they do
not depend on the number of replicas.
"""

from __future__ import annotations

import math

import tensorflow as tf

PADDING = 4  # pixels on every side: the TEM authors', as He et al., CVPR 2016
ROTATION = 15.0  # degrees, at most: the TEM authors', on CIFAR-100


def draw(seed: tf.Tensor, batch: int) -> tf.Tensor:
    """Draws for one global batch: float32 (batch, 4), uniform in [0, 1).

    Args:
        seed: int32 (2,).
        batch: Number of images.
    """
    return tf.random.stateless_uniform((batch, 4), seed)


def augment(images: tf.Tensor, draws: tf.Tensor, rotates: bool) -> tf.Tensor:
    """Crops, flips and turns images.

    Args:
        images: (n, height, width, channels), of any dtype.
        draws: float32 (n, 4): vertical and horizontal offset, flip, angle.
        rotates: Whether to turn them, by nearest neighbour.

    Returns:
        Of the shape and dtype of `images`.
    """
    height, width = images.shape[1], images.shape[2]
    y, x = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
    y, x = y[tf.newaxis], x[tf.newaxis]  # (1, height, width)
    inside = tf.ones_like(y, tf.bool)
    if rotates:
        y, x = _turned(y, x, (2.0 * draws[:, 3] - 1.0) * math.radians(ROTATION))
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    offsets = tf.cast(draws[:, :2] * (2 * PADDING + 1), tf.int32) - PADDING
    flips = draws[:, 2, tf.newaxis, tf.newaxis] < 0.5
    x = tf.where(flips, width - 1 - x, x)
    y = y + offsets[:, 0, tf.newaxis, tf.newaxis]
    x = x + offsets[:, 1, tf.newaxis, tf.newaxis]
    inside &= (y >= 0) & (y < height) & (x >= 0) & (x < width)
    places = tf.clip_by_value(y, 0, height - 1) * width
    places += tf.clip_by_value(x, 0, width - 1)
    pixels = tf.reshape(images, [-1, height * width, images.shape[3]])
    found = tf.gather(pixels, tf.reshape(places, [-1, height * width]), batch_dims=1)
    found = tf.reshape(found, tf.shape(images))
    return tf.where(inside[..., tf.newaxis], found, tf.zeros_like(found))


def _turned(
    y: tf.Tensor, x: tf.Tensor, angles: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where pixels come from if the image is turned about its middle: int32."""
    middle_y, middle_x = (y.shape[1] - 1) / 2, (y.shape[2] - 1) / 2
    up = tf.cast(y, tf.float32) - middle_y
    right = tf.cast(x, tf.float32) - middle_x
    sine = tf.sin(angles)[:, tf.newaxis, tf.newaxis]
    cosine = tf.cos(angles)[:, tf.newaxis, tf.newaxis]
    from_y = cosine * up - sine * right + middle_y
    from_x = sine * up + cosine * right + middle_x
    return tf.cast(tf.round(from_y), tf.int32), tf.cast(tf.round(from_x), tf.int32)
