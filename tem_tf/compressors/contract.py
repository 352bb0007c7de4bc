"""The contract of compressors: what a replica says of its gradient, and hears.

A compressor is frozen, serialisable, and touches no variable and no device. It is asked
again and again until it is done, and is told all answers so far:

    compress(state, p, step, segments)             -> Sum(values)
    compress(state, p, step, segments, (heard,))   -> Gather(message)
    compress(state, p, step, segments, heard)      -> Done(total, state)

So the same object runs over the collectives of many processes (`transport`), over a
hundred simulated workers (`simulation`), and in a unit test, where the answers are
one's own. The law of all of them: what leaves the corrected gradients of the replicas,
summed over them, is the total that all of them have, Σ own = total.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from tem_tf.compressors.rules import Rule, Selection, check_rule
from tem_tf.compressors.schedules import Schedule
from tem_tf.layout import Segments

State = Any  # A nest of tensors; most compressors have the empty one.
Vectors = Sequence[tf.Tensor]  # Floating vectors, one for each segment.


class Message:
    """What one replica says in a `Gather`, for subclasses with a code of their own.

    Attributes:
        kind: Int in [1, 15], its number in the header of a payload. 15 is free for all.
        fixed_length: Whether it always takes equally many words, on all replicas, so
            that no length travels and nothing is padded.
    """

    kind: ClassVar[int] = 15
    fixed_length: ClassVar[bool] = False

    def entries(self) -> int | tf.Tensor:
        """How many numbers it stands for: an int or int32 scalar."""
        raise NotImplementedError(f"{type(self).__name__} must implement `entries`.")

    def to_dense(self) -> tf.Tensor:
        """Returns the vector (n,) that this message stands for, as others decode it."""
        raise NotImplementedError(f"{type(self).__name__} must implement `to_dense`.")

    def encode(self) -> tf.Tensor:
        """Returns the words that travel: int32 (words,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement `encode`.")

    def decode(self, words: tf.Tensor) -> Message:
        """Returns the message of another replica of which these are the words.

        All replicas run the same program, so that this one's own message tells what
        the words of the other cannot differ in: kind, sizes, shapes.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `decode`.")


class Gather(NamedTuple):
    """Asks for the sum of the messages of all replicas, as they decode.

    Attributes:
        message: `SparseGradient` or a subclass of `Message`; that of a `Sparsifier` is
            what its rule selects.
        carry: A nest of tensors that comes back with the answer, so that nothing is
            computed twice.
    """

    message: Any
    carry: Any = ()


class Sum(NamedTuple):
    """Asks for the sums of values over replicas.

    Attributes:
        values: float32 tensors of static shapes, which are equal on all replicas.
        carry: As in `Gather`.
    """

    values: Sequence[tf.Tensor]
    carry: Any = ()


class Broadcast(NamedTuple):
    """Asks for the values of one replica.

    Attributes:
        values: float32 or int32 tensors of static shapes, equal on all replicas.
        root: Int or integer scalar >= 0, equal on all replicas: whose values, modulo
            the number of replicas. `root=step` is a leader in turn.
        carry: As in `Gather`.
    """

    values: Sequence[tf.Tensor]
    root: int | tf.Tensor
    carry: Any = ()


class Heard(NamedTuple):
    """The answer, equal on all replicas but for `carry`.

    Attributes:
        total: To a `Gather`, float32 vectors, one for each segment; else tensors of the
            shapes of `values`.
        entries: int64 scalar. Numbers that all replicas sent together for it.
        replicas: Int. Number of replicas.
        shared: float32 (s,). Sum over replicas of what `share` returned.
        carry: This replica's, of what it asked.
    """

    total: Sequence[tf.Tensor]
    entries: tf.Tensor
    replicas: int
    shared: tf.Tensor
    carry: Any = ()


class Done(NamedTuple):
    """Asks for nothing more.

    Attributes:
        total: float32 vectors, one for each segment: what all replicas have.
        state: The compressor's new state.
        own: float32 vectors: what has left this replica's corrected gradient. None:
            what its last message decodes to.
    """

    total: Vectors
    state: State
    own: Vectors | None = None


Asked = Gather | Sum | Broadcast | Done
MOST_ROUNDS = 8  # Our choice; the number of rounds for which demands are kept.


@dataclasses.dataclass(frozen=True)
class Compressor:
    """The contract; `Sparsifier` is the easier one, for methods that send entries.

    Attributes:
        lossless: Whether everything is sent at every step.
    """

    lossless: ClassVar[bool] = False

    def init(self, segments: Segments) -> State:
        """Returns the state before the first step: a nest of tensors."""
        del segments
        return ()

    def compress(
        self,
        state: State,
        corrected: Vectors,
        step: tf.Tensor,
        segments: Segments,
        heard: tuple[Heard, ...] = (),
    ) -> Asked:
        """Says what this replica asks for next.

        How often and what in which order must not depend on the values of tensors.

        Args:
            state: What `init` or the last step's `Done` returned.
            corrected: float32 vectors, finite, one for each segment.
            step: int64 scalar. Number of exchanges before this one, equal on all
                replicas.
            segments: Names, offsets and shapes of the variables.
            heard: The answers of this step so far.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `compress`.")

    def share(
        self, state: State, gradient: Vectors, step: tf.Tensor, segments: Segments
    ) -> tf.Tensor:
        """Returns a few numbers, float32 (s,), of which all replicas get the sum.

        They travel with the first thing that is asked for. The gradient is this
        replica's, before memory.
        """
        del state, gradient, step, segments
        return tf.zeros([0])

    def observe(
        self, state: State, heard: Heard, step: tf.Tensor, segments: Segments
    ) -> State:
        """Returns the state after an exchange, from what all replicas know.

        What is decided here is the same on all of them. `heard.total` is the sum of
        what all sent. A `Sparsifier` calls it at each step; at those of a dense warm-up
        it is called for every compressor.
        """
        del heard, step, segments
        return state

    @property
    def shares(self) -> bool:
        """Whether it has a `share` of its own; else nothing is shared."""
        return type(self).share is not Compressor.share

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

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        for name, instead in _UNTIL_0_1.items():
            if name in vars(cls):
                raise TypeError(
                    f"`{name}` of a compressor is no more since tem_tf 0.2: {instead}. "
                    f"Received: {cls.__name__}.{name}"
                )


_UNTIL_0_1 = {
    "select": "derive from tem_tf.Sparsifier and implement `rule`",
    "approximate": "it follows from `compress`",
    "aggregation": "`compress` returns tem_tf.Gather or tem_tf.Sum",
}


@dataclasses.dataclass(frozen=True)
class Sparsifier(Compressor):
    """Sends the entries of the corrected gradient that a rule names.

    Implement `rule`; everything else follows from it, the native kernels included.

    Attributes:
        in_kernels: Whether the native kernels know the rule: all but `Largest` with
            `block`, of which say False.
    """

    in_kernels = True

    def rule(
        self, state: State, corrected: Vectors, step: tf.Tensor, segments: Segments
    ) -> Rule:
        """Returns `AtLeast`, `Largest` or `At`; arguments as of `compress`.

        Where the native kernels are in use the corrected gradient is made only if this
        looks at it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `rule`.")

    def compress(self, state, corrected, step, segments, heard=()):
        if heard:
            new_state = self.observe(state, heard[0], step, segments)
            return Done(heard[0].total, new_state)
        rule = self.rule(state, corrected, step, segments)
        check_rule(rule, type(self).__name__, segments)
        return Gather(Selection(corrected, rule))


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class Identity(Compressor):
    """Sends everything. Without memory the optimizer is exactly its inner one."""

    lossless = True

    def compress(self, state, corrected, step, segments, heard=()):
        if not heard:
            return Sum(corrected)
        return Done(heard[0].total, state, own=corrected)


@dataclasses.dataclass(frozen=True)
class Everything(Compressor):
    """Sends everything in the place of another compressor, which sees what all sent.

    Args:
        instead_of: `Compressor`.
    """

    instead_of: Compressor

    lossless = True

    def compress(self, state, corrected, step, segments, heard=()):
        if not heard:
            return Sum(corrected)
        state = self.instead_of.observe(state, heard[0], step, segments)
        return Done(heard[0].total, state, own=corrected)

    def share(self, state, gradient, step, segments):
        return self.instead_of.share(state, gradient, step, segments)

    def scaled(self, factor):
        return Everything(self.instead_of.scaled(factor))
