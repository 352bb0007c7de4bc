"""What each replica sent and held back, added up over steps, joined over replicas.

The mathematics is in `metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tem_tf import metrics
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.instance_keys import Use
from tem_tf.layout import Segments
from tem_tf.replica_state import ReplicaState

_TOTALS, _TABLES = "metrics/totals", "metrics/tables"


class Accounts:
    """Totals of all variables, and tables of each, in a replica's state.

    Args:
        state: Where they are kept.
        use: Whose instance keys are taken to join them.
    """

    def __init__(self, state: ReplicaState, use: Use):
        self._state, self._use = state, use
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._gather: Any = None

    def build(self, variables: Segments) -> None:
        """Makes the tables for all variables, by their paths, once."""
        if not self._names:
            self._names = [segment.name for segment in variables]
            self._sizes = [segment.size for segment in variables]
            self.build_totals()
            self._state.add(_TABLES, metrics.zero_tables(len(variables)), is_alike=True)

    def build_totals(self) -> None:
        """Makes what `running_totals` reads, unless it is there."""
        self._state.add(_TOTALS, metrics.zeros(), is_alike=True)

    def add(self, table: tf.Tensor, names: Sequence[str], **step: Any) -> None:
        """Adds one step; replica context.

        Args:
            table: float64 (S, 6), in units of this replica's own gradient.
            names: Whose rows these are; of other variables nothing was sent.
            **step: See `metrics.add_step`.
        """
        entries = tf.reduce_sum(table[:, 0])
        totals = metrics.add_step(
            self._state.read(_TOTALS), entries=entries, table=table, **step
        )
        self._state.assign(_TOTALS, totals)
        rows = [self._names.index(name) for name in names]
        if rows != list(range(len(self._names))):
            shape = [len(self._names), len(metrics.COLUMNS)]
            table = tf.scatter_nd([[row] for row in rows], table, shape)
        tables = metrics.add_table(self._state.read(_TABLES), table)
        self._state.assign(_TABLES, tables)

    def add_dense(
        self, words: int, names: Sequence[str], nonfinite: tf.Tensor | int = 0
    ) -> None:
        """Adds a step whose gradients somebody else summed, dense.

        For an aggregator that sees no other steps: there is nothing of a last step to
        be replaced in the totals, so that one addition of a constant will do.

        Args:
            words: 32-bit words of the gradients.
            names: Of their variables.
            nonfinite: int32 scalar > 0 if the step is skipped, since the sum is not
                finite.
        """
        known = zip(self._names, self._sizes, strict=True)
        sent = [size if name in set(names) else 0 for name, size in known]
        step = metrics.add_step(
            metrics.zeros(),
            entries=sum(sent),
            payload_words=words,
            dense_words=words,
            nonfinite=nonfinite,
            skipped=tf.sign(nonfinite),
        )
        self._state.add_to(_TOTALS, step)
        empty = [0.0] * (len(metrics.COLUMNS) - 1)
        table = tf.constant([[size, *empty] for size in sent], tf.float64)
        tables = metrics.add_table(self._state.read(_TABLES), table)
        self._state.assign(_TABLES, tables)

    def running_totals(self) -> tf.Tensor:
        """See `metrics.running_totals`. Replica context; no collective."""
        return metrics.running_totals(self._state.read(_TOTALS))

    def summaries(self, strategy: tf.distribute.Strategy) -> tuple[dict, dict]:
        """Of the model and by variable. One collective, in cross-replica context."""
        totals, tables = self._rows(strategy)
        summary = metrics.summarise(totals)
        return summary, metrics.summarise_variables(
            tables, self._names, self._sizes, int(summary["steps"])
        )

    def _rows(self, strategy: tf.distribute.Strategy) -> tuple[np.ndarray, np.ndarray]:
        """All totals, (replicas, totals), and tables, (replicas, 2, rows, 6)."""
        if self._gather is None:  # Traced once.
            exchange = SparsifiedCrossDeviceOps.of(strategy)

            def gather() -> tf.Tensor:
                mine = [self._state.read(_TOTALS), self._state.read(_TABLES)]
                flat = tf.concat([tf.reshape(part, [-1]) for part in mine], axis=0)
                return exchange.gather_numbers(flat, self._use)

            self._gather = tf.function(lambda: strategy.run(gather))
        rows = strategy.experimental_local_results(self._gather())[0].numpy()
        totals, tables = np.split(rows, [len(metrics.zeros())], axis=1)
        tables = tables.reshape(len(rows), 2, -1, len(metrics.COLUMNS))
        return totals, tables


def words_of(segments: Segments, variables: dict[str, Any]) -> int:
    """32-bit words that variables take in dtypes of their own.

    Args:
        segments: Theirs.
        variables: By name, shape and dtype.
    """
    sizes = [s.size * variables[s.name][1].size for s in segments]
    return -(-sum(sizes) // 4)
