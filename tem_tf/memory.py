"""What a worker remembers between steps so that nothing it held back is lost.

With gradient g, state m, compressor C and the mean (or sum) over workers A:

    p = compensate(m, g)        what should be sent
    s = decode(encode(C(p)))    what the others receive
    m = update(m, p, s)
    d = apply(m, A(s))          what the inner optimizer sees
"""

from __future__ import annotations

import dataclasses

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
