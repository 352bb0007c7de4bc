"""What every single step sent and held back, noted on the device, read now and then."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

import tem_tf

# Steps whose records are kept on the device before they must be read. Our choice: each
# step copies the 6 kB.
RECORDS = 256


class StepRecords:
    """The totals of an optimizer after each step since the last reading.

    Args:
        strategy: Where the replicas live.
        optimizer: Has been built. Row i holds its `running_totals` after step i + 1
            since the last reading; the last row holds the number of these steps.

    Attributes:
        room: Steps that may follow before `read` must be called.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, optimizer: tem_tf.SparsifiedOptimizer
    ) -> None:
        self._strategy, self._optimizer = strategy, optimizer
        with strategy.scope():
            self._rows = tf.Variable(
                tf.zeros([RECORDS + 1, 3], tf.float64),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
        self._read = tf.function(self._sum_and_reset)
        self.restart()

    def restart(self) -> None:
        """Starts anew, as the optimizer's totals do."""
        self.room = RECORDS
        self._before = np.zeros(3)
        self._strategy.run(lambda: self._rows.assign(tf.zeros_like(self._rows)))

    def go_on(self) -> None:
        """Starts where the optimizer's totals are, which were restored. Collective."""
        totals = self._strategy.run(self._optimizer.running_totals)
        total = self._strategy.reduce("SUM", totals, axis=None)
        self._before = total.numpy() / self._strategy.num_replicas_in_sync

    def note(self) -> None:
        """Notes the step that was just taken; replica context."""
        rows = self._rows.read_value()
        count = tf.cast(rows[RECORDS, 0], tf.int32)
        counted = tf.cast(tf.stack([count + 1, 0, 0]), tf.float64)
        new = tf.stack([self._optimizer.running_totals(), counted])
        places = tf.stack([[count % RECORDS], [RECORDS]])
        self._rows.assign(tf.tensor_scatter_nd_update(rows, places, new))

    def taken(self, steps: int) -> None:
        """Counts steps that were taken."""
        self.room -= steps

    def read(self) -> np.ndarray:
        """Entries sent, bytes sent and ‖e‖² of each step since the last reading.

        Collective.

        Returns:
            float64 (steps, 3), means over replicas; bytes without padding.

        Raises:
            RuntimeError: there were more than `RECORDS` steps.
        """
        steps, self.room = RECORDS - self.room, RECORDS
        if steps > RECORDS:
            raise RuntimeError(
                f"Records of steps must be read every {RECORDS} steps. There were "
                f"{steps} since the last reading."
            )
        replicas = self._strategy.num_replicas_in_sync
        totals = self._read().numpy()[:steps] / replicas
        records = np.diff(totals, axis=0, prepend=self._before[np.newaxis])
        if steps:
            self._before = totals[-1]
        return records

    def _sum_and_reset(self) -> tf.Tensor:
        def replica() -> tf.Tensor:
            values = self._rows.read_value()
            with tf.control_dependencies([values]):
                self._rows.assign(tf.zeros_like(values))
            return values

        return self._strategy.reduce("SUM", self._strategy.run(replica), axis=None)
