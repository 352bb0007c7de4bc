"""Images on the device, and the order in which training visits them."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_studies.workloads.chunks import sum_over_chunks
from tem_studies.workloads.data_sources import Split
from tem_studies.workloads.examples import Examples, Share

# Examples per forward pass of an evaluation. Our choice: 50 to 500 are equally fast on
# two cores, and activations of the small networks stay below 20 MB.
EVALUATION_BATCH = 100

# Bytes and step's seed of the global batch -> augmented bytes of this replica's part.
Augmentation = Callable[[tf.Tensor, Share, int], tf.Tensor]


class DeviceSplit(Examples):
    """A split as tensors, kept as bytes; a batch is standardised when it is taken.

    Args:
        split: n images and labels.
        mean, deviation: float32 (channels,).
        augment: Changes images of training: takes this replica's bytes (batch, height,
            width, channels), its share and the size of the global batch.
    """

    measures = 1

    def __init__(
        self,
        split: Split,
        mean: np.ndarray,
        deviation: np.ndarray,
        augment: Augmentation | None = None,
    ) -> None:
        self.examples = len(split)
        self._augment = augment
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
        images, labels = self._bytes(rows)
        return self._standardised(images), labels

    @property
    def is_additive(self) -> bool:
        """See `Examples`; augmentation is drawn for the batch as a whole."""
        return self._augment is None

    def learn(
        self, model: keras.Model, rows: tf.Tensor, share: Share
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean cross-entropy and the number of correct answers."""
        size = rows.shape[0] // share.replicas
        start = share.replica * size
        images, labels = self._bytes(rows[start : start + size])
        if self._augment is not None:
            images = self._augment(images, share, rows.shape[0])
        logits = model(self._standardised(images), training=True)
        correct = count_correct(labels, logits)
        return tf.reduce_mean(cross_entropy(labels, logits)), correct[tf.newaxis]

    def totals(self, model: keras.Model, share: Share) -> tf.Tensor:
        """Sum of cross-entropies and number of correct answers."""
        first, last = share.of(self.examples)

        def of_chunk(start: tf.Tensor, stop: tf.Tensor) -> list[tf.Tensor]:
            images, labels = self.take(tf.range(start, stop))
            logits = model(images, training=False)
            losses = tf.reduce_sum(cross_entropy(labels, logits))
            return [tf.stack([losses, count_correct(labels, logits)])]

        (totals,) = sum_over_chunks(of_chunk, [(2,)], first, last, EVALUATION_BATCH)
        return totals

    def _bytes(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The bytes live in the host's memory whatever device asks for them: a batch
        # travels, not the data set.
        with tf.device("CPU:0"):
            return tf.gather(self._images, rows), tf.gather(self._labels, rows)

    def _standardised(self, images: tf.Tensor) -> tf.Tensor:
        return (tf.cast(images, tf.float32) - self._mean) / self._deviation


class EpochOrder:
    """Full global batches, epoch after epoch, each epoch in a new order.

    An incomplete last batch of an epoch is dropped.

    Args:
        generator: Shuffles each epoch; one call of `permutation(examples)` per epoch.
        examples: Size of the training split.
        batch_size: Examples per step, over all replicas.

    Raises:
        Refusal: the batch is larger than the training split.
    """

    def __init__(
        self, generator: np.random.RandomState, examples: int, batch_size: int
    ) -> None:
        if batch_size > examples:
            raise Refusal(
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
    """Softmax cross-entropy of each example: float32 (batch,), of logits of any."""
    logits = tf.cast(logits, tf.float32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def count_correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Number of examples whose largest logit is their label's: float32 scalar."""
    predictions = tf.argmax(logits, axis=1, output_type=tf.int32)
    return tf.reduce_sum(tf.cast(tf.equal(predictions, labels), tf.float32))
