"""Recommendation from implicit feedback: NeuMF, cross-entropy, HR@10 and NDCG@10.

An epoch holds each positive pair and four negatives of its user, all shuffled together;
negatives are drawn anew in every epoch, uniformly from all items, as a function of the
seed and the step. An item that is held out is ranked among those drawn against it: with
rank 1 for the best, HR@10 is the share of users with rank <= 10, NDCG@10 the mean of
1 / log2(rank + 1) of those (0 of the others), over all users. An item that was drawn
twice counts once; equal scores count against the held-out item.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tem_studies.workloads.batches import EpochOrder
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.examples import Examples, Share
from tem_studies.workloads.neumf import NeuMF
from tem_studies.workloads.ratings_files import RatingsData
from tem_studies.workloads.task import Task

NEGATIVES_PER_POSITIVE = 4  # He et al., WWW 2017, section 4.1, and the TEM authors
CUTOFF = 10
# Users of one forward pass of an evaluation. Our choice: 101 candidates of each take
# about 100 MB in the widest layer.
EVALUATION_USERS = 1000


class TrainingScore(NamedTuple):
    """Mean cross-entropy of a pair, in nats."""

    loss: float


class RankingScore(NamedTuple):
    """Mean cross-entropy of a user's candidates, and how high the held-out item is."""

    loss: float
    hit_rate_at_10: float
    ndcg_at_10: float


class TrainingRatings(Examples):
    """Positive pairs and, with each, room for four that are drawn.

    Args:
        data: The ratings.
        seed: Of the draws.

    Attributes:
        examples: Pairs of an epoch, drawn ones among them.
    """

    def __init__(self, data: RatingsData, seed: int) -> None:
        self.examples = len(data.train_users) * (1 + NEGATIVES_PER_POSITIVE)
        self._users = tf.constant(data.train_users)
        self._items = tf.constant(data.train_items)
        self._number_of_items = data.items
        self._seed = seed

    def pairs(
        self, rows: tf.Tensor, share: Share
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Users, items and labels of this replica: int32, int32, float32 (size,).

        Row r is the positive pair r // 5 if 5 divides r, else a negative of its user.
        """
        batch = rows.shape[0]
        first, last = share.of(batch)
        # The draws of the global batch, so that they do not depend on the replicas.
        drawn = tf.random.stateless_uniform(
            (batch,), share.seed(self._seed), 0, self._number_of_items, tf.int32
        )
        rows, drawn = rows[first:last], drawn[first:last]
        positive = rows // (1 + NEGATIVES_PER_POSITIVE)
        is_positive = tf.equal(rows % (1 + NEGATIVES_PER_POSITIVE), 0)
        items = tf.where(is_positive, tf.gather(self._items, positive), drawn)
        return tf.gather(self._users, positive), items, tf.cast(is_positive, tf.float32)

    def learn(
        self, model: keras.Model, rows: tf.Tensor, share: Share
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean cross-entropy of this replica's pairs."""
        users, items, labels = self.pairs(rows, share)
        # Masks of their own on every replica: with Keras's they would be the same.
        logits = model(users, items, share.seed(self._seed, share.replica))
        return tf.reduce_mean(_cross_entropy(labels, logits)), tf.zeros([0])

    def score(self, *means: float) -> TrainingScore:
        return TrainingScore(*means)


class HeldOutItems(Examples):
    """One held-out item of every user, and what it is ranked among.

    Args:
        positives: int32 (users,).
        negatives: int32 (users, n), each row sorted.

    Attributes:
        examples: The number of users.
    """

    def __init__(self, positives: np.ndarray, negatives: np.ndarray) -> None:
        self.examples = len(positives)
        self._candidates = tf.constant(
            np.concatenate([positives[:, np.newaxis], negatives], axis=1)
        )

    def totals(self, model: keras.Model, share: Share) -> tf.Tensor:
        """Sums of loss, hits and gains over this replica's users."""
        first, last = share.of(self.examples)
        totals = tf.zeros(3)
        for start in tf.range(first, last, EVALUATION_USERS):
            stop = tf.minimum(start + EVALUATION_USERS, last)
            candidates = self._candidates[start:stop]
            users = tf.repeat(tf.range(start, stop), candidates.shape[1])
            logits = model(users, tf.reshape(candidates, [-1]))
            logits = tf.reshape(logits, tf.shape(candidates))
            totals += ranking_totals(candidates, logits)
        return totals

    def score(self, *means: float) -> RankingScore:
        return RankingScore(*means)


def ranking_totals(candidates: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Sums over users of mean loss, hit and gain: float32 (3,).

    Args:
        candidates: int32 (users, 1 + n). The held-out item, then the others, sorted.
        logits: float32 of that shape.
    """
    repeated = tf.equal(candidates[:, 2:], candidates[:, 1:-1])
    counts = tf.pad(
        1.0 - tf.cast(repeated, tf.float32), [[0, 0], [2, 0]], "CONSTANT", 1
    )
    labels = tf.one_hot(tf.zeros_like(candidates[:, 0]), candidates.shape[1])
    losses = tf.reduce_sum(counts * _cross_entropy(labels, logits), axis=1)
    losses /= tf.reduce_sum(counts, axis=1)
    # A logit that is not a number is no hit.
    ahead = ~(logits[:, 1:] < logits[:, :1])
    before = tf.reduce_sum(tf.cast(ahead, tf.float32) * counts[:, 1:], axis=1)
    hits = tf.cast(before < CUTOFF, tf.float32)
    gains = hits * np.log(2.0).astype(np.float32) / tf.math.log(before + 2.0)
    return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(hits), tf.reduce_sum(gains)])


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)


class RatingsTask(Task):
    """NeuMF and its ratings. See `Task`.

    Args:
        configuration: The run's settings.
        data: The ratings.
        replicas: Unused: every batch is shared out alike.
    """

    unit = "examples"

    def __init__(
        self, configuration: Configuration, data: RatingsData, replicas: int = 1
    ) -> None:
        del replicas
        self._configuration = configuration
        self._data = data
        self.train = TrainingRatings(data, configuration.seed)
        most = configuration.evaluation_examples
        self.validation = HeldOutItems(
            data.validation_items[:most], data.validation_negatives[:most]
        )
        self.test = HeldOutItems(data.test_items[:most], data.test_negatives[:most])
        generator = np.random.RandomState(configuration.seed)
        examples, batch = self.train.examples, configuration.batch_size
        self._order = EpochOrder(generator, examples, batch)
        self.steps_per_epoch = examples // batch

    def new_model(self) -> NeuMF:
        data, configuration = self._data, self._configuration
        rate, seed = configuration.dropout_rate, configuration.seed
        return NeuMF(data.users, data.items, rate, seed)

    def take(self, steps: int) -> np.ndarray:
        return self._order.take(steps)
