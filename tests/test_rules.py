"""What a compressor or memory must not say is refused by name, on both local steps."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import native
from tem_tf.compressors.rules import Selection

SHAPES = {"a": (2, 3), "b": (4,)}


@pytest.fixture(params=["0", "built"], ids=["operations", "native"], autouse=True)
def local_step(request, monkeypatch):
    monkeypatch.setenv("TEM_TF_NATIVE", request.param)
    if request.param != "0" and native.library() is None:
        pytest.skip(f"native kernels: {native.status().reason}")
    return request.param


def aggregate(compressor, memory="auto"):
    """The sum over one replica of gradients of ones."""
    aggregator = tem_tf.Aggregator(compressor, memory)
    variables = [tf.Variable(tf.zeros(shape)) for shape in SHAPES.values()]
    aggregator.build(variables, list(SHAPES))
    ones = [tf.ones(shape) for shape in SHAPES.values()]
    return tf.function(lambda: aggregator.aggregate(ones, 0))()


def stating(make_rule):
    @dataclasses.dataclass(frozen=True)
    class Stated(tem_tf.Sparsifier):
        def rule(self, state, corrected, step, segments):
            return make_rule()

    return Stated()


COUNTS = r"`counts` of tem_tf.Largest must be integers >= 0, a list of one for all"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: tem_tf.Largest([-1]), COUNTS),
        (lambda: tem_tf.Largest([1, 1, 1]), COUNTS),
        (lambda: tem_tf.Largest([]), COUNTS),
        (lambda: tem_tf.Largest(3), COUNTS),
        (lambda: tem_tf.Largest([2.7]), COUNTS),
        (lambda: tem_tf.Largest([tf.constant([1, 2])]), COUNTS),
        (lambda: tem_tf.Largest([1], block=0), "`block` of tem_tf.Largest must"),
        (lambda: tem_tf.Largest([tf.constant(1)], block=3), "`block` of tem_tf.Larg"),
        (lambda: tem_tf.Largest([1], most=[1, 2, 3]), "`most` of tem_tf.Largest must"),
        (lambda: tem_tf.AtLeast(tf.ones([3])), "must be one floating number"),
        (lambda: tem_tf.AtLeast(1), "must be one floating number"),
        (lambda: tem_tf.At(tf.constant([1], tf.int64)), "must be an int32 vector"),
        (lambda: tem_tf.At([1]), "must be an int32 vector"),
        (lambda: tem_tf.At(tf.range(3), 0.5), "`count` of tem_tf.At must be an int"),
        (lambda: 0.5, "must return tem_tf.AtLeast, tem_tf.Largest or tem_tf.At"),
    ],
)
def test_a_rule_that_is_none_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        aggregate(stating(rule))


@pytest.mark.parametrize("counts", [[99], [99, 1], [tf.constant(99), tf.constant(1)]])
def test_counts_beyond_the_sizes_are_all_there_is(counts):
    a, b = aggregate(stating(lambda: tem_tf.Largest(counts)))
    np.testing.assert_array_equal(a, tf.ones([2, 3]))
    assert tf.reduce_sum(b) == (4 if len(counts) == 1 else 1)


def test_blocks_have_their_largest_each_and_the_last_its_share():
    """Of blocks of four two; three at the end have one; zeros are not sent."""
    corrected = [tf.constant([9, 8, 7, 6, 0, 0, 1, 0, 3, -3, 2.0]), tf.constant([5.0])]
    rule = tem_tf.Largest([2, 2], block=4)
    sparse = Selection(corrected, rule).to_sparse()
    np.testing.assert_array_equal(sparse.indices, [0, 1, 6, 8, 11])


def test_kernels_refuse_blocks_that_nobody_told_them_of(local_step):
    if local_step == "0":
        aggregate(stating(lambda: tem_tf.Largest([1], block=3)))
        return
    with pytest.raises(ValueError, match="`in_kernels` must be False"):
        aggregate(stating(lambda: tem_tf.Largest([1], block=3)))


@pytest.mark.parametrize("count", [0, 2, tf.constant(2), 5])
def test_the_first_of_given_positions_are_meant(count):
    positions = tf.constant([7, 0, 3, 9, 1])
    a, b = aggregate(stating(lambda: tem_tf.At(positions, count)))
    expected = np.zeros(10)
    expected[positions[: int(count)]] = 1
    np.testing.assert_array_equal(np.concatenate([tf.reshape(a, [-1]), b]), expected)


RULES = [
    tem_tf.AtLeast(tf.constant(0.5)),
    tem_tf.Largest([3]),
    tem_tf.Largest([tf.constant(3)]),
    tem_tf.Largest([tf.constant(0), 2]),
    tem_tf.Largest([tf.constant(99), tf.constant(1)], most=[99, 3]),
    tem_tf.Largest([1, 2], block=3),
    tem_tf.Largest([3], block=4),
    tem_tf.At(tf.constant([7, 0, 3])),
    tem_tf.At(tf.constant([7, 0, 3]), tf.constant(2)),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_selection_is_the_same_in_static_shapes(rule):
    corrected = [tf.constant([0, -1, 0.5, 1, 0.25, -1]), tf.constant([1.0, 0, -0.5, 2])]
    selection = Selection(corrected, rule)
    sparse, masked = selection.to_sparse(), selection.to_masked()
    np.testing.assert_array_equal(np.sort(sparse.indices), np.flatnonzero(masked.mask))
    np.testing.assert_array_equal(masked.vector, sparse.to_dense())
    assert masked.known == sparse.known
    assert masked.entries() == selection.entries() == sparse.entries()
    again = sparse.to_masked()
    for part, other in zip(again, masked, strict=True):
        np.testing.assert_array_equal(part, other)


@dataclasses.dataclass(frozen=True)
class Ends(tem_tf.Compressor):
    """Sums everything and says at last what it is made with."""

    def done(self, total, state):
        return tem_tf.Done(total, state, own=total)

    def compress(self, state, corrected, step, segments, heard=()):
        if not heard:
            return tem_tf.Sum(corrected)
        return self.done(heard[0].total, state)


class OwnIsShort(Ends):
    """Tells what has left of one variable only."""

    def done(self, total, state):
        return tem_tf.Done(total, state, own=total[:1])


class OwnIsScalar(Ends):
    """Tells scalars, which would be broadcast."""

    def done(self, total, state):
        return tem_tf.Done(total, state, own=[tf.constant(1.0)] * 2)


class TotalIsTensor(Ends):
    """Tells a tensor where a list is asked for."""

    def done(self, total, state):
        return tem_tf.Done(total[0], state, own=total)


class StateIsOther(Ends):
    """Returns a state that `init` has not."""

    def done(self, total, state):
        return tem_tf.Done(total, {"new": tf.constant(1)}, own=total)


class SumIsTensor(Ends):
    """Asks for the sum of a tensor, not of a list."""

    def compress(self, state, corrected, step, segments, heard=()):
        return tem_tf.Sum(corrected[0])


@pytest.mark.parametrize(
    ("compressor", "message"),
    [
        (OwnIsShort(), "`own of tem_tf.Done` must be a list of 2 vectors"),
        (OwnIsScalar(), r"of a one of \(6,\). Received: float32 \(\)"),
        (TotalIsTensor(), "`total of tem_tf.Done` must be a list of 2 vectors"),
        (StateIsOther(), "must have the structure of that of `init`"),
        (SumIsTensor(), "`values` of tem_tf.Sum must be a list of tensors"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_end_that_would_be_kept_wrongly_is_refused(compressor, message):
    with pytest.raises(ValueError, match=message):
        aggregate(compressor, tem_tf.ErrorFeedback())


class Forgets(tem_tf.ErrorFeedback):
    """Leaves its state out."""

    def update(self, state, corrected, own, step, segments):
        return {}


class ReturnsTensor(tem_tf.ErrorFeedback):
    """Returns the corrected gradient as one tensor."""

    def compensate(self, state, gradient, step, segments):
        return tf.concat(gradient, axis=0)


class DirectionIsShort(tem_tf.ErrorFeedback):
    """Returns the direction of one variable only."""

    def apply(self, state, total, step, segments):
        return total[:1], state


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (Forgets(), r"`Forgets.update` must return a state .* with \['residual'\]"),
        (ReturnsTensor(), "`ReturnsTensor.compensate` must be a list of 2 vectors"),
        (DirectionIsShort(), "`DirectionIsShort.apply` must be a list of 2 vectors"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_memory_that_would_lose_something_is_refused(memory, message):
    with pytest.raises(ValueError, match=message):
        aggregate(tem_tf.TopK(k=2), memory)
