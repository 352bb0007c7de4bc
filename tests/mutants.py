"""Compressors and memories that are wrong, each in one thing, and the law it breaks."""

import dataclasses
import random

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf.layout import each, pack, total_size

COMPRESSORS: list[tuple[tem_tf.Compressor, str]] = []
MEMORIES: list[tuple[tem_tf.Memory, str]] = []


def breaks(law, registered=True, **arguments):
    """Puts an object of a class into the table of those that break a law."""

    def enter(kind):
        if "__annotations__" in vars(kind):
            kind = dataclasses.dataclass(frozen=True)(kind)
        if registered:
            kind = keras.saving.register_keras_serializable("mutants")(kind)
        table = MEMORIES if issubclass(kind, tem_tf.Memory) else COMPRESSORS
        table.append((kind(**arguments), law))
        return kind

    return enter


class Sends(tem_tf.Compressor):
    """Right: sums everything, and a subclass says something else of it."""

    def ask(self, state, corrected, step, segments):
        return tem_tf.Sum(corrected)

    def total(self, heard, corrected):
        return heard.total

    def own(self, corrected):
        return list(corrected)

    def new_state(self, state):
        return state

    def compress(self, state, corrected, step, segments, heard=()):
        if not heard:
            return self.ask(state, corrected, step, segments)
        total = self.total(heard[0], corrected)
        return tem_tf.Done(total, self.new_state(state), own=self.own(corrected))


# ------------------------------------------------------------------------- as objects


@breaks("value")
class HoldsMore(Sends):
    def __init__(self):
        object.__setattr__(self, "secret", 3)


@breaks("value")
class HasNoHash(Sends):
    values: list = dataclasses.field(default_factory=list)


@breaks("config", k=3)
class ForgetsAField(tem_tf.Sparsifier):
    k: int = 1

    def get_config(self):
        return {}

    def rule(self, state, corrected, step, segments):
        return tem_tf.Largest([min(self.k, total_size(segments))])


@breaks("registered", registered=False)
class Unregistered(Sends):
    pass


@breaks("repr")
class ShowsItsAddress(Sends):
    __repr__ = object.__repr__


# ------------------------------------------------------------------------------ states


@breaks("init")
class BeginsWithNumpy(Sends):
    def init(self, segments):
        return np.zeros(3, np.float32)


@breaks("init")
class BeginsByChance(Sends):
    def init(self, segments):
        return tf.constant(random.random())


@breaks("state")
class Grows(Sends):
    def init(self, segments):
        return tf.zeros([1])

    def new_state(self, state):
        return tf.concat([state, state], axis=0)


@breaks("state")
class ChangesItsDtype(Sends):
    def init(self, segments):
        return {"count": tf.constant(0)}

    def new_state(self, state):
        return {"count": tf.cast(state["count"], tf.int64)}


@breaks("state")
class Overflows(Sends):
    def init(self, segments):
        return tf.constant(1e30)

    def new_state(self, state):
        return state * state


@breaks("warm-up")
class ObservesAnotherState(Sends):
    def observe(self, state, heard, step, segments):
        return {"seen": heard.entries}


# -------------------------------------------------------------------- what is asked for


@breaks("asks")
class RefusesNothing(Sends):
    def ask(self, state, corrected, step, segments):
        return tem_tf.Sum([tf.stack(corrected)[0], *corrected[1:]])


@breaks("asks")
class ReturnsAList(Sends):
    def ask(self, state, corrected, step, segments):
        return list(corrected)


@breaks("rounds")
class AsksOnlyForSomething(Sends):
    def ask(self, state, corrected, step, segments):
        if tf.reduce_any(pack(corrected) != 0):
            return tem_tf.Sum(corrected)
        return tem_tf.Broadcast(corrected, root=0)


@breaks("rounds")
class SendsAsManyAsThereAre(Sends):
    def ask(self, state, corrected, step, segments):
        vector = pack(corrected)
        return tem_tf.Sum([tf.boolean_mask(vector, vector != 0)])

    def total(self, heard, corrected):
        vector = pack(corrected)
        dense = tf.tensor_scatter_nd_update(
            tf.zeros_like(vector), tf.where(vector != 0), heard.total[0]
        )
        return tf.split(dense, [part.shape[0] for part in corrected])


@breaks("rounds")
class EachItsOwnRoot(Sends):
    def ask(self, state, corrected, step, segments):
        root = tf.math.count_nonzero(pack(corrected))
        return tem_tf.Broadcast(corrected, root=root)


@breaks("pure")
class ChangesTheGradient(Sends):
    def ask(self, state, corrected, step, segments):
        for i, vector in enumerate(corrected):
            corrected[i] = vector * 2
        return tem_tf.Sum(corrected)


@breaks("pure")
class ChangesItsState(Sends):
    def init(self, segments):
        return {"steps": tf.constant(0)}

    def new_state(self, state):
        state["steps"] = state["steps"] + 1
        return state


# ---------------------------------------------------------------------------- messages


@dataclasses.dataclass(frozen=True)
class Plain(tem_tf.Message):
    """Right: all values."""

    vector: tf.Tensor

    def entries(self):
        return self.vector.shape[0]

    def to_dense(self):
        return self.vector

    def encode(self):
        return tf.bitcast(self.vector, tf.int32)

    def decode(self, words):
        return type(self)(tf.bitcast(words, tf.float32))


class Gathers(tem_tf.Compressor):
    """Right: gathers everything, and a subclass has another message."""

    message = Plain

    def compress(self, state, corrected, step, segments, heard=()):
        if heard:
            return tem_tf.Done(heard[0].total, state)
        return tem_tf.Gather(self.message(pack(corrected)))


@breaks("message")
class CountsTooMany(Gathers):
    class message(Plain):
        def entries(self):
            return self.vector.shape[0] + 1


@breaks("message")
class IsShort(Gathers):
    class message(Plain):
        def to_dense(self):
            return self.vector[1:]


@breaks("message")
class HasAKindThatNobodyHas(Gathers):
    class message(Plain):
        kind = 16


@breaks("code")
class LosesTheSign(Gathers):
    class message(Plain):
        def encode(self):
            return tf.bitcast(tf.abs(self.vector), tf.int32)


@breaks("code")
class DecodesItself(Gathers):
    class message(Plain):
        def decode(self, words):
            return self


@breaks("code")
class EncodesFloats(Gathers):
    class message(Plain):
        def encode(self):
            return self.vector


@breaks("length")
class IsNoFixedLength(Gathers):
    class message(Plain):
        fixed_length = True

        def encode(self):
            return tf.bitcast(tf.boolean_mask(self.vector, self.vector != 0), tf.int32)

        def decode(self, words):
            mask = tf.cast(self.vector != 0, tf.int32)
            places = tf.reshape(tf.where(mask), [-1, 1])
            values = tf.bitcast(words, tf.float32)[: tf.shape(places)[0]]
            values = tf.pad(values, [[0, tf.shape(places)[0] - tf.size(values)]])
            return type(self)(
                tf.scatter_nd(places, values, tf.shape(self.vector, tf.int64))
            )


class GathersEntries(tem_tf.Compressor):
    """Right: gathers the entries from the second on, as a SparseGradient."""

    def indices(self, vector):
        return tf.range(1, max(1, vector.shape[0]))

    def compress(self, state, corrected, step, segments, heard=()):
        if heard:
            return tem_tf.Done(heard[0].total, state)
        vector = pack(corrected)
        indices = self.indices(vector)
        values = tf.gather(vector, indices)
        message = tem_tf.SparseGradient(values, indices, vector.shape[0], self.known)
        return tem_tf.Gather(message)

    known = False


@breaks("entries")
class IsInNoOrder(GathersEntries):
    def indices(self, vector):
        return super().indices(vector)[::-1]


@breaks("entries")
class NamesAnEntryTwice(GathersEntries):
    known = True

    def indices(self, vector):
        indices = super().indices(vector)
        return tf.concat([indices, indices[:1]], axis=0)


@breaks("known")
class EachItsOwnPlaces(tem_tf.Sparsifier):
    def rule(self, state, corrected, step, segments):
        k = min(3, total_size(segments))
        return tem_tf.At(tf.math.top_k(tf.abs(pack(corrected)), k).indices)


@breaks("rule")
class TiesToTheHigher(tem_tf.Sparsifier):
    """Reverses what it selects from."""

    def rule(self, state, corrected, step, segments):
        return tem_tf.Largest([min(3, total_size(segments))])

    def compress(self, state, corrected, step, segments, heard=()):
        if heard:
            return tem_tf.Done(heard[0].total, state)
        vector = pack(corrected)
        count = self.rule(state, corrected, step, segments).counts[0]
        chosen = tf.math.top_k(tf.abs(vector)[::-1], count).indices
        chosen = tf.sort(vector.shape[0] - 1 - chosen)
        chosen = tf.boolean_mask(chosen, tf.gather(vector, chosen) != 0)
        values = tf.gather(vector, chosen)
        return tem_tf.Gather(tem_tf.SparseGradient(values, chosen, vector.shape[0]))


@breaks("rule")
class SendsTwiceTheValues(tem_tf.Sparsifier):
    def rule(self, state, corrected, step, segments):
        return tem_tf.AtLeast(tf.constant(0.5))

    def compress(self, state, corrected, step, segments, heard=()):
        corrected = [2 * vector for vector in corrected]
        return super().compress(state, corrected, step, segments, heard)


# ------------------------------------------------------------------------ what is heard


@breaks("total")
class TakesItsOwnForTheMean(Sends):
    """Right with one worker."""

    def total(self, heard, corrected):
        return [own * heard.replicas for own in corrected]


@breaks("total")
class DividesByZero(Sends):
    def total(self, heard, corrected):
        sums = [tf.reduce_sum(tf.abs(vector)) for vector in heard.total]
        return [v * (s / s) for v, s in zip(heard.total, sums, strict=True)]


@breaks("own")
class SaysNotWhatHasLeft(Sends):
    def own(self, corrected):
        return None


@breaks("own")
class SaysItInOneVector(Sends):
    def own(self, corrected):
        return [pack(corrected)]


@breaks("conservation")
class DropsMass(Sends):
    def total(self, heard, corrected):
        return [vector / 2 for vector in heard.total]


@breaks("conservation")
class TakesTheMean(Sends):
    """Right with one worker."""

    def total(self, heard, corrected):
        return [vector / heard.replicas for vector in heard.total]


@breaks("conservation")
class DropsALastBit(Sends):
    def total(self, heard, corrected):
        return [vector * (1 - 2.0**-23) for vector in heard.total]


@breaks("conservation")
class ForgetsLater(Sends):
    """Right in the first steps."""

    def init(self, segments):
        return tf.constant(0)

    def compress(self, state, corrected, step, segments, heard=()):
        if not heard:
            return tem_tf.Sum(corrected)
        share = tf.where(state < 12, 1.0, 0.5)
        total = [tf.cast(share, vector.dtype) * vector for vector in heard[0].total]
        return tem_tf.Done(total, state + 1, own=corrected)


@breaks("lossless")
class KeepsSome(tem_tf.TopK):
    k: int = 2
    lossless = True


@breaks("contraction")
class Unbiased(Sends):
    """Twice every entry, as if one half had been drawn."""

    def total(self, heard, corrected):
        return [vector * 3 for vector in heard.total]

    def own(self, corrected):
        return [vector * 3 for vector in corrected]


# -------------------------------------------------------------------------- as it runs


@breaks("repeatable")
class SelectsByChance(tem_tf.Sparsifier):
    def rule(self, state, corrected, step, segments):
        return tem_tf.AtLeast(tf.constant(random.random()))


@breaks("scaled", threshold=0.5)
class KeepsItsThreshold(tem_tf.HardThreshold):
    def scaled(self, factor):
        return self


@breaks("path")
class LooksAtValues(tem_tf.Sparsifier):
    def rule(self, state, corrected, step, segments):
        size = total_size(segments)
        return tem_tf.Largest(
            [min(3, int(tf.math.count_nonzero(pack(corrected))), size)]
        )


@breaks("simulated")
class IsNotVectorised(GathersEntries):
    """Right for all who do not simulate."""

    def indices(self, vector):
        return tf.cast(tf.reshape(tf.where(vector != 0), [-1]), tf.int32)


# ---------------------------------------------------------------------------- memories


class Keeps(tem_tf.Memory):
    """Right: error feedback."""

    def init(self, segments):
        return {"residual": [tf.zeros([segment.size]) for segment in segments]}

    def compensate(self, state, gradient, step, segments):
        return each(tf.add, gradient, state["residual"])

    def update(self, state, corrected, own, step, segments):
        return {**state, "residual": each(tf.subtract, corrected, own)}


@breaks("value")
class HoldsMoreToo(Keeps):
    def __init__(self):
        object.__setattr__(self, "secret", 3)


@breaks("config", decay=0.5)
class ForgetsItsDecay(Keeps):
    decay: float = 1.0

    def get_config(self):
        return {}


@breaks("registered", registered=False)
class UnregisteredMemory(Keeps):
    pass


@breaks("repr")
class ShowsItsAddressToo(Keeps):
    __repr__ = object.__repr__


@breaks("init")
class CountsVariables(Keeps):
    def init(self, segments):
        state = super().init(segments)
        return {**state, "variables": tf.constant(float(len(segments)))}


@breaks("init")
class HasAScalarResidual(Keeps):
    def init(self, segments):
        return {"residual": tf.constant(0.0)}


@breaks("init")
class IsLaidEndToEnd(Keeps):
    def init(self, segments):
        return {"residual": tf.zeros([total_size(segments)])}


@breaks("state")
class GainsAKey(Keeps):
    def update(self, state, corrected, own, step, segments):
        state = super().update(state, corrected, own, step, segments)
        return {**state, "last": own}


@breaks("state")
class IsDouble(Keeps):
    def update(self, state, corrected, own, step, segments):
        state = super().update(state, corrected, own, step, segments)
        return {"residual": [tf.cast(m, tf.float64) for m in state["residual"]]}


@breaks("vectors")
class GivesShapes(Keeps):
    def compensate(self, state, gradient, step, segments):
        return [
            tf.reshape(g, segment.shape)
            for g, segment in zip(gradient, segments, strict=True)
        ]


@breaks("vectors")
class ForgetsItsState(Keeps):
    def apply(self, state, total, step, segments):
        return total


@breaks("vectors")
class DividesByTheNorm(Keeps):
    """0 / 0 for an empty or zero variable."""

    def apply(self, state, total, step, segments):
        return [v / tf.reduce_sum(tf.abs(v)) for v in total], state


@breaks("pure")
class WritesInPlace(Keeps):
    def update(self, state, corrected, own, step, segments):
        state["residual"] = each(tf.subtract, corrected, own)
        return state


@breaks("repeatable")
class DecaysByChance(Keeps):
    def compensate(self, state, gradient, step, segments):
        return [g * random.random() for g in gradient]


@breaks("zero")
class Drifts(Keeps):
    def apply(self, state, total, step, segments):
        return [vector + 0.125 for vector in total], state


@breaks("by variable")
class NormalisesAll(Keeps):
    def compensate(self, state, gradient, step, segments):
        norm = tf.norm(pack(gradient))
        return [g / tf.maximum(norm, 1.0) for g in gradient]


@breaks("redistribute")
class GivesAllTheSame(Keeps):
    def redistribute(self, states, workers):
        return [states[0]] * workers


@breaks("redistribute")
class StaysAsMany(Keeps):
    def redistribute(self, states, workers):
        return [dict(state) for state in states]


@breaks("redistribute")
class SharesInOneVector(Keeps):
    def redistribute(self, states, workers):
        shared = super().redistribute(states, workers)
        return [{"residual": pack(state["residual"])} for state in shared]


@breaks("path")
class LooksAtNumbers(Keeps):
    def update(self, state, corrected, own, step, segments):
        held = [
            tf.constant(p.numpy() - s.numpy())
            for p, s in zip(corrected, own, strict=True)
        ]
        return {"residual": held}
