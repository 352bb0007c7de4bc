"""Batches that are a function of the epoch and the step, so that any step can follow.

An iterator of TensorFlow cannot be saved under a strategy. What can be is the order of
data: `make_dataset(epoch)` gives each epoch's batches, always the same, and a resumed
epoch leaves out those that were taken.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

UNKNOWN = (tf.data.UNKNOWN_CARDINALITY, tf.data.INFINITE_CARDINALITY)
_IN_PLACE_OF_0 = 2**30  # Our choice: a seed that hardly anybody takes.


class EpochData:
    """A dataset whose next iterator gives the epoch that was set last.

    Args:
        make_dataset: Takes an epoch, int64 scalar, 0 at first, and returns its batches.
        steps: Batches of an epoch; None: as many as the dataset of epoch 0 says.

    Raises:
        ValueError: the number of batches is not known, or there are none.
    """

    def __init__(
        self, make_dataset: Callable[[tf.Tensor], tf.data.Dataset], steps: int | None
    ):
        if steps is None:
            made = callable(make_dataset) and make_dataset(tf.constant(0, tf.int64))
            if not isinstance(made, tf.data.Dataset):
                raise ValueError(
                    "`make_dataset` must be a function of the epoch that returns a "
                    f"tf.data.Dataset. Received: make_dataset={make_dataset!r}"
                )
            steps = int(made.cardinality())
            if steps in UNKNOWN:
                raise ValueError(
                    "`steps` must be the number of batches of an epoch where the "
                    "dataset of `make_dataset` does not know it. Received: steps=None"
                )
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(
                "`steps`, the number of batches of an epoch, must be an integer >= 1. "
                f"Received: steps={steps!r}"
            )
        self.steps = steps
        self._epoch, self._taken = (
            tf.Variable(0, trainable=False, dtype=tf.int64, name=name)
            for name in ("epoch", "batches_taken")
        )

        def batches(_: tf.Tensor) -> tf.data.Dataset:
            if tf.compat.v1.get_default_graph().seed == 0:
                # TensorFlow compares a seed that is a tensor, as the epoch is, with 0
                # where the global one is 0, and no graph can do that.
                tf.compat.v1.set_random_seed(_IN_PLACE_OF_0)
            rest = make_dataset(self._epoch.read_value())
            return rest.skip(self._taken.read_value()).take(steps)

        self.dataset = tf.data.Dataset.range(1).flat_map(batches)
        # Keras asks before the first epoch how many steps all epochs have.
        self.dataset.cardinality = lambda: tf.constant(steps, tf.int64)

    def set(self, epoch: int, taken: int = 0) -> None:
        """Says of what the next iterator is.

        Args:
            epoch: Its number.
            taken: Batches that are left out.
        """
        self._epoch.assign(epoch)
        self._taken.assign(taken)
