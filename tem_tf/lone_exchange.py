"""The rounds of one replica alone, in shapes that hang on no value, as XLA wants them.

With one replica nothing has to travel, so nothing is encoded: what is asked for is the
answer. Entries are a mask and a vector of zeros around them; how many words would have
travelled is computed from the mask. With two replicas and more something must travel,
and how much of it changes from step to step, which XLA cannot compile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf import _internals, wire
from tem_tf.compressors import Asked, Broadcast, Done, Gather, Heard, Sum
from tem_tf.cross_device_ops import Traffic
from tem_tf.layout import Segments, unpack
from tem_tf.sparse_gradient import MaskedGradient
from tem_tf.transport import Beside, Received, Rider

IN_WORDS = "XLA compiles the step, and with one replica nothing travels"


class LoneExchange(NamedTuple):
    """As `Exchange`, of one replica.

    Attributes:
        segments: Of the large variables.
        value_dtype: How entries would travel.
        demands: int64 (8,), which stay what they are.
    """

    segments: Segments
    value_dtype: str
    demands: tf.Tensor

    def rounds(
        self,
        asked: Asked,
        ask: Callable[[tuple[Heard, ...]], Asked],
        rider: Rider,
    ) -> Received:
        """As `Exchange.rounds`."""
        said, heard, words = (), (), tf.constant(0)
        beside = rider.numbers().shape[0]  # Words that ride with the first message.
        while not isinstance(asked, Done):
            total, entries, more = self._answer(asked, beside)
            words += more
            beside = 0
            said = (*said, asked)
            heard = (*heard, Heard(total, entries, 1, rider.shared, asked.carry))
            asked = ask(heard)
        nothing = Traffic.none(self.demands)
        return Received(said, asked, Beside(rider, words, nothing))

    def _answer(
        self, asked: Gather | Sum | Broadcast, beside: int
    ) -> tuple[Sequence[tf.Tensor], tf.Tensor, tf.Tensor | int]:
        """The total, its entries (int64), and the words that would have travelled."""
        if not isinstance(asked, Gather):
            count = sum(math.prod(value.shape) for value in asked.values)
            words = count + beside + _FLAG_WORDS
            return list(asked.values), tf.constant(count, tf.int64), words
        message = asked.message
        total = unpack(message.to_dense(), self.segments)
        entries = tf.cast(message.entries(), tf.int64)
        return total, entries, self._words(message, beside)

    def _words(self, message: Any, beside: int) -> tf.Tensor:
        if not isinstance(message, MaskedGradient):
            return wire.HEADER_WORDS + tf.size(message.encode()) + beside
        if message.known and self.value_dtype == "float32":
            return message.entries() + beside + _FLAG_WORDS
        return wire.words_of(message, beside, self.value_dtype)


_FLAG_WORDS = 2  # Of a sum, which has no header.


def in_xla_and_alone(replicas: int) -> bool:
    """Whether XLA compiles what is being traced.

    Args:
        replicas: Int. How many exchange, this one included.

    Raises:
        ValueError: it does, and there are others to exchange with.
    """
    in_xla = _internals.in_xla()
    if in_xla and replicas > 1:
        raise ValueError(
            "A sparsifier cannot be compiled by XLA where replicas exchange: the "
            "number of entries that a worker sends changes from step to step, and "
            "XLA's shapes do not. Pass `jit_compile=False` to `model.compile`. "
            f"Received: {replicas} replicas"
        )
    return in_xla
