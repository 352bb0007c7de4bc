"""Images on the device, and the order in which training visits them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tem_tf.workloads.data_sources import Split


class DeviceSplit:
    """A split as tensors, kept as bytes; a batch is standardised when it is taken.

    Args:
        split: n images and labels.
        mean, deviation: float32 (channels,).
    """

    def __init__(self, split: Split, mean: np.ndarray, deviation: np.ndarray) -> None:
        self.examples = len(split)
        self._images = tf.constant(split.images)
        self._labels = tf.constant(split.labels, tf.int32)
        self._mean = tf.constant(mean)
        self._deviation = tf.constant(deviation)

    def take(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the examples of these rows.

        Args:
            rows: int32 (batch,), in [0, n).

        Returns:
            Standardised images, float32 (batch, height, width, channels), and labels,
            int32 (batch,).
        """
        # The bytes live in the host's memory whatever device asks for them: a batch
        # travels, not the data set.
        with tf.device("CPU:0"):
            images = tf.gather(self._images, rows)
            labels = tf.gather(self._labels, rows)
        images = (tf.cast(images, tf.float32) - self._mean) / self._deviation
        return images, labels


class EpochOrder:
    """Full global batches, epoch after epoch, each epoch in a new order.

    An incomplete last batch of an epoch is dropped.

    Args:
        generator: Shuffles each epoch; one call of `permutation(examples)` per epoch.
        examples: Size of the training split.
        batch_size: Examples per step, over all replicas.

    Raises:
        ValueError: the batch is larger than the training split.
    """

    def __init__(
        self, generator: np.random.RandomState, examples: int, batch_size: int
    ) -> None:
        if batch_size > examples:
            raise ValueError(
                f"`batch_size` must be at most the {examples} examples of the training "
                f"split. Received: batch_size={batch_size}."
            )
        self._generator = generator
        self._examples = examples
        self._batch_size = batch_size
        self._rest = np.empty((0, batch_size), np.int32)

    def take(self, steps: int) -> np.ndarray:
        """Returns the rows of the next steps: int32 (steps, batch_size)."""
        parts, missing = [self._rest[:steps]], steps - len(self._rest)
        self._rest = self._rest[steps:]
        while missing > 0:
            order = self._generator.permutation(self._examples).astype(np.int32)
            full = self._examples - self._examples % self._batch_size
            epoch = order[:full].reshape(-1, self._batch_size)
            parts.append(epoch[:missing])
            self._rest = epoch[missing:]
            missing -= len(epoch)
        return np.concatenate(parts)


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy of each example: float32 (batch,)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def count_correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Number of examples whose largest logit is their label's: float32 scalar."""
    predictions = tf.argmax(logits, axis=1, output_type=tf.int32)
    return tf.reduce_sum(tf.cast(tf.equal(predictions, labels), tf.float32))
