"""Compressors: which entries of a corrected gradient a worker sends.

A compressor is frozen, serialisable, and touches no variable and no device: the same
object runs in the optimizer (`compress`), over a hundred simulated workers
(`approximate`, under `tf.vectorized_map`), and in a unit test. For every compressor

    compress(state, p, step, segments)[0].to_dense() == approximate(same)[0].
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any, ClassVar, Literal

import keras
import tensorflow as tf

from tem_tf.packing import Segments
from tem_tf.sparse_gradient import DenseGradient, SparseGradient

Message = SparseGradient | DenseGradient
State = Any  # A nest of tensors; most compressors have the empty one.


@dataclasses.dataclass(frozen=True)
class Compressor:
    """The contract. A sparsifier implements `select`; the rest follows from it.

    Attributes:
        aggregation: "gather" where each worker chooses its own entries, or "reduce"
            where all workers send the same coordinates, so that values can be summed
            on the way and no indices travel; such a compressor implements `compress`
            itself, with coordinates that follow from the step alone.
        lossless: Whether every entry is sent at every step.
    """

    aggregation: ClassVar[Literal["gather", "reduce"]] = "gather"
    lossless: ClassVar[bool] = False

    def init(self, segments: Segments) -> State:
        """Returns the state before the first step: a nest of tensors."""
        del segments
        return ()

    def select(
        self, vector: tf.Tensor, segments: Segments, step: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, State]:
        """Chooses entries.

        Args:
            vector: float32 (n,), finite, n static.
            segments: Which stretch of it belongs to which variable.
            step: int64 scalar, 0 at the first step, equal on all workers.
            state: What `init` or the last `select` returned.

        Returns:
            A bool mask (n,), true where an entry is sent, and the new state.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `select`, or `compress` and "
            "`approximate`."
        )

    def compress(
        self, state: State, corrected: tf.Tensor, step: tf.Tensor, segments: Segments
    ) -> tuple[Message, State]:
        """Returns the message for a corrected gradient (n,), and the new state.

        A message is a `NamedTuple` with `values`, what is sent, and `to_dense()`. With
        aggregation "reduce" values of all workers are summed and decoded once; with
        "gather" it must be a `SparseGradient`.
        """
        mask, state = self._checked_select(corrected, segments, step, state)
        return SparseGradient.from_mask(corrected, mask), state

    def approximate(
        self, state: State, corrected: tf.Tensor, step: tf.Tensor, segments: Segments
    ) -> tuple[tf.Tensor, State]:
        """Returns the dense vector (n,) that the message decodes to, and the state."""
        mask, state = self._checked_select(corrected, segments, step, state)
        return corrected * tf.cast(mask, corrected.dtype), state

    def _checked_select(
        self, vector: tf.Tensor, segments: Segments, step: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, State]:
        selected = self.select(vector, segments, step, state)
        if not isinstance(selected, tuple) or len(selected) != 2:
            raise ValueError(
                f"`select` of {type(self).__name__} must return a mask and a state. "
                f"Received: {type(selected).__name__}"
            )
        mask, state = selected
        if mask.dtype != tf.bool or not mask.shape.is_compatible_with(vector.shape):
            raise ValueError(
                f"`select` of {type(self).__name__} must return a bool mask of the "
                f"vector's shape, {vector.shape}. Received: {mask.dtype.name} "
                f"{mask.shape}"
            )
        return mask, state

    def scaled(self, factor: float) -> Compressor:
        """Returns this compressor for gradients that are multiplied by `factor`.

        Only compressors with a magnitude in gradient units differ: Keras hands over
        gradients divided by the number of replicas, thresholds are in undivided units.
        """
        del factor
        return self

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> Compressor:
        return cls(**config)


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class Identity(Compressor):
    """Sends everything. Without memory the optimizer is exactly its inner one."""

    aggregation = "reduce"
    lossless = True

    def compress(self, state, corrected, step, segments):
        return DenseGradient(corrected), state

    def approximate(self, state, corrected, step, segments):
        return corrected, state


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class HardThreshold(Compressor):
    """Sends the entries with |p| >= λ, one λ for the whole model and training.

    Args:
        threshold: Float > 0. λ, in units of one worker's own mean-loss gradient,
            whatever the number of workers. Higher => fewer entries sent. Typical:
            1e-3 to 1e-1; start at the magnitude that the largest 1 % of a worker's
            gradient entries reach.

    Example:

    >>> p = tf.constant([0.5, -2.0, 1.0])
    >>> message, _ = HardThreshold(1.0).compress((), p, 0, ())
    >>> message.indices.numpy()
    array([1, 2], dtype=int32)

    References:
        Sahu et al., NeurIPS 2021, arXiv 2108.00951, section 4: among all sparsifiers
        with a budget for a whole training it has the least total error.
    """

    threshold: float

    def __post_init__(self):
        if not _is_number(self.threshold) or not 0 < self.threshold < math.inf:
            raise ValueError(
                "`threshold` must be a finite number > 0. "
                f"Received: threshold={self.threshold!r}. It is an absolute gradient "
                "magnitude, in units of one worker's own gradient."
            )
        object.__setattr__(self, "threshold", float(self.threshold))  # It is frozen.

    def select(self, vector, segments, step, state):
        threshold = tf.constant(self.threshold, vector.dtype)
        return tf.abs(vector) >= threshold, state

    def scaled(self, factor):
        return dataclasses.replace(self, threshold=self.threshold * factor)


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class TopK(Compressor):
    """Sends the k entries of greatest magnitude; of equals, those of lower index.

    Args:
        density: Float in (0, 1]. k = max(1, floor(density·n)) entries are sent. Higher
            => more entries sent. Give `density` or `k`.
        k: Int >= 1. Number of entries (all, where there are fewer).
        scope: "layer": `density` or `k` holds for each variable by itself. "model":
            for the whole gradient.

    References:
        Sahu et al., NeurIPS 2021, arXiv 2108.00951, section 6 compares with both.
    """

    density: float | None = None
    k: int | None = None
    scope: Literal["layer", "model"] = "layer"

    def __post_init__(self):
        if (self.density is None) == (self.k is None):
            raise ValueError(
                "Exactly one of `density` and `k` must be given. "
                f"Received: density={self.density!r}, k={self.k!r}"
            )
        if self.density is not None:
            _check_density(self.density)
        if self.k is not None and (
            not isinstance(self.k, numbers.Integral)
            or isinstance(self.k, bool)
            or self.k < 1
        ):
            raise ValueError(f"`k` must be an integer >= 1. Received: k={self.k!r}")
        if self.scope not in ("layer", "model"):
            raise ValueError(
                f'`scope` must be "layer" or "model". Received: scope={self.scope!r}'
            )

    def select(self, vector, segments, step, state):
        if self.scope == "model":
            return self._largest(vector), state
        parts = [self._largest(vector[s.slice]) for s in segments]
        return tf.concat(parts or [tf.zeros([0], tf.bool)], axis=0), state

    def _largest(self, vector: tf.Tensor) -> tf.Tensor:
        size = vector.shape[0]
        if size == 0:
            return tf.zeros([0], tf.bool)
        k = _kept(self.density, size) if self.density else min(self.k or 0, size)
        chosen = tf.math.top_k(tf.abs(vector), k).indices  # ties: the lower index first
        return _mask_of(chosen, size)


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class RandomK(Compressor):
    """Sends k random entries, the same on all workers, so that no indices travel.

    The draw depends on `seed` and the step alone. Values are not rescaled: with error
    feedback what is not drawn stays in the residual.

    Args:
        density: Float in (0, 1]. k = max(1, floor(density·n)) entries of the whole
            gradient are sent. Higher => more entries sent.
        seed: Int >= 0.

    References:
        Stich et al., NeurIPS 2018, arXiv 1809.07599, definition 2.2.
    """

    density: float
    seed: int = 0

    aggregation = "reduce"

    def __post_init__(self):
        _check_density(self.density)
        if (
            not isinstance(self.seed, numbers.Integral)
            or isinstance(self.seed, bool)
            or not 0 <= self.seed < 2**31
        ):
            raise ValueError(
                f"`seed` must be an integer in [0, 2**31). Received: seed={self.seed!r}"
            )

    def select(self, vector, segments, step, state):
        size = vector.shape[0]
        return _mask_of(self._draw(size, step), size), state

    def compress(self, state, corrected, step, segments):
        indices = self._draw(corrected.shape[0], step)
        values = tf.gather(corrected, indices)
        return SparseGradient(values, indices, corrected.shape[0]), state

    def _draw(self, size: int, step: tf.Tensor) -> tf.Tensor:
        """k distinct positions in [0, size): int32 (k,)."""
        if size == 0:
            return tf.zeros([0], tf.int32)
        # A pseudo-random permutation of [0, size), evaluated at 0..k-1.
        return tf.random.experimental.index_shuffle(
            tf.range(_kept(self.density, size)),
            seed=tf.stack([tf.constant(self.seed, tf.int64), tf.cast(step, tf.int64)]),
            max_index=size - 1,
        )


COMPRESSORS: dict[str, type[Compressor]] = {
    "none": Identity,
    "hard_threshold": HardThreshold,
    "topk": TopK,
    "random_k": RandomK,
}


def _kept(density: float, size: int) -> int:
    """k = max(1, floor(density·n + 1e-9)); the 1e-9 so that 0.29·100 keeps 29."""
    return max(1, math.floor(density * size + 1e-9)) if size else 0


def _mask_of(indices: tf.Tensor, size: int) -> tf.Tensor:
    ones = tf.ones_like(indices, tf.bool)
    return tf.tensor_scatter_nd_update(
        tf.zeros([size], tf.bool), indices[:, tf.newaxis], ones
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_density(density: Any) -> None:
    if not _is_number(density) or not 0 < density <= 1:
        raise ValueError(
            f"`density` must be in (0, 1]. Received: density={density!r}. "
            "Pass a fraction: 10 % is 0.1."
        )
