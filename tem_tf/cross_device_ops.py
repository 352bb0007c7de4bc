"""How replicas exchange what they send: all-gather payloads, or all-reduce values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tem_tf import _internals


class SparsifiedCrossDeviceOps(_internals.DelegatingCrossDeviceOps):
    """Cross-device ops with the gradient's exchange beside the dense ones.

    Every reduction and gather that others ask for (metrics, batch norm, Keras's logs)
    goes to `dense` unchanged. `gather_payloads`, `reduce_values` and `cond` are the
    gradient's; only `SparsifiedOptimizer` calls them, in replica context, on all
    replicas in the same order. They work under every strategy, installed in it or not.

    Args:
        dense: `tf.distribute.CrossDeviceOps`. Default: reduction to one device.
    """

    def __init__(self, dense: tf.distribute.CrossDeviceOps | None = None):
        super().__init__(dense or tf.distribute.ReductionToOneDevice())

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy) -> SparsifiedCrossDeviceOps:
        """Returns the strategy's own, if it has such, else a new one."""
        installed = _internals.cross_device_ops(strategy)
        return installed if isinstance(installed, cls) else cls()

    def gather_payloads(self, payload: tf.Tensor) -> tf.Tensor:
        """Gathers one vector from every replica.

        Args:
            payload: (words,), at least one word; lengths may differ between replicas.

        Returns:
            (replicas, longest), rows in replica order, padded with zeros, the same on
            all replicas.
        """
        context = _replica_context()
        if context.num_replicas_in_sync == 1:
            return payload[tf.newaxis]
        all_gather = _internals.collective_all_gather(context.strategy)
        if all_gather is None:
            all_gather = _gather_in_process
        longest = tf.reduce_max(all_gather(tf.shape(payload)))
        padded = tf.pad(payload, [[0, longest - tf.size(payload)]])
        rows = all_gather(padded)
        return tf.reshape(rows, [context.num_replicas_in_sync, -1])

    def reduce_values(self, values: tf.Tensor) -> tf.Tensor:
        """Sums vectors of one static shape over replicas."""
        context = _replica_context()
        if context.num_replicas_in_sync == 1:
            return values
        all_reduce = _internals.collective_all_reduce(context.strategy)
        if all_reduce is None:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        return all_reduce(values)

    def cond(self, predicate: tf.Tensor, true_fn: Callable, false_fn: Callable) -> Any:
        """`tf.cond` between two pure branches that may exchange.

        The predicate must be equal on all replicas. In one process, where exchanging
        needs a `merge_call` that TensorFlow refuses inside `tf.cond`, both branches
        run and one result is taken: copies in memory, nothing on a wire.
        """
        context = _replica_context()
        if (
            context.num_replicas_in_sync == 1
            or _internals.collective_all_gather(context.strategy) is not None
        ):
            return tf.cond(predicate, true_fn, false_fn)
        return tf.nest.map_structure(
            lambda yes, no: tf.where(predicate, yes, no), true_fn(), false_fn()
        )

    def replicas(self) -> int:
        """Number of replicas that exchange."""
        return _replica_context().num_replicas_in_sync

    def pads(self) -> bool:
        """Whether padding of `gather_payloads` travels on a wire."""
        return _internals.is_multi_worker(_replica_context().strategy)


def _replica_context() -> tf.distribute.ReplicaContext:
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError(
            "The gradient's exchange must be called in replica context: inside "
            "`strategy.run`."
        )
    return context


def _gather_in_process(tensor: tf.Tensor) -> tf.Tensor:
    return _replica_context().all_gather(tensor, axis=0)
