"""How replicas exchange what they send: all-gather payloads, or all-reduce values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf import _collective_internals
from tem_tf.capacity import LADDER, capacity_of, next_demand, rung_of
from tem_tf.gathers import bare_gather
from tem_tf.instance_keys import Use


class Traffic(NamedTuple):
    """What a gather put on the wire beside the payload, and what it taught.

    Attributes:
        padding: int32 scalar. Words that this replica sent beyond its payload.
        overflows: int32 scalar. 1 if there was no room for the longest payload, so
            that a second collective followed, else 0.
        demand: int64 scalar, for the next call; the same on all replicas.
    """

    padding: tf.Tensor
    overflows: tf.Tensor
    demand: tf.Tensor

    @classmethod
    def none(cls, demand: tf.Tensor) -> Traffic:
        """Nothing was sent by this way."""
        return cls(tf.constant(0), tf.constant(0), demand)


class Gathered(NamedTuple):
    """What `gather_payloads` returns.

    Attributes:
        rows: int32 (replicas, words). The payloads in replica order, followed by
            zeros, the same on all replicas.
        traffic: As above.
    """

    rows: tf.Tensor
    traffic: Traffic


class SparsifiedCrossDeviceOps(_collective_internals.DelegatingCrossDeviceOps):
    """Cross-device ops with the gradient's exchange beside the dense ones.

    Every reduction and gather that others ask for (metrics, batch norm, Keras's logs)
    goes to `dense` unchanged. `gather_payloads`, `gather_numbers`, `reduce_values` and
    `cond` are the plugin's own, for gradients, totals and the handshake, in replica
    context, on all replicas in the same order. They work under every strategy,
    installed in it or not.

    Args:
        dense: `tf.distribute.CrossDeviceOps`. Default: reduction to one device.
    """

    def __init__(self, dense: tf.distribute.CrossDeviceOps | None = None):
        super().__init__(dense or tf.distribute.ReductionToOneDevice())

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy) -> SparsifiedCrossDeviceOps:
        """Returns the strategy's own, if it has such, else a new one."""
        installed = _collective_internals.cross_device_ops(strategy)
        return installed if isinstance(installed, cls) else cls()

    def gather_payloads(
        self,
        payload: tf.Tensor,
        use: Use,
        demand: tf.Tensor | int = 0,
        fixed_length: bool = False,
    ) -> Gathered:
        """Gathers one vector from every replica, whole, in one collective if it can.

        Between processes the collective has room for `demand` words, padding included,
        and each vector begins with its length. If one was longer, all replicas see it
        and send what is left in a second collective. So the result is the same for
        every demand, and the demand only decides the cost: with the one that the last
        call returned a second collective is rare, with 0 it is the rule and padding is
        least. Within one process nothing travels and nothing is padded.

        Args:
            payload: int32 (words,); lengths may differ between replicas.
            use: Whose keys are taken.
            demand: int64 scalar, equal on all replicas.
            fixed_length: Whether the length is static and equal on all replicas, so
                that nothing need be learnt or padded.
        """
        context = _replica_context()
        demand = tf.cast(demand, tf.int64)
        if context.num_replicas_in_sync == 1:
            return Gathered(payload[tf.newaxis], Traffic.none(demand))
        gather = bare_gather(context.strategy)
        if gather is not None:
            replicas = context.num_replicas_in_sync
            if fixed_length:
                length = payload.shape[0]
                key = use.of("gather", length).first_key()
                rows = tf.reshape(gather(payload, key), [replicas, length])
                return Gathered(rows, Traffic.none(demand))
            key = use.of("gather").first_key()
            return _gather_learnt(gather, replicas, payload, demand, key)
        if not _collective_internals.is_multi_worker(context.strategy):
            rows = context.merge_call(_stack_rows, args=(payload,))
            return Gathered(rows, Traffic.none(demand))
        # Eagerly with several devices per worker: no collective of our own can run.
        longest = tf.reduce_max(context.all_gather(tf.shape(payload), axis=0))
        rows = context.all_gather(_pad(payload, longest)[tf.newaxis], axis=0)
        padding = longest - tf.size(payload)
        return Gathered(rows, Traffic(padding, tf.constant(1), demand))

    def gather_numbers(self, numbers: tf.Tensor, use: Use) -> tf.Tensor:
        """Gathers float64 (n,), n equal on all replicas: float64 (replicas, n)."""
        words = tf.reshape(tf.bitcast(numbers, tf.int32), [-1])
        rows = self.gather_payloads(words, use, fixed_length=True).rows
        return tf.bitcast(tf.reshape(rows, [self.replicas(), -1, 2]), tf.float64)

    def reduce_values(self, values: tf.Tensor, use: Use) -> tf.Tensor:
        """Sums vectors over replicas, of a length that is equal on all of them.

        Args:
            values: (n,), float32, float64, float16, int32 or int64.
            use: Whose keys are taken.
        """
        context = _replica_context()
        if context.num_replicas_in_sync == 1:
            return values
        all_reduce = _collective_internals.collective_all_reduce(context.strategy)
        if all_reduce is None:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        length = values.shape[0]
        if length is not None:
            key = use.of("reduce", values.dtype.name, length).first_key()
            return all_reduce(values, key)
        # Another length from step to step: padded to a rung of the ladder, each with a
        # key of its own.
        rung = rung_of(tf.size(values))
        key = use.of("reduce", values.dtype.name).first_key() - rung
        padded = _pad(values, capacity_of(rung))
        return all_reduce(padded, key)[: tf.size(values)]

    def cond(self, predicate: tf.Tensor, true_fn: Callable, false_fn: Callable) -> Any:
        """`tf.cond` between two pure branches that may exchange.

        The predicate must be equal on all replicas. In one process, where exchanging
        needs a `merge_call` that TensorFlow refuses inside `tf.cond`, both branches
        run and one result is taken: copies in memory, nothing on a wire.
        """
        context = _replica_context()
        if (
            context.num_replicas_in_sync == 1
            or _collective_internals.collective_all_gather(context.strategy) is not None
        ):
            return tf.cond(predicate, true_fn, false_fn)
        return tf.nest.map_structure(
            lambda yes, no: tf.where(predicate, yes, no), true_fn(), false_fn()
        )

    def replicas(self) -> int:
        """Number of replicas that exchange."""
        return _replica_context().num_replicas_in_sync

    def replica(self) -> int | tf.Tensor:
        """This one's number, from 0: an int or int32 scalar."""
        return _replica_context().replica_id_in_sync_group


def _gather_learnt(
    gather: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    replicas: int,
    payload: tf.Tensor,
    demand: tf.Tensor,
    first_key: int,
) -> Gathered:
    """One collective with room for `demand` words, and a second for what is left.

    Args:
        gather: From words (w,) and an instance key to (replicas · w,).
        replicas: Their number.
        payload: As in `gather_payloads`.
        demand: As in `gather_payloads`.
        first_key: Of a range.
    """
    length = tf.size(payload)
    framed = tf.concat([length[tf.newaxis], payload], axis=0)

    rung = rung_of(demand)
    room = capacity_of(rung)
    first = gather(_pad(framed[:room], room), first_key - rung)
    first = tf.reshape(first, [replicas, -1])
    longest = tf.reduce_max(first[:, 0])

    def rest() -> tuple[tf.Tensor, tf.Tensor]:
        rung = rung_of(longest + 1 - room)
        left = capacity_of(rung)
        key = first_key - len(LADDER) - rung
        second = gather(_pad(framed[room:], left), key)
        rows = tf.concat([first, tf.reshape(second, [replicas, -1])], axis=1)
        return rows[:, 1:], room + left

    overflows = longest + 1 > room
    # The lengths, and so the predicate, are the same on all replicas.
    rows, sent = tf.cond(overflows, rest, lambda: (first[:, 1:], room))
    demand = next_demand(demand, tf.cast(longest + 1, tf.int64))
    traffic = Traffic(sent - length, tf.cast(overflows, tf.int32), demand)
    return Gathered(rows, traffic)


def _pad(vector: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Appends zeros up to a length."""
    return tf.pad(vector, [[0, length - tf.size(vector)]])


def _stack_rows(strategy: tf.distribute.Strategy, payload: Any) -> tf.Tensor:
    """Joins what the replicas of this process hold; in cross-replica context."""
    rows = strategy.experimental_local_results(payload)
    longest = tf.reduce_max(tf.stack([tf.size(row) for row in rows]))
    return tf.stack([_pad(row, longest) for row in rows])


def _replica_context() -> tf.distribute.ReplicaContext:
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError(
            "The gradient's exchange must be called in replica context: inside "
            "`strategy.run`."
        )
    return context
