"""What all workers say, heard by all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tem_tf import _collective_internals
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.instance_keys import Use, new_owner


class WorkerTexts:
    """Gathers a text of every worker, as often as wanted.

    Args:
        strategy: A strategy; one that lives in one process is its only worker.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self._gather: Any = None

    @property
    def workers(self) -> int:
        """Number of processes."""
        if not _collective_internals.is_multi_worker(self._strategy):
            return 1
        devices = len(self._strategy.extended.worker_devices)
        return self._strategy.num_replicas_in_sync // devices

    def gather(self, text: str) -> list[str]:
        """The texts of all workers, in their order. Collective.

        Args:
            text: This worker's, without characters of code 0.
        """
        if not _collective_internals.is_multi_worker(self._strategy):
            return [text]
        if self._gather is None:
            self._gather = self._traced()
        mine = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        rows = self._gather(tf.constant(mine))
        rows = self._strategy.experimental_local_results(rows)[0].numpy()
        rows = rows[:: rows.shape[0] // self.workers]
        return [bytes(row[row > 0].astype(np.uint8)).decode() for row in rows]

    def _traced(self) -> Any:
        exchange = SparsifiedCrossDeviceOps.of(self._strategy)
        use = Use(new_owner())

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
        def gather(mine: tf.Tensor) -> Any:
            return self._strategy.run(lambda: exchange.gather_payloads(mine, use).rows)

        return gather


def require_same_on_all_workers(
    strategy: tf.distribute.Strategy, values: Mapping[str, Any]
) -> None:
    """Raises on all workers if `values` are not equal on all of them.

    Collective: call it on every worker, right after the strategy is made, with what
    must not differ (the model's size, the compressor, the seed). Workers that differ
    would otherwise wait for one another for ever.

    Args:
        strategy: A strategy; one that lives in one process passes at once.
        values: JSON-serialisable values by name.

    Raises:
        ValueError: naming each difference and the workers.
    """
    text = json.dumps(dict(values), sort_keys=True, default=str)
    workers = [json.loads(said) for said in WorkerTexts(strategy).gather(text)]
    differences = []
    for name in sorted(set().union(*workers)):
        seen = [json.dumps(worker.get(name, "absent")) for worker in workers]
        if len(set(seen)) > 1:
            each = ", ".join(f"worker {i}: {v}" for i, v in enumerate(seen))
            differences.append(f"`{name}` ({each})")
    if differences:
        raise ValueError(
            "All workers must be started with the same settings. They differ in "
            + "; ".join(differences)
        )
