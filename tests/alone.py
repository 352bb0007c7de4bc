"""One worker's step with a compressor, hearing none but itself."""

from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf.compressors import (
    Broadcast,
    Done,
    Gather,
    Heard,
    Message,
    Selection,
    Sum,
)
from tem_tf.layout import pack, unpack
from tem_tf.sparse_gradient import SparseGradient


class Step(NamedTuple):
    """What a step of one worker yields.

    Attributes:
        message: The last that was gathered; None if none was.
        own: What has left the corrected gradient: vectors, one for each segment.
        total: What the compressor says that all have, likewise.
        state: The compressor's new one.
    """

    message: SparseGradient | Message | None
    own: list[tf.Tensor]
    total: list[tf.Tensor]
    state: Any

    @property
    def dense(self) -> tf.Tensor:
        """`own` end to end: (n,)."""
        return pack(self.own)


def step_alone(compressor, state, corrected, step, segments, gradient=None) -> Step:
    """Asks a compressor until it is done.

    Args:
        compressor: `tem_tf.Compressor`.
        state: Its own.
        corrected: Vectors, one for each segment.
        step: Int.
        segments: Theirs.
        gradient: As `corrected`, before memory. Default: the same.
    """
    step = tf.cast(step, tf.int64)
    shared = compressor.share(state, gradient or corrected, step, segments)
    heard, message, own = (), None, None
    while True:
        asked = compressor.compress(state, corrected, step, segments, heard)
        if isinstance(asked, Done):
            own = own if asked.own is None else asked.own
            return Step(message, list(own), list(asked.total), asked.state)
        if isinstance(asked, Gather):
            message = asked.message
            if isinstance(message, Selection):
                message = message.to_sparse()
            entries = message.entries()
            own = total = unpack(message.to_dense(), segments)
        else:
            assert isinstance(asked, Sum | Broadcast)
            total = list(asked.values)
            entries = sum(map(tf.size, total))
        entries = tf.cast(entries, tf.int64)
        heard = (*heard, Heard(total, entries, 1, shared, asked.carry))
