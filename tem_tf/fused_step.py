"""The local step of a sparsifier, in native kernels.

    p = c·g + βm;  S = rule(p);  m = p outside S, 0 in S      one pass, in place
    s = what is decoded of p_S;  m = p - s in S               where values are rounded
    sum over replicas, in their order, of s                   into the gradients' places

c clips the gradient, β is how memory decays; 1 where nothing else is asked for. What
momentum correction and EF21 keep is in `native.ops`. The same bits as `ComposedStep`,
in fewer passes over memory: gradients are taken as they come and laid end to end
nowhere. What is kept changes before the exchange: where a NaN on another worker ends
the training, it has moved on, but no weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tem_tf import native, wire
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
from tem_tf.local_step import Local, chance_seed, clip_factor, empty, with_whole
from tem_tf.memory import (
    EF21,
    DecayingErrorFeedback,
    ErrorFeedback,
    Memory,
    MomentumCorrection,
)
from tem_tf.native import ops
from tem_tf.options import Options
from tem_tf.replica_state import ReplicaState
from tem_tf.sparse_gradient import SparseGradient
from tem_tf.transport import Received, Rider

_LARGEST = 2**31 - 1  # Positions are 32-bit integers.
_METHODS = ("init", "compensate", "update", "apply")  # Of a memory.
_MEMORIES = (ErrorFeedback, DecayingErrorFeedback, MomentumCorrection, EF21)


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
        return f"they do not know the rule of {compressor!r}"
    if memory is None or not _is_known(memory):
        names = ", ".join(known.__name__ for known in _MEMORIES)
        name = "no memory" if memory is None else type(memory).__name__
        return f"of memories they know {names}, and this is {name}"
    if native.library() is None:
        return native.status().reason
    return None


def why_not_here(
    options: Options,
    layout: Layout,
    state: ReplicaState,
    strategy: tf.distribute.Strategy,
) -> str | None:
    """As `why_not`, of these very variables in this strategy."""
    # There both branches run (SparsifiedCrossDeviceOps.cond), and kernels change state.
    if options.warmup_steps and _replicas_of_a_process(strategy) > 1:
        return "replicas of one process have no branch for `warmup_steps`"
    if not 0 < total_size(layout.segments) <= _LARGEST:
        return "there are no entries to compress, or more than 2^31"
    if layout.other:
        return "some variables are of other dtypes"
    memory = options.kept
    assert memory is not None  # `why_not` has seen it.
    if not all(state.is_on_cpu(key, layout.segments) for key in _keys(memory)):
        return "the residuals are not in a CPU's memory"
    return None


def _replicas_of_a_process(strategy: tf.distribute.Strategy) -> int:
    if strategy.num_replicas_in_sync == 1:  # The default strategy has no devices.
        return 1
    return len(strategy.extended.worker_devices)


def _is_known(memory: Memory) -> bool:
    """Whether it is one of those that kernels know, and changes nothing of that."""
    return any(
        isinstance(memory, known) and not _changes(memory, known, _METHODS)
        for known in _MEMORIES
    )


def _keys(memory: Memory) -> list[str]:
    """Names in a replica's state of what kernels change, velocities last."""
    if isinstance(memory, EF21):
        return ["memory/own"]
    if isinstance(memory, MomentumCorrection):
        return ["memory/residual", "memory/velocity"]
    return ["memory/residual"]


def _changes(own: Any, base: type, names: Sequence[str]) -> bool:
    return any(getattr(type(own), name) is not getattr(base, name) for name in names)


@dataclasses.dataclass(frozen=True)
class FusedStep:
    """As `ComposedStep`.

    Attributes:
        compressor: In units of the gradients that come.
        memory: One of those that `why_not` knows.
        layout: Of the gradients.
        step: int64 scalar.
        value_dtype: How entries travel.
        largest_norm: Bound of the gradient's global norm, or None.
        rounding_seed: Of rounding by chance, or None.
        state: Where the residuals are.
        zero_nonfinite: Whether gradients that are not finite count as zero; else the
            residuals stay as they are.
    """

    compressor: Compressor
    memory: Memory
    layout: Layout
    step: tf.Tensor
    value_dtype: str
    largest_norm: float | None
    rounding_seed: int | None
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
        corrected = _Lazily(
            lambda: self.memory.compensate(
                kept.memory, self._gradient(parts), self.step, segments
            ),
            len(segments),
        )

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
        message, table = self._settled(library, message, found)
        block = tf.ensure_shape(found.block, [total_size(self.layout.small)])
        return Local(
            gradient,
            corrected,
            Rider(block, shared, found.nonfinite, empty(found.nonfinite)),
            [],
            found.clip,
            asked._replace(message=message),
            ask,
            table,
        )

    def settle(
        self, kept: Kept, local: Local, received: Received
    ) -> tuple[dict[str, Any], tf.Tensor]:
        """Returns what of the state was not updated in place, and the table."""
        del received
        assert local.table is not None
        changed = [key.removeprefix("memory/") for key in _keys(self.memory)]
        rest = {key: v for key, v in kept.memory.items() if key not in changed}
        return rest, with_whole(local.table, local, self.layout)

    def _select(self, library: Any, rule: Rule, parts: Parts) -> ops.Selected:
        common: dict[str, Any] = {
            "library": library,
            "gradients": parts.large,
            "small": parts.small,
            "kept": self._kept,
            "zero_nonfinite": self.zero_nonfinite,
        }
        if self.largest_norm is not None:
            common["largest_norm"] = self.largest_norm
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
        if self.largest_norm is not None:
            small = [tf.reshape(gradient, [-1]) for gradient in parts.small]
            clip = clip_factor([*large, *small], self.largest_norm)
            large = [gradient * clip for gradient in large]
        return tf.cond(finite, lambda: large, lambda: each(tf.zeros_like, large))

    def _settled(
        self, library: Any, message: SparseGradient, found: ops.Selected
    ) -> tuple[SparseGradient, tf.Tensor]:
        """The message as others decode it, and the table; all that is kept is new."""
        memory, values = self.memory, message.values
        masks_velocity = isinstance(memory, MomentumCorrection) and memory.masking
        seed = chance_seed(self.rounding_seed, self.step, 0)
        if self.value_dtype != "float32":
            message = wire.rounded(message, self.value_dtype, library, seed)
        elif not (masks_velocity or isinstance(memory, EF21)):
            return message, found.stats  # Nothing is left of what was selected.
        kept = self._kept
        if not masks_velocity:
            kept = kept._replace(velocity=())
        # Where nothing was changed `At` has values, too: zeros, which nobody selected.
        nothing = tf.constant(False) if self.zero_nonfinite else found.nonfinite > 0
        count = tf.where(nothing, 0, tf.size(values))
        squared, largest = ops.settle(
            *(library, kept, values[:count], message.values[:count]),
            message.indices[:count],
        )
        entries, error, left, most, gradient, corrected = tf.unstack(
            found.stats, axis=1
        )
        error += squared
        if not isinstance(memory, EF21):  # It has no residual.
            left, most = left + squared, tf.maximum(most, largest)
        columns = [entries, error, left, most, gradient, corrected]
        return message, tf.stack(columns, axis=1)

    @property
    def _kept(self) -> ops.Kept:
        segments = self.layout.segments
        variables, *rest = (
            self.state.handles(key, segments) for key in _keys(self.memory)
        )
        match self.memory:
            case EF21():
                return ops.Kept(variables, memory="estimate")
            case MomentumCorrection(momentum=momentum):
                return ops.Kept(variables, rest[0], "momentum", momentum)
            case DecayingErrorFeedback(decay=decay):
                return ops.Kept(variables, factor=decay)
            case _:
                return ops.Kept(variables)


class _Lazily(Sequence):
    """A list that is made each time that it is looked at.

    Not once: in a branch of `tf.cond` its tensors are that branch's.
    """

    def __init__(self, make: Callable[[], Sequence[tf.Tensor]], length: int):
        self._make, self._length = make, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._make()[index]

    def __iter__(self) -> Iterator[tf.Tensor]:
        return iter(self._make())
