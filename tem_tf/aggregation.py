"""One gradient's path from this replica to the sum over all of them.

`aggregate` runs in replica context and is the same eagerly, in `tf.function`, in one
process and in several. With N replicas Keras hands over gradients divided by N;
thresholds and metrics are in units of a worker's own, undivided gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tem_tf import fused_step, lone_exchange, metrics, native
from tem_tf.accounting import Accounts, words_of
from tem_tf.asking_plan import asking_plan
from tem_tf.compressors import Compressor, Everything, Sparsifier, check_vectors
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.empty_batches import batch_is_empty
from tem_tf.instance_keys import Use, new_owner
from tem_tf.kept_state import Kept, KeptState
from tem_tf.layout import (
    COMPRESSED_DTYPES,
    Gradient,
    Layout,
    Parts,
    Segments,
    total_size,
    unpack,
)
from tem_tf.local_step import ComposedStep
from tem_tf.lone_exchange import LoneExchange
from tem_tf.meeting import Meeting, facts_of
from tem_tf.memory import Memory
from tem_tf.nonfinite import require_finite, require_none_counted
from tem_tf.options import Options
from tem_tf.outcome import Outcome, Summed
from tem_tf.replica_state import ReplicaState, unique_names
from tem_tf.transport import Exchange, Rider, sum_of_others


class Aggregator:
    """Sums gradients over replicas in compressed form; needs no Keras optimizer.

    Args:
        compressor: `tem_tf.Compressor`. What each worker sends.
        memory: As in `SparsifiedOptimizer`.
        **options: `dense_below`, `warmup_steps`, `value_dtype`, `nonfinite`,
            `local_clipnorm`, `gradients_divided_by_replicas`, `exact_payload`,
            `rounding_seed`, `masks`: as in `SparsifiedOptimizer`.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> import tem_tf
    >>> weights = [tf.Variable([0.0, 0.0])]
    >>> aggregator = tem_tf.Aggregator(tem_tf.HardThreshold(0.5))
    >>> aggregator.build(weights)
    >>> aggregator.aggregate([tf.constant([0.4, 1.0])], step=0)[0].numpy()
    array([0., 1.], dtype=float32)
    >>> aggregator.aggregate([tf.constant([0.4, 0.0])], step=1)[0].numpy()
    array([0.8, 0. ], dtype=float32)
    """

    def __init__(
        self, compressor: Compressor, memory: Memory | str | None = "auto", **options
    ):
        self.options = Options(compressor, memory, **options)
        if not self.options.leave_gradients_alone:
            native.prepare()  # Here, where no worker is in the middle of a step.
        self.strategy: tf.distribute.Strategy | None = None
        self._memory = self.options.kept or Memory()
        self._use = Use(new_owner())
        self.state = ReplicaState()
        self._kept = KeptState(self.state, self._memory, self.options.compressor)
        self._accounts = Accounts(self.state, self._use.of("metrics"))
        self._meeting = Meeting(
            self.state, self._use.of("handshake"), self.all_facts, self._initial_weights
        )
        self.variables: dict[str, tuple[tuple[int, ...], tf.DType]] = {}
        self._weights: dict[str, Any] = {}
        self._common = lambda _, variable: tf.convert_to_tensor(variable)
        self._skips = self.options.nonfinite == "skip"
        self._in_xla = False  # Whether XLA compiles the step that was traced last.
        self.facts: dict[str, str] = {}  # What else must not differ between workers.

    def build(
        self,
        variables: Sequence[Any],
        names: Sequence[str] | None = None,
        common: Callable[[str, Any], tf.Tensor] | None = None,
    ):
        """Makes the memory of variables, once; in the strategy's scope.

        Args:
            variables: Of Keras or TensorFlow, of static shape.
            names: Theirs, all different. Default: their paths or names.
            common: Of a name and its variable, what all workers must have in common
                before the first exchange. Default: its value.
        """
        self._common = common or self._common
        names = unique_names(variables) if names is None else names
        self.variables |= {
            name: (tuple(variable.shape), tf.as_dtype(variable.dtype))
            for name, variable in zip(names, variables, strict=True)
        }
        self._weights |= dict(zip(names, variables, strict=True))
        self._meeting.build()
        self.options.masks.check(self.variables)  # Now that all have the same.
        self.strategy = tf.distribute.get_strategy()
        layout = self._layout(list(names))
        self._kept.build(layout.segments)
        self._accounts.build(layout.variables)

    def aggregate(
        self,
        gradients: Sequence[Gradient],
        step: tf.Tensor | int,
        names: Sequence[str] | None = None,
    ) -> list[tf.Tensor]:
        """Sums gradients over replicas, each of which sends a compressed message.

        On all replicas, in replica context.

        Args:
            gradients: This replica's.
            step: int64 scalar, 0 at the first step, equal on all replicas.
            names: Of their variables. Default: all that were built, in their order.

        Returns:
            Dense gradients with the shapes and dtypes of `gradients`, bit-equal on all
            replicas.

        Raises:
            ValueError: `nonfinite` is "skip": see `aggregate_or_skip`.
        """
        if self._skips:
            raise ValueError(
                '`nonfinite` must be "raise" or "zero" for `aggregate`, which cannot '
                "say that a step is to be skipped. Received: nonfinite='skip'. Call "
                "`aggregate_or_skip`."
            )
        return list(self.aggregate_or_skip(gradients, step, names).gradients)

    def aggregate_or_skip(
        self,
        gradients: Sequence[Gradient],
        step: tf.Tensor | int,
        names: Sequence[str] | None = None,
    ) -> Summed:
        """As `aggregate`, and says whether a gradient was not finite on some replica.

        With `nonfinite="skip"` nothing is kept of such a step: residuals and the
        compressor's state are what they were before, on all replicas, and the caller is
        to update nothing either.

        Args:
            gradients: As in `aggregate`.
            step: As there. The next one after a skipped step has the same number, so
                that schedules stand still and random draws are repeated.
            names: As there.
        """
        step = tf.cast(step, tf.int64)
        layout = self._layout(list(self.variables if names is None else names))
        ops = SparsifiedCrossDeviceOps.of(tf.distribute.get_strategy())
        self._in_xla = lone_exchange.in_xla_and_alone(ops.replicas())
        unit = self._unit(ops.replicas())
        segments = layout.segments
        self._meeting.in_step(ops, step)
        # 1 What is compressed, and what goes whole.
        parts = layout.split(gradients)
        in_place = self._why_composed(layout) is None

        def path(compressor: Compressor) -> Outcome:
            here = self._local_step(compressor.scaled(unit), layout, step, unit)
            kept = self._kept.read(segments)
            # 2 No communication: finite? clip, correct, compress, round.
            local = here.begin(parts, kept)
            # 3 Gather or sum, as often as the compressor asks.
            exchange = self._exchange(ops, segments, parts.large)
            received = exchange.rounds(local.first, local.ask, local.rider)
            # 4 What is kept, now that all know what was sent.
            memory, table = here.settle(kept, local, received)
            # 5 The memory's last word.
            total, state = received.done.total, received.done.state
            direction, memory = self._memory.apply(memory, total, step, segments)
            check_vectors(f"{type(self._memory).__name__}.apply", direction, segments)
            beside, other = received.beside, local.other
            before = kept.memory if in_place and self._skips else {}
            if in_place and memory:  # Of the fused step a rest, else all of it: so
                # that what both branches of a warm-up return is of one structure.
                with tf.control_dependencies(self._checks(beside.rider)):
                    self._kept.write_memory(segments, memory)
                memory = {}
            new = Kept(memory, state)
            return Outcome(direction, new, beside, table, local.clipped, other, before)

        outcome = self._warm_up(ops, step, path)
        rider = outcome.beside.rider
        other = sum_of_others(ops, outcome.other, self._use)
        # 6 Unless a gradient was not finite.
        with tf.control_dependencies(self._checks(rider)):
            self._keep(segments, outcome)
            self._account(layout, outcome, unit)
            # 7 To the optimizer, which sums nothing itself.
            small = unpack(rider.block, layout.small)
            whole = Parts(list(outcome.direction), small, other)
            joined = layout.join(whole, gradients)
            return Summed(joined, rider.nonfinite, rider.empty)

    def path_in_words(self) -> str:
        """Which local step is in use, and why, for people to read."""
        reason = self._why_composed(self._layout(list(self.variables)))
        words = f"TensorFlow's operations: {reason}" if reason else "native kernels"
        others = [
            f"{name} ({dtype.name})"
            for name, (_, dtype) in self.variables.items()
            if dtype not in COMPRESSED_DTYPES
        ]
        if others:
            words += f"; summed whole, in dtypes of their own: {', '.join(others)}"
        return words + self.options.masks.words("; ")

    def skip_nonfinite(self) -> None:
        """From now on leaves it to the caller what a NaN does, as with "skip"."""
        self._skips = True

    def meet(self, step: tf.Tensor) -> None:
        """Compares workers before the first exchange; at `step`, int64 scalar."""
        ops = SparsifiedCrossDeviceOps.of(tf.distribute.get_strategy())
        self._meeting.in_step(ops, step)

    def add_dense_step(
        self, names: Sequence[str], nonfinite: tf.Tensor | int = 0
    ) -> None:
        """Counts a step whose gradients somebody else sums, dense; replica context.

        Args:
            names: Of their variables.
            nonfinite: int32 scalar > 0 if the step is skipped, since the sum is not
                finite.
        """
        words = self._dense_words(self._layout(list(names)))
        self._accounts.add_dense(words, names, nonfinite)

    def build_totals(self) -> None:
        """Makes what `running_totals` reads, which needs no variables."""
        self._accounts.build_totals()

    def running_totals(self) -> tf.Tensor:
        """See `metrics.running_totals`. Replica context; no collective."""
        return self._accounts.running_totals()

    def summary(self) -> dict[str, float]:
        """The first of `summaries`."""
        return self.summaries()[0]

    def summaries(self) -> tuple[dict, dict]:
        """Of the model and by variable, see `metrics.summarise`, `summarise_variables`.

        One collective, in cross-replica context.

        Raises:
            tf.errors.InvalidArgumentError: a gradient was not finite, which is an
                error, and XLA could not raise it.
        """
        summary, by_variable = self._accounts.summaries(self._built_in())
        if self.options.nonfinite == "raise" and not self._skips:
            require_none_counted(summary["nonfinite_gradients"])
        return summary, by_variable

    def raise_what_xla_could_not(self) -> None:
        """Raises as `summaries`, where XLA compiles the step; else asks nobody."""
        if self._in_xla:
            self.summaries()

    def reset(self) -> None:
        """Forgets what replicas remember, totals included; cross-replica context."""
        self._built_in().run(self.state.reset)

    def all_facts(self) -> dict[str, str]:
        """What must not differ between workers, in words."""
        segments = self._layout(list(self.variables)).segments
        rounds = {"rounds": asking_plan(self.options.compressor, segments)}
        return facts_of(self.options) | self.facts | rounds

    def _initial_weights(self) -> dict[str, Any]:
        return {
            f"{name} {list(shape)} {dtype.name}": self._common(name, weight)
            for (name, (shape, dtype)), weight in zip(
                self.variables.items(), self._weights.values(), strict=True
            )
        }

    def _built_in(self) -> tf.distribute.Strategy:
        if self.strategy is None:
            raise ValueError("An aggregator must be built first. Call `build`.")
        return self.strategy

    def _layout(self, names: list[str]) -> Layout:
        shapes, dtypes = zip(*(self.variables[name] for name in names), strict=True)
        live = self.options.masks.live(names)
        return Layout.of(names, shapes, dtypes, self.options.dense_below, live)

    def _unit(self, replicas: int) -> float:
        """A worker's own gradient times this is what Keras hands over."""
        return 1 / replicas if self.options.gradients_divided_by_replicas else 1.0

    def _why_composed(self, layout: Layout) -> str | None:
        """Why it is not the native step; None if it is."""
        if self._in_xla:
            return lone_exchange.IN_WORDS
        return fused_step.why_not(self.options) or fused_step.why_not_here(
            self.options, layout, self.state, self._built_in()
        )

    def _local_step(
        self, compressor: Compressor, layout: Layout, step: tf.Tensor, unit: float
    ) -> fused_step.FusedStep | ComposedStep:
        options = self.options
        asked = (compressor, self._memory, layout, step, options.value_dtype)
        asked += (options.largest_norm(unit), options.rounding_seed)
        # Not in a warm-up, whose compressor is none that the kernels know.
        if isinstance(compressor, Sparsifier) and self._why_composed(layout) is None:
            raises = options.nonfinite == "raise" and not self._skips
            return fused_step.FusedStep(*asked, self.state, not raises)
        return ComposedStep(*asked, static=self._in_xla)

    def _exchange(
        self, ops: SparsifiedCrossDeviceOps, segments: Segments, like: list[tf.Tensor]
    ) -> Exchange | LoneExchange:
        demands = self._kept.demands(segments)
        if self._in_xla:
            return LoneExchange(segments, self.options.value_dtype, demands)
        if self.options.exact_payload:  # Lengths go first.
            demands = tf.zeros_like(demands)
        value_dtype = self.options.value_dtype
        return Exchange(ops, self._use, segments, value_dtype, demands, like)

    def _warm_up(
        self, ops: SparsifiedCrossDeviceOps, step: tf.Tensor, path: Any
    ) -> Any:
        """The path of a compressor, or before `warmup_steps` of everything."""
        compressor, steps = self.options.compressor, self.options.warmup_steps
        if not steps:
            return path(compressor)
        whole = Everything(compressor)
        return ops.cond(step < steps, lambda: path(whole), lambda: path(compressor))

    def _checks(self, rider: Rider) -> list[tf.Operation]:
        """Raises on all replicas at the same step, since all see the same headers."""
        raises = self.options.nonfinite == "raise" and not self._skips
        if not raises or self._in_xla:  # XLA has no assertions.
            return []
        empty = None if batch_is_empty() is None else rider.empty
        return [require_finite(rider.nonfinite, empty)]

    def _keep(self, segments: Segments, outcome: Outcome) -> None:
        """Writes the new states; where a step is skipped those before stay."""
        demand = outcome.beside.traffic.demand
        if not self._skips:
            self._kept.write(segments, outcome.kept, demand)
            return

        def keep() -> tf.Tensor:
            self._kept.write(segments, outcome.kept, demand)
            return tf.constant(False)

        def undo() -> tf.Tensor:
            self._kept.write_memory(segments, outcome.before)
            return tf.constant(True)

        tf.cond(outcome.beside.rider.nonfinite > 0, undo, keep)

    def _account(self, layout: Layout, outcome: Outcome, unit: float) -> None:
        beside, dense = outcome.beside, self._dense_words(layout)
        table = metrics.in_own_units(outcome.table, unit, outcome.clipped)
        skipped = tf.constant(False)
        if self._skips:  # What was sent has not left.
            skipped = beside.rider.nonfinite > 0
            table = tf.where(skipped, tf.zeros_like(table), table)
        self._accounts.add(
            table,
            [segment.name for segment in layout.variables],
            payload_words=beside.words + words_of(layout.other, self.variables),
            padded_words=beside.traffic.padding,
            overflows=beside.traffic.overflows,
            dense_words=dense,
            nonfinite=beside.rider.nonfinite,
            skipped=tf.cast(skipped, tf.int32),
        )

    def _dense_words(self, layout: Layout) -> int:
        compressed = total_size(layout.segments) + total_size(layout.small)
        return compressed + words_of(layout.other, self.variables)
