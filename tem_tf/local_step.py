"""What one replica does before and after an exchange, in TensorFlow's operations.

Works on any device, with every compressor and memory. `fused_step` has the same two
methods in native kernels, for some of them; the bits are the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf import metrics, native, wire
from tem_tf.compressors import (
    Asked,
    Compressor,
    Done,
    Gather,
    Heard,
    Selection,
    check_asked,
    check_own,
    check_vectors,
)
from tem_tf.empty_batches import batch_is_empty
from tem_tf.fixed_sums import fixed_norm
from tem_tf.kept_state import Kept
from tem_tf.layout import Layout, Parts, pack, reals, total_size, unpack
from tem_tf.memory import Memory
from tem_tf.sparse_gradient import Entries, SparseGradient
from tem_tf.transport import Received, Rider


class Local(NamedTuple):
    """What a replica knows before it has heard anything.

    Attributes:
        gradient: float32 vectors of the large variables, clipped; zeros if any gradient
            is not finite.
        corrected: The same with what memory adds.
        rider: What is to ride with the first message, likewise.
        other: Gradients of other dtypes, likewise.
        clipped: float32 scalar. What clipping multiplied with.
        first: What is asked first.
        ask: From the answers so far to what is asked next.
        table: float64 (S, 6) of the large variables, if it is known so early.
    """

    gradient: Sequence[tf.Tensor]
    corrected: Sequence[tf.Tensor]
    rider: Rider
    other: list[tf.Tensor]
    clipped: tf.Tensor
    first: Asked
    ask: Callable[[tuple[Heard, ...]], Asked]
    table: tf.Tensor | None = None


@dataclasses.dataclass(frozen=True)
class ComposedStep:
    """The local step of a gradient, before an exchange and after it.

    Attributes:
        compressor: In units of the gradients that come.
        memory: What is kept.
        layout: Of the gradients.
        step: int64 scalar.
        value_dtype: How entries travel.
        largest_norm: Bound of the gradient's global norm, or None.
        rounding_seed: Of rounding by chance, or None.
        static: Whether no shape may hang on a value, as under XLA.
    """

    compressor: Compressor
    memory: Memory
    layout: Layout
    step: tf.Tensor
    value_dtype: str
    largest_norm: float | None
    rounding_seed: int | None = None
    static: bool = False

    def begin(self, parts: Parts, kept: Kept) -> Local:
        """Looks for NaN, clips, corrects, compresses and rounds."""
        segments = self.layout.segments
        parts, nonfinite = _zero_unless_finite(parts)
        parts, clipped = _clip(parts, self.largest_norm)
        gradient = [tf.reshape(part, [-1]) for part in parts.large]
        corrected = self.memory.compensate(kept.memory, gradient, self.step, segments)
        check_vectors(f"{self._memory_name}.compensate", corrected, segments)
        shared = self.compressor.share(kept.compressor, gradient, self.step, segments)
        ask = functools.partial(self._ask, kept.compressor, corrected)
        return Local(
            gradient,
            corrected,
            Rider(pack(parts.small), shared, nonfinite, empty(nonfinite)),
            parts.other,
            clipped,
            ask(()),
            ask,
        )

    def settle(
        self, kept: Kept, local: Local, received: Received
    ) -> tuple[dict[str, Any], tf.Tensor]:
        """Returns the memory's state after what was said has left, and the table.

        Args:
            kept: As before the exchange.
            local: What `begin` returned.
            received: What the exchange did.
        """
        said, done = received.said, received.done
        segments = self.layout.segments
        self._check_value_dtype(said)
        own = done.own
        if own is None:
            messages = [asked.message for asked in said if isinstance(asked, Gather)]
            check_own(messages)
            size = [total_size(segments)]
            own = unpack(tf.ensure_shape(messages[-1].to_dense(), size), segments)
        memory = self.memory.update(
            kept.memory, local.corrected, own, self.step, segments
        )
        if not isinstance(memory, dict) or memory.keys() != kept.memory.keys():
            found = sorted(memory) if isinstance(memory, dict) else type(memory)
            raise ValueError(
                f"`{self._memory_name}.update` must return a state as `init` does, "
                f"with {sorted(kept.memory)}. Received: {found}"
            )
        table = metrics.step_table(
            metrics.entries_of(said, segments),
            local.gradient,
            local.corrected,
            own,
            memory.get("residual"),
        )
        return memory, with_whole(table, local, self.layout)

    def _ask(
        self,
        state: Any,
        corrected: Sequence[tf.Tensor],
        heard: tuple[Heard, ...],
    ) -> Asked:
        segments = self.layout.segments
        asked = self.compressor.compress(state, corrected, self.step, segments, heard)
        check_asked(asked, len(heard))
        if isinstance(asked, Done):
            check_vectors("total of tem_tf.Done", asked.total, segments)
            if asked.own is not None:
                check_vectors("own of tem_tf.Done", asked.own, segments)
        if isinstance(asked, Gather):
            message = asked.message
            if isinstance(message, Selection):
                message = message.to_masked() if self.static else message.to_sparse()
            elif isinstance(message, SparseGradient) and self.static:
                message = message.to_masked()
            library = None if self.static else native.library()
            seed = self._seed(len(heard))
            message = wire.rounded(message, self.value_dtype, library, seed)
            asked = asked._replace(message=message)
        return asked

    def _seed(self, heard: int) -> tf.Tensor | None:
        """See `chance_seed`."""
        if self.rounding_seed is not None and self.static:
            raise ValueError(
                "`rounding_seed` must be None where XLA compiles the step. Received: "
                f"rounding_seed={self.rounding_seed}"
            )
        return chance_seed(self.rounding_seed, self.step, heard)

    @property
    def _memory_name(self) -> str:
        return type(self.memory).__name__

    def _check_value_dtype(self, said: Sequence[Asked]) -> None:
        """Refuses a dtype of entries where none travel, but for a dense warm-up."""
        entries = any(
            isinstance(asked, Gather) and isinstance(asked.message, Entries)
            for asked in said
        )
        if self.value_dtype != "float32" and not (entries or self.compressor.lossless):
            raise ValueError(
                f'`value_dtype` must be "float32" with {self.compressor!r}, which '
                f"sends no entries. Received: value_dtype={self.value_dtype!r}"
            )


def chance_seed(seed: int | None, step: tf.Tensor, heard: int) -> tf.Tensor | None:
    """Of rounding by chance in a step, on this replica, in a round: int32 (2,).

    Args:
        seed: Of all of them; None: to nearest.
        step: int64 scalar.
        heard: How many rounds there were before.
    """
    if seed is None:
        return None
    context = tf.distribute.get_replica_context()
    replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
    numbers = tf.stack([tf.cast(step, tf.int32), heard])
    fold_in = tf.random.experimental.stateless_fold_in
    return fold_in(fold_in(tf.stack([seed, replica]), numbers[0]), numbers[1])


def with_whole(table: tf.Tensor, local: Local, layout: Layout) -> tf.Tensor:
    """The table of all variables, from that of the large ones."""
    whole = [*unpack(local.rider.block, layout.small), *local.other]
    return tf.concat([table, metrics.whole_table(whole)], axis=0)


def empty(nonfinite: tf.Tensor) -> tf.Tensor:
    """1 if a gradient is not finite and its batch was empty, else 0."""
    is_empty = batch_is_empty()
    if is_empty is None:
        return tf.zeros_like(nonfinite)
    return nonfinite * tf.cast(is_empty, tf.int32)


def _zero_unless_finite(parts: Parts) -> tuple[Parts, tf.Tensor]:
    """Zeros in the place of gradients that are not finite, and 1 if they were not.

    Comes before anything else: NaN would stay in the residual for ever.
    """
    checks = [
        tf.reduce_all(tf.math.is_finite(real))
        for gradient in tf.nest.flatten(parts)
        for real in reals(gradient)
        if real.dtype.is_floating
    ]
    finite = tf.reduce_all(tf.stack([True, *checks]))
    zeros = functools.partial(tf.nest.map_structure, tf.zeros_like, parts)
    return tf.cond(finite, lambda: parts, zeros), 1 - tf.cast(finite, tf.int32)


def clip_factor(vectors: Sequence[tf.Tensor], limit: float) -> tf.Tensor:
    """What vectors are multiplied by so that their norm is at most `limit`."""
    return limit / tf.maximum(fixed_norm(vectors), limit)


def _clip(parts: Parts, limit: float | None) -> tuple[Parts, tf.Tensor]:
    """Clips all parts together to a norm; also returns what it multiplied by."""
    if limit is None:
        return parts, tf.ones([])
    vectors = [
        tf.cast(tf.reshape(real, [-1]), tf.float32)
        for gradient in tf.nest.flatten(parts)
        for real in reals(gradient)
    ]
    factor = clip_factor(vectors, limit)
    return tf.nest.map_structure(lambda g: g * tf.cast(factor, g.dtype), parts), factor
