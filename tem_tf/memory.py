"""What a worker remembers between steps so that nothing it held back is lost.

With gradient g, state m, compressor C and the sum over workers A:

    p = compensate(m, g)        what should be sent
    s = decode(encode(C(p)))    what has left it
    m = update(m, p, s)
    d = apply(m, A(s))          what the inner optimizer sees

Sums of three terms of one shape are written with a subtraction, a + (b - (-c)·d): the
same bits, and the graph optimizer makes no AddN of it, whose order of addition, and so
the last bit, is another from run to run.
"""

from __future__ import annotations

import dataclasses
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf.layout import Segments, each

Vectors = Sequence[tf.Tensor]  # float32, one for each segment.
State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Memory:
    """The contract; by itself it remembers nothing.

    A state is a dict. A value is either `Vectors`, an entry for each entry of the
    gradient, or a scalar. The optimizer keeps vectors by variable, so that they
    survive a change of the set of trained variables. The methods are pure. `step` is
    an int64 scalar, the number of exchanges before this one, equal on all workers;
    `segments` has names, offsets and shapes of the variables.
    """

    def init(self, segments: Segments) -> State:
        """Returns the state before the first step.

        Called once without a variable, for scalars, which are about the gradient as a
        whole, and then for each variable by itself.
        """
        del segments
        return {}

    def compensate(
        self, state: State, gradient: Vectors, step: tf.Tensor, segments: Segments
    ) -> Vectors:
        """Returns the corrected gradient from this worker's gradient."""
        del state, step, segments
        return gradient

    def update(
        self,
        state: State,
        corrected: Vectors,
        own: Vectors,
        step: tf.Tensor,
        segments: Segments,
    ) -> State:
        """Returns the state after `own`, as others decode it, has left."""
        del corrected, own, step, segments
        return state

    def apply(
        self, state: State, total: Vectors, step: tf.Tensor, segments: Segments
    ) -> tuple[Vectors, State]:
        """Returns the direction from the sum over workers, and the state."""
        del step, segments
        return total, state

    def redistribute(self, states: Sequence[State], workers: int) -> list[State]:
        """Returns the states of another number of workers, from those of all.

        What they hold together stays what it is: every new worker has an equal share.

        Args:
            states: Of all workers, in their order.
            workers: Int >= 1. How many there are to be.
        """
        shares = {key: _share([s[key] for s in states], workers) for key in states[0]}
        return [dict(shares) for _ in range(workers)]

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> Memory:
        return cls(**config)


def zeros(segments: Segments) -> list[tf.Tensor]:
    """Vectors of zeros, float32, one for each segment."""
    return [tf.zeros([segment.size]) for segment in segments]


def _share(values: Sequence[Any], workers: int) -> Any:
    if isinstance(values[0], (list, tuple)):
        return [_share(vectors, workers) for vectors in zip(*values, strict=True)]
    return tf.reduce_sum(tf.stack(values), axis=0) / workers


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class ErrorFeedback(Memory):
    """Adds to each gradient what was held back before: p = g + m, m = p - s.

    The residual is computed from what the others *decode*, so the rounding of values on
    the wire stays in it as well.

    References:
        Sahu et al., NeurIPS 2021, arXiv 2108.00951, algorithm 1;
        Stich et al., NeurIPS 2018, arXiv 1809.07599.
    """

    def init(self, segments):
        return {"residual": zeros(segments)}

    def compensate(self, state, gradient, step, segments):
        return each(operator.add, gradient, state["residual"])

    def update(self, state, corrected, own, step, segments):
        return {"residual": each(operator.sub, corrected, own)}


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class DecayingErrorFeedback(Memory):
    """Error feedback that forgets: p = g + βm, m = p - s.

    What is held back fades with its age. The gradient is no longer conserved: of what
    waits for t steps, βᵗ is sent.

    Args:
        decay: Float in (0, 1]. β. 1 is `ErrorFeedback`. Lower => old residuals weigh
            less.

    Raises:
        ValueError: `decay` is out of range.

    References:
        Wu et al., ICML 2018, arXiv 1806.08054 (ECQ-SGD), has such a β.
    """

    decay: float

    def __post_init__(self):
        _check("decay", self.decay, "in (0, 1]", lambda x: 0 < x <= 1)

    def init(self, segments):
        return {"residual": zeros(segments)}

    def compensate(self, state, gradient, step, segments):
        return each(lambda g, m: g + self.decay * m, gradient, state["residual"])

    def update(self, state, corrected, own, step, segments):
        return {"residual": each(operator.sub, corrected, own)}


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class MomentumCorrection(Memory):
    """Deep gradient compression: each worker's own momentum, before compression.

        u ← μu + g;   p = m + u;   m ← p - s;   u ← 0 where an entry was sent

    The velocity u is accumulated in the residual m, so what waits carries the momentum
    that it would have had. The last step, factor masking, stops stale momentum. The
    momentum is in here: give the inner optimizer none.

    Args:
        momentum: Float in [0, 1), default 0.9. μ.
        masking: Bool, default True. Whether u is masked.

    Raises:
        ValueError: an argument is out of range.

    References:
        Lin et al., ICLR 2018, arXiv 1712.01887, section 3. Their ramp-up of the
        density is `TopK(density=Ramp(…))`.
    """

    momentum: float = 0.9
    masking: bool = True

    def __post_init__(self):
        _check("momentum", self.momentum, "in [0, 1)", lambda x: 0 <= x < 1)
        if not isinstance(self.masking, bool):
            raise ValueError(
                f"`masking` must be True or False. Received: masking={self.masking!r}"
            )

    def init(self, segments):
        return {"residual": zeros(segments), "velocity": zeros(segments)}

    def compensate(self, state, gradient, step, segments):
        # m + (g + μu), with one addition.
        return each(
            lambda m, u, g: m + (g - (-self.momentum) * u),
            state["residual"],
            state["velocity"],
            gradient,
        )

    def update(self, state, corrected, own, step, segments):
        # Up to one rounding what `compensate` added.
        velocity = each(operator.sub, corrected, state["residual"])
        if self.masking:
            velocity = each(lambda u, s: tf.where(s == 0, u, 0.0), velocity, own)
        return {"residual": each(operator.sub, corrected, own), "velocity": velocity}


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class EF21(Memory):
    """What is sent corrects an estimate h_i of the gradient: no residual piles up.

        p = g - h_i;   h_i ← h_i + s;   h ← h + Σ s;   d = h

    All estimates start at 0. A threshold is compared with differences of gradients.

    References:
        Richtárik, Sokolov, Fatkhullin, NeurIPS 2021, arXiv 2106.05203.
    """

    def init(self, segments):
        return {"own": zeros(segments), "sum": zeros(segments)}

    def compensate(self, state, gradient, step, segments):
        return each(operator.sub, gradient, state["own"])

    def update(self, state, corrected, own, step, segments):
        return {**state, "own": each(operator.add, state["own"], own)}

    def apply(self, state, total, step, segments):
        estimate = each(operator.add, state["sum"], total)
        return estimate, {**state, "sum": estimate}

    def redistribute(self, states, workers):
        shared = super().redistribute(states, workers)
        return [{**state, "sum": states[0]["sum"]} for state in shared]  # Equal on all.


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class EF21SGDM(EF21):
    """EF21 of a running mean of the gradients, so that their noise is not tracked.

        v ← (1-η)v + ηg;   p = v - h_i;   h_i ← h_i + s;   h ← h + Σ s;   d = h

    v and the estimates start at 0, so the first 1/η steps are shorter. (The authors
    start from the mean of many gradients.) The momentum is in here: give the inner
    optimizer none.

    Args:
        momentum: Float in (0, 1], default 0.1, a mean over about ten steps, our
            choice. η. 1 is `EF21`. Lower => a longer mean.

    Raises:
        ValueError: `momentum` is out of range.

    References:
        Fatkhullin, Tyurin, Richtárik, NeurIPS 2023, arXiv 2305.15155, algorithm
        1.
    """

    momentum: float = 0.1

    def __post_init__(self):
        _check("momentum", self.momentum, "in (0, 1]", lambda x: 0 < x <= 1)

    def init(self, segments):
        return {**super().init(segments), "mean": zeros(segments)}

    def compensate(self, state, gradient, step, segments):
        # (1-η)v + ηg - h_i, with no addition.
        return each(
            lambda v, g, h: (1 - self.momentum) * v - (-self.momentum) * g - h,
            state["mean"],
            gradient,
            state["own"],
        )

    def update(self, state, corrected, own, step, segments):
        # Up to one rounding that of `compensate`.
        mean = each(operator.add, corrected, state["own"])
        updated = super().update(state, corrected, own, step, segments)
        return {**updated, "mean": mean}


MEMORIES: dict[str, type[Memory]] = {
    "error_feedback": ErrorFeedback,
    "decaying_error_feedback": DecayingErrorFeedback,
    "dgc": MomentumCorrection,
    "ef21": EF21,
    "ef21_sgdm": EF21SGDM,
}


def get(memory: Memory | str | None, lossless: bool) -> Memory | None:
    """Resolves the `memory` argument of `SparsifiedOptimizer`.

    Args:
        memory: `"auto"` is `ErrorFeedback` for a lossy compressor and `None` for a
            lossless one; `None` is no memory; else a `Memory`.
        lossless: Whether the compressor keeps every entry.

    Raises:
        ValueError: `memory` is something else.
    """
    if memory == "auto":
        return None if lossless else ErrorFeedback()
    if memory is None or isinstance(memory, Memory):
        return memory
    raise ValueError(
        '`memory` must be "auto", None or a tem_tf memory such as '
        f"tem_tf.ErrorFeedback(). Received: memory={memory!r}"
    )


def _check(name: str, value: Any, rule: str, holds: Callable[[Any], bool]) -> None:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not holds(value):
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}")
