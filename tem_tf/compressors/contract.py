"""The contract of compressors: which entries of a corrected gradient a worker sends.

A compressor is frozen, serialisable, and touches no variable and no device: the same
object runs in the optimizer (`compress`), over a hundred simulated workers
(`approximate`, under `tf.vectorized_map`), and in a unit test. For every compressor

    compress(state, p, step, segments)[0].to_dense() == approximate(same)[0].
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import keras
import tensorflow as tf

from tem_tf.compressors.schedules import Schedule
from tem_tf.packing import Segments
from tem_tf.sparse_gradient import DenseGradient, SparseGradient

Message = SparseGradient | DenseGradient
State = Any  # A nest of tensors; most compressors have the empty one.


class Observed(NamedTuple):
    """What every replica knows once a step's messages were exchanged.

    Attributes:
        aggregate: float32 (n,). Sum over replicas of the decoded messages.
        entries: int64 scalar. Entries that all replicas sent together.
        replicas: Int. Number of replicas.
        shared: float32 (s,). Sum over replicas of what `share` returned.
    """

    aggregate: tf.Tensor
    entries: tf.Tensor
    replicas: int
    shared: tf.Tensor


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

    def share(self, gradient: tf.Tensor, segments: Segments) -> tf.Tensor:
        """Returns a few numbers, float32 (s,), of which all replicas get the sum.

        They travel with every message. Most compressors need none. The gradient, (n,),
        is this replica's, before memory.
        """
        del gradient, segments
        return tf.zeros([0])

    def observe(
        self, state: State, observed: Observed, step: tf.Tensor, segments: Segments
    ) -> State:
        """Returns the state after an exchange, from what all replicas know.

        What is decided here is the same on all of them. Called once after each
        `compress`, after that of a dense warm-up too.
        """
        del observed, step, segments
        return state

    @property
    def shares(self) -> bool:
        """Whether it has a `share` of its own; else nothing is shared."""
        return type(self).share is not Compressor.share

    @property
    def observes(self) -> bool:
        """Whether it has an `observe` of its own; else nobody calls it."""
        return type(self).observe is not Compressor.observe

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
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        return {
            name: keras.saving.serialize_keras_object(value)
            if isinstance(value, Schedule)
            else value
            for name, value in fields.items()
        }

    @classmethod
    def from_config(cls, config: dict) -> Compressor:
        return cls(
            **{
                name: keras.saving.deserialize_keras_object(value)
                if isinstance(value, dict)
                else value
                for name, value in config.items()
            }
        )


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
