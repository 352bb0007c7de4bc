"""What each replica sent and held back of each variable, summed up over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tem_tf import metrics
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.replica_state import ReplicaState


class VariableMetrics:
    """Tables of `metrics.step_table`, on every replica its own."""

    def __init__(self):
        self._state = ReplicaState()
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._gather: Any = None

    def build(self, names: Sequence[str], sizes: Sequence[int]) -> None:
        """Makes the tables for all variables, by their paths, once."""
        if not self._names:
            self._names, self._sizes = list(names), list(sizes)
            self._state.add("tables", metrics.zero_tables(len(names)))

    def reset(self) -> None:
        """Forgets all steps; replica context."""
        self._state.reset()

    def add(self, table: tf.Tensor, names: Sequence[str]) -> None:
        """Adds one step; replica context.

        Args:
            table: float64 (S, 6), in units of this replica's own gradient.
            names: Whose rows these are; of other variables nothing was sent.
        """
        rows = [self._names.index(name) for name in names]
        if rows != list(range(len(self._names))):
            shape = [len(self._names), len(metrics.COLUMNS)]
            table = tf.scatter_nd([[row] for row in rows], table, shape)
        tables = metrics.add_table(self._state.read("tables"), table)
        self._state.assign("tables", tables)

    def summary(
        self, strategy: tf.distribute.Strategy, steps: int, all_sent: bool
    ) -> dict[str, dict[str, float]]:
        """Joins all replicas' tables. Collective, in cross-replica context.

        Args:
            strategy: Where the replicas live.
            steps: Number of steps so far.
            all_sent: Whether all was sent at each step and nothing was added here.
        """
        if self._gather is None:  # Traced once.
            exchange = SparsifiedCrossDeviceOps.of(strategy)

            def gather() -> tf.Tensor:
                mine = tf.reshape(self._state.read("tables"), [-1])
                return exchange.gather_numbers(mine)

            self._gather = tf.function(lambda: strategy.run(gather))
        rows = strategy.experimental_local_results(self._gather())[0].numpy()
        tables = rows.reshape(len(rows), 2, -1, len(metrics.COLUMNS)).copy()
        if all_sent:
            tables[:, 0, :, 0] = steps * np.array(self._sizes)
            tables[:, 1, :, 0] = (steps > 0) * np.array(self._sizes)
        return metrics.summarise_variables(tables, self._names, self._sizes, steps)
