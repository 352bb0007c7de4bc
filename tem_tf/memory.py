"""What a worker remembers between steps so that nothing it held back is lost.

With gradient g, state m, compressor C and the mean (or sum) over workers A:

    p = compensate(m, g)        what should be sent
    s = decode(encode(C(p)))    what the others receive
    m = update(m, p, s)
    d = apply(m, A(s))          what the inner optimizer sees
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tem_tf.packing import Segments, total_size

State = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Memory:
    """The contract; by itself it remembers nothing.

    A state is a dict of float32 vectors of shape (n,), one entry for one entry of the
    packed gradient. The optimizer keeps each vector cut by variable, so that it
    survives a change of the set of trained variables. The methods are pure.
    """

    def init(self, segments: Segments) -> State:
        """Returns the state before the first step."""
        del segments
        return {}

    def compensate(self, state: State, gradient: tf.Tensor) -> tf.Tensor:
        """Returns the corrected gradient (n,) from this worker's gradient (n,)."""
        del state
        return gradient

    def update(self, state: State, corrected: tf.Tensor, sent: tf.Tensor) -> State:
        """Returns the state after `sent` (n,), as decoded by others, has left."""
        del corrected, sent
        return state

    def apply(self, state: State, aggregate: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Returns the direction (n,) from the sum over workers (n,), and the state."""
        return aggregate, state

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> Memory:
        return cls(**config)


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

    def init(self, segments: Segments) -> State:
        return {"residual": tf.zeros([total_size(segments)])}

    def compensate(self, state: State, gradient: tf.Tensor) -> tf.Tensor:
        return gradient + state["residual"]

    def update(self, state: State, corrected: tf.Tensor, sent: tf.Tensor) -> State:
        return {"residual": corrected - sent}


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

    def init(self, segments: Segments) -> State:
        return {"residual": tf.zeros([total_size(segments)])}

    def compensate(self, state: State, gradient: tf.Tensor) -> tf.Tensor:
        return gradient + self.decay * state["residual"]

    def update(self, state: State, corrected: tf.Tensor, sent: tf.Tensor) -> State:
        return {"residual": corrected - sent}


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

    def init(self, segments: Segments) -> State:
        size = total_size(segments)
        return {"residual": tf.zeros([size]), "velocity": tf.zeros([size])}

    def compensate(self, state: State, gradient: tf.Tensor) -> tf.Tensor:
        return state["residual"] + (self.momentum * state["velocity"] + gradient)

    def update(self, state: State, corrected: tf.Tensor, sent: tf.Tensor) -> State:
        # Up to one rounding what `compensate` added.
        velocity = corrected - state["residual"]
        if self.masking:
            velocity *= tf.cast(tf.equal(sent, 0), velocity.dtype)
        return {"residual": corrected - sent, "velocity": velocity}


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class EF21(Memory):
    """What is sent corrects an estimate h_i of the gradient: no residual piles up.

        p = g - h_i;   h_i ← h_i + s;   h ← h + Σ s;   d = h

    All estimates start at 0. A threshold is compared with differences of gradients.

    References:
        Richtárik, Sokolov, Fatkhullin, NeurIPS 2021, arXiv 2106.05203.
    """

    def init(self, segments: Segments) -> State:
        size = total_size(segments)
        return {"own": tf.zeros([size]), "sum": tf.zeros([size])}

    def compensate(self, state: State, gradient: tf.Tensor) -> tf.Tensor:
        return gradient - state["own"]

    def update(self, state: State, corrected: tf.Tensor, sent: tf.Tensor) -> State:
        return {**state, "own": state["own"] + sent}

    def apply(self, state: State, aggregate: tf.Tensor) -> tuple[tf.Tensor, State]:
        total = state["sum"] + aggregate
        return total, {**state, "sum": total}


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

    def init(self, segments: Segments) -> State:
        return {**super().init(segments), "mean": tf.zeros([total_size(segments)])}

    def compensate(self, state: State, gradient: tf.Tensor) -> tf.Tensor:
        mean = (1 - self.momentum) * state["mean"] + self.momentum * gradient
        return mean - state["own"]

    def update(self, state: State, corrected: tf.Tensor, sent: tf.Tensor) -> State:
        mean = corrected + state["own"]  # Up to one rounding that of `compensate`.
        return {**super().update(state, corrected, sent), "mean": mean}


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
