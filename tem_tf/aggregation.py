"""One gradient's path from this replica to the sum over all of them.

This is where compressor, memory, wire and exchange meet. Everything here runs in
replica context and is the same eagerly, in `tf.function`, in one process and in
several. With N replicas Keras hands over gradients divided by N; thresholds and
metrics are in units of a worker's own, undivided gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf import fast_path, metrics, wire
from tem_tf.compressors import Compressor, Identity, Observed
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.local_gradient import clip, zero_unless_finite
from tem_tf.memory import Memory
from tem_tf.options import Options
from tem_tf.packing import Segments, make_segments, pack, unpack
from tem_tf.replica_state import ReplicaState
from tem_tf.transport import Received, send
from tem_tf.variable_metrics import VariableMetrics

# How the error of a gradient that is not finite begins.
NOT_FINITE = "A gradient has NaN or Inf"


class Outcome(NamedTuple):
    """What one step yields on a replica.

    Attributes:
        direction: As `Received.total`.
        received: As above.
        memory_state, compressor_state: The new states.
        table: float64 (S, 6). What this replica sent and held back of each variable;
            see `metrics.step_table`.
    """

    direction: Any
    received: Received
    memory_state: dict[str, tf.Tensor]
    compressor_state: Any
    table: tf.Tensor


class Aggregator:
    """Aggregates gradients by `options`, and holds what each replica remembers."""

    def __init__(self, options: Options):
        self.options = options
        self._memory = options.kept or Memory()
        self._memory_state = ReplicaState()
        self._compressor_state = ReplicaState()
        self._demand = ReplicaState()
        self._metrics = ReplicaState()
        self._gather_metrics: Any = None
        self._variables = VariableMetrics()
        self._memory_keys: tuple[str, ...] = ()
        self._compressor_leaves: dict[Segments, tuple[list[str], Any]] = {}

    def build(self, names: Sequence[str], sizes: Sequence[int]) -> None:
        """Makes the memory of the variables that have none yet, by their paths."""
        large = [i for i, size in enumerate(sizes) if size >= self.options.dense_below]
        segments = make_segments([names[i] for i in large], [sizes[i] for i in large])
        self._memory_keys = tuple(self._memory.init(make_segments([], [])))
        # One by one: slices of one vector would be views of it, which would stay as a
        # whole beside what the first step makes each variable's own.
        for segment in segments:
            state = self._memory.init(make_segments([segment.name], [segment.size]))
            for key, vector in state.items():
                self._memory_state.add(f"{key}/{segment.name}", vector)
        self._demand.add("demand", tf.constant(0, tf.int64))
        self._metrics.add("metrics", metrics.zeros())
        self._variables.build(names, sizes)

    def reset(self, strategy: tf.distribute.Strategy) -> None:
        """Forgets what replicas remember, metrics included; cross-replica context."""

        def reset() -> None:
            for state in (
                self._memory_state,
                self._compressor_state,
                self._demand,
                self._metrics,
            ):
                state.reset()
            self._variables.reset()

        strategy.run(reset)

    def aggregate(
        self,
        gradients: Sequence[tf.Tensor | tf.IndexedSlices],
        names: Sequence[str],
        step: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Sums gradients over replicas, each of which sends a compressed message.

        Args:
            gradients: This replica's, of any floating dtype.
            names: Paths of their variables.
            step: int64 scalar, 0 at the first step, equal on all replicas.

        Returns:
            Dense gradients with the shapes and dtypes of `gradients`, bit-equal on all
            replicas.
        """
        context = tf.distribute.get_replica_context()
        exchange = SparsifiedCrossDeviceOps.of(context.strategy)
        unit = self._unit(context.num_replicas_in_sync)
        sizes = [_size(g) for g in gradients]
        large = [i for i, size in enumerate(sizes) if size >= self.options.dense_below]
        small = [i for i, size in enumerate(sizes) if size < self.options.dense_below]
        segments = make_segments([names[i] for i in large], [sizes[i] for i in large])
        rest = make_segments([names[i] for i in small], [sizes[i] for i in small])

        wide, narrow = [gradients[i] for i in large], [gradients[i] for i in small]

        compressor = self.options.compressor.scaled(unit)
        if fast_path.applies(self.options, segments, self._memory_state):
            outcome, block = self._fast_path(
                compressor, exchange, segments, wide, narrow, step
            )
            clipped = tf.ones([])
        else:
            outcome, block, clipped = self._packed_path(
                compressor, exchange, segments, wide, narrow, step, unit
            )

        block_and_shared = outcome.received.block
        received = outcome.received._replace(block=block_and_shared[: block.shape[0]])
        if compressor.observes:
            total = received.total
            observed = Observed(
                pack(total) if isinstance(total, list) else total,
                received.entries,
                context.num_replicas_in_sync,
                block_and_shared[block.shape[0] :],
            )
            state = outcome.compressor_state
            state = compressor.observe(state, observed, step, segments)
            outcome = outcome._replace(compressor_state=state)
        with tf.control_dependencies(self._checks(outcome)):
            self._write_states(outcome, segments)
            table = [outcome.table, metrics.dense_table(rest, block)]
            table = metrics.in_own_units(tf.concat(table, axis=0), unit, clipped)
            self._count(received, table, [s.name for s in segments + rest])
            results: list[Any] = [None] * len(gradients)
            for places, flat, chosen in (
                (segments, outcome.direction, large),
                (rest, received.block, small),
            ):
                like = [gradients[i] for i in chosen]
                parts = flat if isinstance(flat, list) else unpack(flat, places, like)
                for i, result in zip(chosen, parts, strict=True):
                    results[i] = tf.cast(result, gradients[i].dtype)
        return results

    def _packed_path(
        self,
        compressor: Compressor,
        exchange: SparsifiedCrossDeviceOps,
        segments: Segments,
        wide: list[Any],
        narrow: list[Any],
        step: tf.Tensor,
        unit: float,
    ) -> tuple[Outcome, tf.Tensor, tf.Tensor]:
        """From gradients to what is received by TensorFlow's operations.

        Also returns this replica's block, and the factor of its clipping.
        """
        vector, block = pack(wide), pack(narrow)
        vector, block, nonfinite = zero_unless_finite(vector, block)
        vector, block, clipped = clip(vector, block, self._largest_norm(unit))
        shared = compressor.share(vector, segments)
        riding = tf.concat([block, shared], axis=0)

        def path(compressor: Compressor) -> Outcome:
            return self._path(
                compressor, exchange, segments, vector, riding, nonfinite, step
            )

        if not self.options.warmup_steps:
            return path(compressor), block, clipped
        outcome = exchange.cond(
            step < self.options.warmup_steps,
            lambda: path(Identity()),
            lambda: path(compressor),
        )
        return outcome, block, clipped

    def _path(
        self,
        compressor: Compressor,
        exchange: SparsifiedCrossDeviceOps,
        segments: Segments,
        vector: tf.Tensor,
        block: tf.Tensor,
        nonfinite: tf.Tensor,
        step: tf.Tensor,
    ) -> Outcome:
        """The path of one gradient, between `pack` and `unpack`. Pure."""
        memory = self._memory
        memory_state = self._read_memory(segments)
        compressor_state = self._read_compressor(segments)

        corrected = memory.compensate(memory_state, vector)
        message, compressor_state = compressor.compress(
            compressor_state, corrected, step, segments
        )
        message = wire.rounded(message, self.options.value_dtype)
        sent = message.to_dense()
        memory_state = memory.update(memory_state, corrected, sent)
        received = send(
            compressor.aggregation,
            self.options.value_dtype,
            exchange,
            message,
            block,
            nonfinite,
            self._read_demand(),
        )
        direction, memory_state = memory.apply(memory_state, received.total)

        table = metrics.step_table(
            segments, message, vector, corrected, sent, memory_state.get("residual")
        )
        return Outcome(direction, received, memory_state, compressor_state, table)

    def _fast_path(
        self,
        compressor: Compressor,
        exchange: SparsifiedCrossDeviceOps,
        segments: Segments,
        wide: list[Any],
        narrow: list[Any],
        step: tf.Tensor,
    ) -> tuple[Outcome, tf.Tensor]:
        """What `_path` does, by native kernels; also returns this replica's block."""
        state = self._read_compressor(segments)
        selected = fast_path.select(
            compressor,
            segments,
            wide,
            narrow,
            self._memory_state,
            step,
            state,
            zero_nonfinite=self.options.nonfinite == "zero",
        )
        received = send(
            compressor.aggregation,
            self.options.value_dtype,
            exchange,
            selected.message,
            tf.concat([selected.block, selected.shared], axis=0),
            selected.nonfinite,
            self._read_demand(),
            selected.add_up,
        )
        outcome = Outcome(received.total, received, {}, state, selected.table)
        return outcome, selected.block

    def _unit(self, replicas: int) -> float:
        """A worker's own gradient times this is what Keras hands over."""
        return 1 / replicas if self.options.gradients_divided_by_replicas else 1.0

    def _largest_norm(self, unit: float) -> float | None:
        limit = self.options.local_clipnorm
        return None if limit is None else limit * unit

    def _checks(self, outcome: Outcome) -> list[tf.Operation]:
        """Raises on all replicas at the same step, since all see the same headers."""
        if self.options.nonfinite != "raise":
            return []
        return [
            tf.debugging.Assert(
                tf.equal(outcome.received.nonfinite, 0),
                [
                    f"{NOT_FINITE}. Replicas whose gradient is not finite:",
                    outcome.received.nonfinite,
                    'Lower the learning rate, or pass nonfinite="zero" to '
                    "SparsifiedOptimizer to count such a gradient as zero.",
                ],
            )
        ]

    def _read_memory(self, segments: Segments) -> dict[str, tf.Tensor]:
        return {
            key: pack([self._memory_state.read(f"{key}/{s.name}") for s in segments])
            for key in self._memory_keys
        }

    def _read_compressor(self, segments: Segments) -> Any:
        names, structure = self._compressor_names(segments)
        leaves = [self._compressor_state.read(name) for name in names]
        return tf.nest.pack_sequence_as(structure, leaves)

    def _write_states(self, outcome: Outcome, segments: Segments) -> None:
        for key, vector in outcome.memory_state.items():
            for segment in segments:
                self._memory_state.assign(
                    f"{key}/{segment.name}", vector[segment.slice]
                )
        names, _ = self._compressor_names(segments)
        leaves = tf.nest.flatten(outcome.compressor_state)
        for name, leaf in zip(names, leaves, strict=True):
            self._compressor_state.assign(name, leaf)
        self._demand.assign("demand", outcome.received.traffic.demand)

    def _read_demand(self) -> tf.Tensor:
        """How many words the exchange shall have room for; 0: lengths go first."""
        if self.options.exact_payload:
            return tf.constant(0, tf.int64)
        return self._demand.read("demand")

    def _compressor_names(self, segments: Segments) -> tuple[list[str], Any]:
        """Names of the leaves of the compressor's state, made on first use.

        A compressor's state is about the gradient as a whole, so that training another
        set of variables starts it anew.
        """
        if segments not in self._compressor_leaves:
            with tf.init_scope():
                state = self.options.compressor.init(segments)
                table = "+".join(segment.name for segment in segments)
                names = [f"{i}/{table}" for i in range(len(tf.nest.flatten(state)))]
                for name, leaf in zip(names, tf.nest.flatten(state), strict=True):
                    self._compressor_state.add(name, leaf)
            structure = tf.nest.map_structure(lambda _: None, state)
            self._compressor_leaves[segments] = names, structure
        return self._compressor_leaves[segments]

    def count_dense(self, sizes: Sequence[int]) -> None:
        """Counts a step whose gradients somebody else summed, dense.

        For an aggregator that sees no other steps: there is nothing of a last step to
        be replaced, so that one addition of a constant will do.
        """
        entries = sum(sizes)
        step = metrics.add_step(
            metrics.zeros(),
            entries=entries,
            payload_words=entries,
            dense_words=entries,
        )
        self._metrics.add_to("metrics", step)

    def _count(
        self, received: Received, table: tf.Tensor, names: Sequence[str]
    ) -> None:
        self._metrics.assign(
            "metrics",
            metrics.add_step(
                self._metrics.read("metrics"),
                entries=tf.reduce_sum(table[:, 0]),
                payload_words=received.words,
                padded_words=received.traffic.padding,
                overflows=received.traffic.overflows,
                dense_words=sum(map(tf.size, tf.nest.flatten(received[:2]))),
                nonfinite=received.nonfinite,
                table=table,
            ),
        )
        self._variables.add(table, names)

    def running_totals(self) -> tf.Tensor:
        """See `metrics.running_totals`. Replica context; no collective."""
        return metrics.running_totals(self._metrics.read("metrics"))

    def summary(self, strategy: tf.distribute.Strategy) -> dict[str, float]:
        """Sums the metrics over replicas. Collective, in cross-replica context."""
        if self._gather_metrics is None:  # Traced once.
            exchange = SparsifiedCrossDeviceOps.of(strategy)

            def gather() -> tf.Tensor:
                return exchange.gather_numbers(self._metrics.read("metrics"))

            self._gather_metrics = tf.function(lambda: strategy.run(gather))
        rows = strategy.experimental_local_results(self._gather_metrics())[0]
        return metrics.summarise(rows.numpy())

    def summary_by_variable(
        self, strategy: tf.distribute.Strategy
    ) -> dict[str, dict[str, float]]:
        """The same for each variable. Collective, in cross-replica context."""
        steps = int(self.summary(strategy)["steps"])
        all_sent = self.options.leave_gradients_alone
        return self._variables.summary(strategy, steps, all_sent)


def _size(gradient: tf.Tensor | tf.IndexedSlices) -> int:
    """Number of entries of a gradient of static shape."""
    return math.prod(gradient.shape)
