"""The table of compressors that every law is tried on. A new one is a new row."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf.layout import pack, total_size

COMPRESSORS = {
    "identity": tem_tf.Identity(),
    "all_entries": tem_tf.AllEntries(),
    "hard_threshold": tem_tf.HardThreshold(0.5),
    "hard_threshold_sends_none": tem_tf.HardThreshold(1e30),
    "hard_threshold_sends_all": tem_tf.HardThreshold(1e-30),
    "topk_layer": tem_tf.TopK(density=0.3),
    "topk_layer_k": tem_tf.TopK(k=2),
    "topk_block": tem_tf.TopK(per_block=2, block=5),
    "topk_model": tem_tf.TopK(density=0.3, scope="model"),
    "topk_model_all": tem_tf.TopK(density=1.0, scope="model"),
    "random_k": tem_tf.RandomK(0.3, seed=1),
    "hard_threshold_ramp": tem_tf.HardThreshold(tem_tf.Ramp(1.0, 0.25, steps=6)),
    "topk_warmup": tem_tf.TopK(tem_tf.Piecewise((1, 5), (1.0, 0.5, 0.2))),
    "topk_ramp_model": tem_tf.TopK(tem_tf.Ramp(0.5, 0.1, steps=4), scope="model"),
    "topk_schedule": tem_tf.TopKSchedule([12, 3, 0, 1, 2]),
    "random_k_ramp": tem_tf.RandomK(tem_tf.Ramp(0.5, 0.1, steps=4), seed=1),
    "accordion": tem_tf.Accordion(0.2, 0.5, interval_steps=2),
    "adaptive_threshold": tem_tf.AdaptiveThreshold(0.3, steps=4),
    "powersgd": tem_tf.PowerSGD(2),
    "cyclic_topk": tem_tf.CyclicTopK(0.3),
    "cyclic_topk_model": tem_tf.CyclicTopK(0.3, scope="model"),
    "sign": tem_tf.Sign(),
}


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class EveryOther(tem_tf.Sparsifier):
    """Sends even entries at one call and odd ones at the next: it has a state."""

    def init(self, segments):
        return {"turn": tf.constant(0, tf.int32)}

    def rule(self, state, corrected, step, segments):
        size = sum(segment.size for segment in segments)
        first = tf.minimum(state["turn"] % 2, size)
        return tem_tf.At(tf.range(first, size, 2))

    def observe(self, state, heard, step, segments):
        return {"turn": state["turn"] + 1}


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class OutsideTheMean(tem_tf.HardThreshold):
    """A hard threshold whose subclass has a rule of its own: that times the mean."""

    def rule(self, state, corrected, step, segments):
        vector = pack(corrected)
        mean = tf.reduce_sum(tf.abs(vector)) / max(vector.shape[0], 1)
        return tem_tf.AtLeast(tf.maximum(self.threshold * mean, 1e-30))

    def scaled(self, factor):
        return self  # In units of the mean, whatever those of the gradient.


CHUNK = 64


def _cosines() -> np.ndarray:
    """The orthonormal DCT-II of a chunk: (64, 64), a row for each frequency."""
    frequencies, places = np.indices((CHUNK, CHUNK))
    rows = np.cos(np.pi * frequencies * (2 * places + 1) / (2 * CHUNK))
    rows[0] /= np.sqrt(2)
    return np.float32(rows * np.sqrt(2 / CHUNK))


@dataclasses.dataclass(frozen=True)
class Waves(tem_tf.Message):
    """The k largest DCT coefficients of each chunk of 64 entries.

    Attributes:
        values: float32 (chunks, k).
        frequencies: int32 (chunks, k), in [0, 64).
        size: Int. n, the entries of all chunks but for padding.
    """

    values: tf.Tensor
    frequencies: tf.Tensor
    size: int

    fixed_length = True

    def entries(self):
        # Of a chunk that is mostly padding there may be more waves than entries.
        return min(self.size, math.prod(self.values.shape))

    def to_dense(self):
        hot = tf.one_hot(self.frequencies, CHUNK, dtype=self.values.dtype)
        waves = tf.reduce_sum(hot * self.values[..., tf.newaxis], axis=1)
        chunks = tf.matmul(waves, tf.cast(_cosines(), waves.dtype))
        return tf.reshape(chunks, [-1])[: self.size]

    def encode(self):
        values = tf.reshape(tf.bitcast(self.values, tf.int32), [-1])
        return tf.concat([values, tf.reshape(self.frequencies, [-1])], axis=0)

    def decode(self, words):
        shape, count = self.values.shape, math.prod(self.values.shape)
        values = tf.bitcast(words[:count], tf.float32)
        return Waves(
            tf.reshape(values, shape), tf.reshape(words[count:], shape), self.size
        )


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class LargestWaves(tem_tf.Compressor):
    """Top-k in another basis: a message with a code of its own."""

    k: int

    def compress(self, state, corrected, step, segments, heard=()):
        if heard:
            return tem_tf.Done(heard[0].total, state)
        size = total_size(segments)
        padded = tf.pad(pack(corrected), [[0, -size % CHUNK]])
        chunks = tf.reshape(padded, [-(-size // CHUNK), CHUNK])
        waves = tf.matmul(chunks, tf.cast(_cosines(), chunks.dtype), transpose_b=True)
        order = tf.math.top_k(tf.abs(waves), self.k).indices
        values = tf.gather(waves, order, batch_dims=1)
        return tem_tf.Gather(Waves(values, order, size))


# What no row of the table does: contracts that others' methods may use.
OF_OTHERS = {
    "every_other": EveryOther(),
    "outside_the_mean": OutsideTheMean(1.5),
    "largest_waves": LargestWaves(8),
}
ALL = {**COMPRESSORS, **OF_OTHERS}
SPARSIFIERS = {
    name: compressor
    for name, compressor in ALL.items()
    if isinstance(compressor, tem_tf.Sparsifier)
}


def rounding_of(compressor: tem_tf.Compressor) -> float:
    """What sums of small dyadic values may be off by: 0 where entries move unchanged.

    Others send products or means, which are rounded to 24 bits.
    """
    moving = (tem_tf.Sparsifier, tem_tf.Identity, tem_tf.CyclicTopK)
    return 0.0 if isinstance(compressor, moving) else 1e-5
