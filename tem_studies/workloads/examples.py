"""What a split on the device must offer, so that `Trainer` can train and measure on it.

A workload owns its data, network, loss, metric and evaluation; the trainer owns the
step, the masks, the meters and the replicas. This contract is all that they share.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tem_tf.replica_state import ReplicaState


class Score(NamedTuple):
    """Mean loss and accuracy, in [0, 1], over some examples."""

    loss: float
    accuracy: float


class Share(NamedTuple):
    """Which replica asks, and when.

    Attributes:
        replica: int32 scalar, in [0, replicas).
        replicas: Their number.
        step: int64 scalar, the number of steps taken. 0 in an evaluation.
    """

    replica: tf.Tensor
    replicas: int
    step: tf.Tensor | int = 0

    def of(self, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """First and one past the last of this replica's stretch of `count` things."""
        first = count * self.replica // self.replicas
        return first, count * (self.replica + 1) // self.replicas

    def seed(self, seed: int, *more: Any) -> tf.Tensor:
        """A seed of stateless random numbers: int32 (2,), of this step and `more`.

        Args:
            seed: The run's.
            *more: int32 scalars that tell draws of one step apart.
        """
        pair = tf.stack([tf.constant(seed, tf.int32), tf.cast(self.step, tf.int32)])
        for number in more:
            pair = tf.random.experimental.stateless_fold_in(pair, number)
        return pair


class Examples:
    """One split on the device, and what is measured of a network on it.

    Attributes:
        examples: What the sums of `totals` are divided by.
        measures: Number of sums that `learn` returns.
        carried: What each replica carries from step to step, its rows of the batch
            first; None: nothing.
    """

    examples: int
    measures: int = 0
    carried: ReplicaState | None = None

    def row_width(self, batch_size: int) -> int:
        """Numbers that say what one step trains on."""
        return batch_size

    def prepare(self, batch_size: int, replicas: int) -> None:
        """Makes variables that training needs; in the strategy's scope."""

    @property
    def is_additive(self) -> bool:
        """Whether `learn` may be given a part of a replica's rows at a time."""
        return False

    def learn(
        self, model: keras.Model, rows: tf.Tensor, share: Share
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One replica's forward pass of a training step.

        Args:
            model: The network.
            rows: int32 (row width,), the step's, over all replicas.
            share: Which replica this is.

        Returns:
            The mean loss over this replica's examples, and float32 (measures,), sums
            over them.
        """
        raise NotImplementedError

    def totals(self, model: keras.Model, share: Share) -> tf.Tensor:
        """Sums over this replica's stretch of the split: float32, the loss first."""
        raise NotImplementedError

    def score(self, *means: float) -> Any:
        """Names the means: a `NamedTuple` that begins with `loss`."""
        return Score(*means)
