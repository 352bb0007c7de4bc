"""Asking and hearing: the rounds of an exchange, until a compressor is done.

Messages are gathered: every replica gets all payloads, decodes them and adds them up in
the order of replicas, so that all have the same bits. Values at places that all know
are summed on the way. Whatever else is to be known by all, small variables, flags and
shared numbers, rides with the first thing that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf import native, wire
from tem_tf.compressors import Asked, Broadcast, Done, Gather, Heard, Sum
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps, Traffic
from tem_tf.instance_keys import Use
from tem_tf.layout import Segments, pack, total_size, unpack
from tem_tf.native import ops
from tem_tf.sparse_gradient import SparseGradient


class Rider(NamedTuple):
    """What rides with the first message; of it, its sum over replicas is heard.

    Attributes:
        block: float32 (m,). Variables that go whole.
        shared: float32 (s,). What the compressor shares.
        nonfinite: int32 scalar. 1 if this replica's gradient was not finite, else 0;
            heard, their number.
        empty: int32 scalar. Likewise of those of them whose batch was empty.
    """

    block: tf.Tensor
    shared: tf.Tensor
    nonfinite: tf.Tensor
    empty: tf.Tensor

    @classmethod
    def nobody(cls) -> Rider:
        return cls(tf.zeros([0]), tf.zeros([0]), tf.constant(0), tf.constant(0))

    def numbers(self) -> tf.Tensor:
        """Block and shared numbers, as they travel: float32 (m + s,)."""
        return tf.concat([self.block, self.shared], axis=0)

    def heard(
        self, numbers: tf.Tensor, nonfinite: tf.Tensor, empty: tf.Tensor
    ) -> Rider:
        """The sum over replicas, from that of their numbers and flags."""
        sizes = [self.block.shape[0], self.shared.shape[0]]
        block, shared = tf.split(numbers, sizes)
        return Rider(block, shared, nonfinite, empty)


class Answer(NamedTuple):
    """What one round yields, equal on all replicas but for `words`.

    Attributes:
        total: As in `Heard`.
        entries: As in `Heard`.
        rider: The sum over replicas.
        words: int32 scalar. 32-bit words that this replica contributed.
        traffic: What the exchange added to that, and learnt.
    """

    total: Sequence[tf.Tensor]
    entries: tf.Tensor
    rider: Rider
    words: tf.Tensor
    traffic: Traffic


class Beside(NamedTuple):
    """What an exchange yields beside what was asked for.

    Attributes:
        rider: The sum over replicas of what rode with the first message.
        words: int32 scalar. 32-bit words that this replica contributed.
        traffic: Paddings and overflows of all rounds; the demands of each, (8,).
    """

    rider: Rider
    words: tf.Tensor
    traffic: Traffic


class Received(NamedTuple):
    """What all rounds of a step yield.

    Attributes:
        said: What this replica asked for.
        done: What the compressor said at last.
        beside: What else is known now.
    """

    said: tuple[Asked, ...]
    done: Done
    beside: Beside


class Exchange(NamedTuple):
    """How the rounds of a step travel.

    Attributes:
        ops: Whose collectives are used.
        use: Whose instance keys are taken.
        segments: Of the large variables.
        value_dtype: How entries travel.
        demands: int64 (8,). See `SparsifiedCrossDeviceOps.gather_payloads`, by round.
        like: Tensors of the variables' shapes, whose memory the total may take.
    """

    ops: SparsifiedCrossDeviceOps
    use: Use
    segments: Segments
    value_dtype: str
    demands: tf.Tensor
    like: list[tf.Tensor]

    def rounds(
        self,
        asked: Asked,
        ask: Callable[[tuple[Heard, ...]], Asked],
        rider: Rider,
    ) -> Received:
        """Exchanges until the compressor is done; on all replicas, in replica context.

        Args:
            asked: What this replica asks for first.
            ask: From the answers so far to what it asks next.
            rider: What rides with the first.
        """
        said, heard, answers = (), (), []
        while not isinstance(asked, Done):
            # After the round before, on every replica.
            before = [answers[-1].words, *answers[-1].total] if answers else []
            with tf.control_dependencies(before):
                answers.append(self._answer(asked, rider, len(said)))
            said = (*said, asked)
            heard = (
                *heard,
                Heard(
                    answers[-1].total,
                    answers[-1].entries,
                    self.ops.replicas(),
                    answers[0].rider.shared,
                    asked.carry,
                ),
            )
            rider = Rider.nobody()
            asked = ask(heard)
        demands = [answer.traffic.demand for answer in answers]
        rest = self.demands[len(demands) :]
        traffic = Traffic(
            _sum([answer.traffic.padding for answer in answers]),
            _sum([answer.traffic.overflows for answer in answers]),
            tf.concat([tf.stack(demands), rest], axis=0),
        )
        words = _sum([answer.words for answer in answers])
        return Received(said, asked, Beside(answers[0].rider, words, traffic))

    def _answer(
        self, asked: Gather | Sum | Broadcast, rider: Rider, number: int
    ) -> Answer:
        use, demand = self.use.of(number), self.demands[number]
        if isinstance(asked, Sum):
            return self._sum(asked.values, rider, use, demand)
        if isinstance(asked, Broadcast):
            return self._broadcast(asked, rider, use, demand)
        message = asked.message
        if not isinstance(message, SparseGradient):
            return self._gather_others(message, rider, use, demand)
        if message.known and self.value_dtype == "float32":
            return self._sum_at(message, rider, use, demand)
        return self._gather(message, rider, use, demand)

    def _gather(
        self, message: SparseGradient, rider: Rider, use: Use, demand: tf.Tensor
    ) -> Answer:
        """Every replica sends its own entries: encode, all-gather, decode and sum."""
        library = native.library()
        payload = wire.encode(
            message,
            rider.numbers(),
            _flags(rider),
            self.value_dtype,
            message.known,
            library,
        )
        gathered = self.ops.gather_payloads(payload, use, demand)
        summed = wire.sum_payloads(
            gathered.rows,
            [segment.size for segment in self.segments],
            rider.numbers().shape[0],
            self.value_dtype,
            message.indices if message.known else None,
            self.like,
            library,
        )
        rider = rider.heard(summed.block, summed.nonfinite, summed.empty)
        words = tf.size(payload)
        total = _flat(summed.totals)
        return Answer(total, summed.entries, rider, words, gathered.traffic)

    def _gather_others(
        self, message: Any, rider: Rider, use: Use, demand: tf.Tensor
    ) -> Answer:
        """As `_gather`, of messages with a code of their own."""
        size, numbers = total_size(self.segments), rider.numbers()
        payload = wire.frame(
            message.kind,
            size,
            message.entries(),
            message.encode(),
            numbers,
            _flags(rider),
        )
        gathered = self.ops.gather_payloads(payload, use, demand, message.fixed_length)

        def add(row: tf.Tensor, vector, block, nonfinite, empty, entries):
            frame = wire.open_frame(
                gathered.rows[row], message.kind, size, numbers.shape[0]
            )
            decoded = message.decode(frame.body).to_dense()
            return (
                row + 1,
                vector + tf.ensure_shape(decoded, [size]),
                block + frame.block,
                nonfinite + tf.cast(frame.flags & wire.NONFINITE > 0, tf.int32),
                empty + tf.cast(frame.flags & wire.EMPTY > 0, tf.int32),
                entries + tf.cast(frame.count, tf.int64),
            )

        # A loop, so that the order is that of the rows.
        _, vector, block, nonfinite, empty, entries = tf.while_loop(
            lambda row, *_: row < tf.shape(gathered.rows)[0],
            add,
            (
                tf.constant(0),
                tf.zeros([size]),
                tf.zeros_like(numbers),
                tf.constant(0),
                tf.constant(0),
                tf.constant(0, tf.int64),
            ),
            parallel_iterations=1,
        )
        total = unpack(vector, self.segments)
        rider = rider.heard(block, nonfinite, empty)
        return Answer(total, entries, rider, tf.size(payload), gathered.traffic)

    def _sum(
        self,
        values: Sequence[tf.Tensor],
        rider: Rider,
        use: Use,
        demand: tf.Tensor,
    ) -> Answer:
        """All replicas send the same coordinates: all-reduce of the values alone."""
        flags = tf.cast(tf.stack([rider.nonfinite, rider.empty]), tf.float32)
        flat = [tf.reshape(value, [-1]) for value in values]
        sent = tf.concat([*flat, rider.numbers(), flags], axis=0)
        summed = self.ops.reduce_values(sent, use)
        sizes = [tf.size(part) for part in flat]
        ends = tf.unstack(tf.cumsum(tf.stack([0, *sizes])), num=len(sizes) + 1)
        total = [
            tf.reshape(summed[begin:end], tf.shape(value))
            for value, begin, end in zip(values, ends[:-1], ends[1:], strict=True)
        ]
        numbers = tf.ensure_shape(summed[ends[-1] : -2], rider.numbers().shape)
        nonfinite, empty = tf.cast(summed[-2], tf.int32), tf.cast(summed[-1], tf.int32)
        count = tf.cast(_sum(sizes), tf.int64)
        return Answer(
            total,
            self.ops.replicas() * count,
            rider.heard(numbers, nonfinite, empty),
            tf.size(sent),
            Traffic.none(demand),
        )

    def _sum_at(
        self, message: SparseGradient, rider: Rider, use: Use, demand: tf.Tensor
    ) -> Answer:
        """Entries at places that all know: all-reduce of their values."""
        answer = self._sum([message.values], rider, use, demand)
        summed = message._replace(values=answer.total[0])
        library = native.library()
        if library is None or not self.like:
            total = unpack(summed.to_dense(), self.segments)
        else:
            values, indices = [summed.values], [summed.indices]
            total = _flat(ops.sum_messages(library, values, indices, self.like))
        return answer._replace(total=total)

    def _broadcast(
        self, asked: Broadcast, rider: Rider, use: Use, demand: tf.Tensor
    ) -> Answer:
        """All get one replica's values: sums of bits that are zero on all others."""
        if not asked.values:  # Of variables that are all small.
            return self._sum([], rider, use, demand)
        bits = [tf.reshape(tf.bitcast(value, tf.int32), [-1]) for value in asked.values]
        root = tf.math.floormod(asked.root, self.ops.replicas())
        is_root = tf.equal(self.ops.replica(), tf.cast(root, tf.int32))
        sent = tf.concat(bits, axis=0) * tf.cast(is_root, tf.int32)
        received = tf.split(
            self.ops.reduce_values(sent, use), [part.shape[0] for part in bits]
        )
        total = [
            tf.reshape(tf.bitcast(part, value.dtype), value.shape)
            for part, value in zip(received, asked.values, strict=True)
        ]
        answer = self._sum([], rider, use, demand)
        entries = tf.size(sent, tf.int64)
        words = tf.size(sent) + answer.words
        return answer._replace(total=total, entries=entries, words=words)


def _flags(rider: Rider) -> tf.Tensor:
    return rider.nonfinite * wire.NONFINITE + rider.empty * wire.EMPTY


def _flat(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Vectors: the kernels give sums in the shapes of the variables."""
    return [tf.reshape(tensor, [-1]) for tensor in tensors]


def _sum(scalars: Sequence[Any]) -> Any:
    """In a fixed order."""
    return tf.reduce_sum(tf.stack(scalars)) if scalars else tf.constant(0)


def sum_of_others(
    ops: SparsifiedCrossDeviceOps, gradients: Sequence[tf.Tensor], use: Use
) -> list[tf.Tensor]:
    """Sums gradients over replicas whole, in their own dtypes: one sum for each.

    Complex numbers travel as their real and imaginary parts.

    Raises:
        ValueError: TensorFlow's collectives do not carry such numbers.
    """
    totals: list[Any] = [None] * len(gradients)
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        places = [i for i, g in enumerate(gradients) if g.dtype == dtype]
        if dtype.real_dtype not in (tf.float64, tf.float32, tf.int32, tf.int64):
            raise ValueError(
                "Gradients must be of a floating or complex dtype, int32 or int64: "
                f"others cannot be summed over workers. Received: {dtype.name}"
            )
        if ops.replicas() == 1:  # XLA could not take complex numbers apart.
            for i in places:
                totals[i] = gradients[i]
            continue
        flat = pack([gradients[i] for i in places])
        if dtype.is_complex:
            flat = tf.reshape(tf.bitcast(flat, dtype.real_dtype), [-1])
        summed = ops.reduce_values(flat, use.of("other"))
        if dtype.is_complex:
            summed = tf.bitcast(tf.reshape(summed, [-1, 2]), dtype)
        sizes = [math.prod(gradients[i].shape) for i in places]
        for i, part in zip(places, tf.split(summed, sizes), strict=True):
            totals[i] = tf.reshape(part, gradients[i].shape)
    return totals
