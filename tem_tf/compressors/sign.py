"""Compressors that send the sign of every entry."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from tem_tf.compressors.contract import Compressor, Done, Gather, Message
from tem_tf.fixed_sums import fixed_sum
from tem_tf.layout import Segments, pack, total_size

# Eight bytes are one number of 64 bits, of which byte i is worth 256^i. With a bit in
# each, the product has them side by side in its highest byte, that of byte 0 first.
_PACK = sum(1 << (63 - 9 * i) for i in range(8)) - (1 << 64)
# A byte times this is in all eight places, of which place i keeps bit 7 - i.
_COPIES = sum(1 << 8 * i for i in range(8))
_PLACES = sum(1 << (7 + 7 * i) for i in range(8))


@dataclasses.dataclass(frozen=True)
class Signs(Message):
    """One bit for each entry, and a scale for each variable: ±scale.

        S words         scales, float32
        ⌈n/32⌉ words    bits, 1 for +; unused ones are 0

    Attributes:
        scales: (S,), of the gradient's dtype.
        positive: Bool (32 ⌈n/32⌉,), false from n on.
        segments: Of S variables.
    """

    scales: tf.Tensor
    positive: tf.Tensor
    segments: Segments

    kind = 1
    fixed_length = True

    def entries(self) -> int:
        return total_size(self.segments)

    def to_dense(self) -> tf.Tensor:
        scales = tf.unstack(self.scales, num=len(self.segments))
        sizes = [segment.size for segment in self.segments]
        parts = tf.split(self.positive, [*sizes, _padding(self.segments)])[:-1]
        return pack(
            [
                tf.where(part, scale, -scale)
                for part, scale in zip(parts, scales, strict=True)
            ]
        )

    def encode(self) -> tf.Tensor:
        eight = tf.reshape(tf.cast(self.positive, tf.uint8), [-1, 8])
        packed = tf.bitwise.right_shift(tf.bitcast(eight, tf.int64) * _PACK, 56)
        bits = tf.bitcast(tf.reshape(tf.cast(packed, tf.uint8), [-1, 4]), tf.int32)
        return tf.concat([tf.bitcast(self.scales, tf.int32), bits], axis=0)

    def decode(self, words: tf.Tensor) -> Signs:
        count = len(self.segments)
        packed = tf.cast(tf.bitcast(words[count:], tf.uint8), tf.int64)
        eight = tf.bitcast(tf.bitwise.bitwise_and(packed * _COPIES, _PLACES), tf.uint8)
        positive = tf.reshape(tf.cast(eight, tf.bool), [-1])
        scales = tf.bitcast(words[:count], tf.float32)
        return dataclasses.replace(self, scales=scales, positive=positive)


def _padding(segments: Segments) -> int:
    """Bits that fill the last word."""
    return -total_size(segments) % 32


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class Sign(Compressor):
    """Sends the sign of every entry, times the mean magnitude of its variable.

    One bit for each entry and 32 for each variable. With error feedback, which
    converges where signs alone need not. 0 is sent as a negative number.

    Example:

    >>> from tem_tf.layout import make_segments
    >>> segments = make_segments(["v"], [(3,)])
    >>> asked = Sign().compress((), [tf.constant([0.5, -2.0, 1.25])], 0, segments)
    >>> asked.message.to_dense().numpy()
    array([ 1.25, -1.25,  1.25], dtype=float32)

    References:
        Karimireddy, Rebjock, Stich, Jaggi, ICML 2019, arXiv 1901.09847, algorithm 1,
        by variable.
    """

    def compress(self, state, corrected, step, segments, heard=()):
        if heard:
            return Done(heard[0].total, state)
        scales = [
            fixed_sum(tf.abs(vector)) / max(segment.size, 1)
            for vector, segment in zip(corrected, segments, strict=True)
        ]
        padding = tf.zeros([_padding(segments)], tf.bool)
        positive = pack([*(vector > 0 for vector in corrected), padding])
        return Gather(Signs(tf.stack(scales), positive, segments))
