"""A compressor whose replicas send the entries that one of them has chosen."""

from __future__ import annotations

import dataclasses
from typing import Literal

import keras
import tensorflow as tf

from tem_tf.compressors.contract import Broadcast, Compressor, Done, Sum, Vectors
from tem_tf.compressors.schedules import Schedule, check_density
from tem_tf.compressors.topk import kept
from tem_tf.layout import Segments, pack, unpack


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class CyclicTopK(Compressor):
    """Sends the entries that are the largest on one replica, another at each step.

    1. The leader of step t, replica t mod N, says where its k entries of greatest
       magnitude are.
    2. All replicas sum what they have there.

    So what a replica receives does not grow with their number, as it does where each
    sends entries of its own. That the leader's largest are large on all is what error
    feedback brings about: residuals of replicas grow alike. Indices and values, of 32
    bits, are an all-reduce each; a third has what rides beside.

    Args:
        density: Float in (0, 1]. k = max(1, floor(density·n)) entries are sent; zeros
            among them where there are fewer others. Higher => more entries sent.
        scope: "layer": of each variable by itself. "model": of the whole gradient.

    Raises:
        ValueError: an argument is out of range.

    References:
        Chen et al., ScaleCom, NeurIPS 2020, arXiv 2104.11125: CLT-k, algorithm 1.
    """

    density: float
    scope: Literal["layer", "model"] = "layer"

    def __post_init__(self):
        if isinstance(self.density, Schedule):
            raise ValueError(
                "`density` must be a number: sums over replicas have one size. "
                f"Received: density={self.density!r}"
            )
        check_density(self.density)
        if self.scope not in ("layer", "model"):
            raise ValueError(
                f'`scope` must be "layer" or "model". Received: scope={self.scope!r}'
            )

    def compress(self, state, corrected, step, segments, heard=()):
        vectors = [pack(corrected)] if self.scope == "model" else list(corrected)
        if not heard:
            return Broadcast([self._largest(vector) for vector in vectors], root=step)
        places = heard[0].total
        if len(heard) == 1:
            values = [
                tf.gather(vector, at)
                for vector, at in zip(vectors, places, strict=True)
            ]
            return Sum(values, carry=values)
        sizes = [vector.shape[0] for vector in vectors]
        total, own = (
            self._spread(values, places, sizes, segments)
            for values in (heard[1].total, heard[1].carry)
        )
        return Done(total, state, own=own)

    def _largest(self, vector: tf.Tensor) -> tf.Tensor:
        """Positions of the k entries: int32 (k,)."""
        count = int(kept(self.density, vector.shape[0]))
        return tf.math.top_k(tf.abs(vector), count).indices

    def _spread(
        self, values: Vectors, places: Vectors, sizes: list[int], segments: Segments
    ) -> list[tf.Tensor]:
        """Vectors with values at these places, one for each segment."""
        vectors = [
            tf.tensor_scatter_nd_update(
                tf.zeros([size], value.dtype), at[:, tf.newaxis], value
            )
            for value, at, size in zip(values, places, sizes, strict=True)
        ]
        return unpack(vectors[0], segments) if self.scope == "model" else vectors
