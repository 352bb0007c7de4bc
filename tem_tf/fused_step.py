"""The local step of a sparsifier with error feedback, in native kernels.

    p = g + m;  S = rule(p);  m = p outside S, 0 in S         one pass, in place
    sum over replicas, in their order, of p_S                 into the gradients' places

The same bits as `ComposedStep`, in fewer passes over memory: gradients are taken as
they come and laid end to end nowhere. Residuals change before the exchange: where a NaN
on another worker ends the training, this worker's have moved on, but no weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tem_tf import native
from tem_tf.compressors import (
    Asked,
    At,
    AtLeast,
    Compressor,
    Gather,
    Heard,
    Largest,
    Rule,
    Sparsifier,
)
from tem_tf.kept_state import Kept
from tem_tf.layout import Layout, Parts, each, total_size
from tem_tf.local_step import Local, empty, with_whole
from tem_tf.memory import ErrorFeedback
from tem_tf.native import ops
from tem_tf.options import Options
from tem_tf.replica_state import ReplicaState
from tem_tf.sparse_gradient import SparseGradient
from tem_tf.transport import Received, Rider

_LARGEST = 2**31 - 1  # Positions are 32-bit integers.
RESIDUAL = "memory/residual"


def why_not(options: Options) -> str | None:
    """Why the kernels cannot do what is asked for, in words; None if they can.

    A subclass that changes nothing of what the kernels do is as good as its parent.
    """
    compressor, memory = options.compressor, options.kept
    if not isinstance(compressor, Sparsifier) or _changes(
        compressor, Sparsifier, ("compress",)
    ):
        return f"{type(compressor).__name__} is no sparsifier by a rule"
    if not compressor.in_kernels:
        return f"they do not know the rule of {type(compressor).__name__} with blocks"
    if not isinstance(memory, ErrorFeedback) or _changes(
        memory, ErrorFeedback, ("init", "compensate", "update", "apply")
    ):
        name = "no memory" if memory is None else type(memory).__name__
        return f"of memories they know ErrorFeedback, and this is {name}"
    if options.value_dtype != "float32":
        return f'`value_dtype` is "{options.value_dtype}"'
    if options.local_clipnorm is not None:
        return "`local_clipnorm` is given"
    if options.warmup_steps:
        return "`warmup_steps` is given"
    if native.library() is None:
        return native.status().reason
    return None


def why_not_here(layout: Layout, state: ReplicaState) -> str | None:
    """As `why_not`, of these very variables."""
    if not 0 < total_size(layout.segments) <= _LARGEST:
        return "there are no entries to compress, or more than 2^31"
    if layout.other:
        return "some variables are of other dtypes"
    if not state.is_on_cpu(RESIDUAL, layout.segments):
        return "the residuals are not in a CPU's memory"
    return None


def _changes(own: Any, base: type, names: Sequence[str]) -> bool:
    return any(getattr(type(own), name) is not getattr(base, name) for name in names)


@dataclasses.dataclass(frozen=True)
class FusedStep:
    """As `ComposedStep`.

    Attributes:
        compressor: In units of the gradients that come.
        layout: Of the gradients.
        step: int64 scalar.
        state: Where the residuals are.
        zero_nonfinite: Whether gradients that are not finite count as zero; else the
            residuals stay as they are.
    """

    compressor: Compressor
    layout: Layout
    step: tf.Tensor
    state: ReplicaState
    zero_nonfinite: bool

    def begin(self, parts: Parts, kept: Kept) -> Local:
        """Corrects, selects and updates the residuals."""
        library = native.library()
        if library is None:
            raise RuntimeError(
                "The native library is gone; `why_not` said it was there."
            )
        segments = self.layout.segments
        gradient = _Lazily(lambda: self._gradient(parts), len(segments))
        corrected = _Lazily(lambda: self._corrected(parts), len(segments))

        def ask(heard: tuple[Heard, ...]) -> Asked:
            return self.compressor.compress(
                kept.compressor, corrected, self.step, segments, heard
            )

        asked = ask(())
        # `why_not` has seen that a Sparsifier's own `compress` answers.
        assert isinstance(asked, Gather)
        shared = self.compressor.share(kept.compressor, gradient, self.step, segments)
        rule, known = asked.message.rule, asked.message.known
        found = self._select(library, rule, parts)
        values = found.values
        if isinstance(rule, At):
            # A static length as `ComposedStep` has it: the sum's key depends on it, and
            # other workers may be without kernels.
            values = tf.ensure_shape(values, rule.meant().shape)
        message = SparseGradient(values, found.indices, total_size(segments), known)
        block = tf.ensure_shape(found.block, [total_size(self.layout.small)])
        return Local(
            gradient,
            corrected,
            Rider(block, shared, found.nonfinite, empty(found.nonfinite)),
            [],
            tf.ones([]),
            asked._replace(message=message),
            ask,
            found.stats,
        )

    def settle(
        self, kept: Kept, local: Local, received: Received
    ) -> tuple[dict[str, Any], tf.Tensor]:
        """Returns an empty state, since it was updated in place, and the table."""
        del kept, received
        assert local.table is not None
        return {}, with_whole(local.table, local, self.layout)

    def _select(self, library: Any, rule: Rule, parts: Parts) -> ops.Selected:
        common: dict[str, Any] = {
            "library": library,
            "gradients": parts.large,
            "small": parts.small,
            "residuals": self.state.handles(RESIDUAL, self.layout.segments),
            "zero_nonfinite": self.zero_nonfinite,
        }
        if isinstance(rule, AtLeast):
            threshold = tf.cast(rule.threshold, tf.float32)
            return ops.select_threshold(threshold=threshold, **common)
        if isinstance(rule, Largest) and rule.block is not None:
            raise ValueError(
                "`in_kernels` must be False for a sparsifier whose rule has blocks. "
                f"Received: {type(self.compressor).__name__}"
            )
        if isinstance(rule, Largest):
            return ops.select_topk(counts=rule.counts, **common)
        return ops.select_given(given=rule.meant(), **common)

    def _gradient(self, parts: Parts) -> list[tf.Tensor]:
        """The gradients as `ComposedStep` has them: zeros if one is not finite."""
        checks = [
            tf.reduce_all(tf.math.is_finite(g)) for g in parts.large + parts.small
        ]
        finite = tf.reduce_all(tf.stack(checks))
        large = [tf.reshape(gradient, [-1]) for gradient in parts.large]
        return tf.cond(finite, lambda: large, lambda: each(tf.zeros_like, large))

    def _corrected(self, parts: Parts) -> list[tf.Tensor]:
        residuals = self.state.read_each(RESIDUAL, self.layout.segments)
        return each(tf.add, self._gradient(parts), residuals)


class _Lazily(Sequence):
    """A list that is made each time that it is looked at.

    Not once: in a branch of `tf.cond` its tensors are that branch's.
    """

    def __init__(self, make: Callable[[], list[tf.Tensor]], length: int):
        self._make, self._length = make, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._make()[index]

    def __iter__(self) -> Iterator[tf.Tensor]:
        return iter(self._make())
