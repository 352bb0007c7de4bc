"""What a compressor may say, over real replicas and over simulated ones."""

import dataclasses

import keras
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import simulation
from tem_tf.layout import each, make_segments


@dataclasses.dataclass(frozen=True)
class Says(tem_tf.Compressor):
    """Says the same until it has heard so many answers; then it is done.

    Args:
        make: From the corrected gradient to what it says.
        rounds: Int.
    """

    make: object
    rounds: int = 1

    def compress(self, state, corrected, step, segments, heard=()):
        if len(heard) < self.rounds:
            return self.make(corrected)
        zeros = each(tf.zeros_like, corrected)
        return tem_tf.Done(zeros, state, own=zeros)


class NeverSays(tem_tf.Compressor):
    """What has left is neither a message nor said."""

    def compress(self, state, corrected, step, segments, heard=()):
        if not heard:
            return tem_tf.Sum(corrected)
        return tem_tf.Done(heard[0].total, state)


def run_replicas(compressor):
    weights = keras.Variable(tf.zeros([3]))
    optimizer = tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(1.0), compressor)
    optimizer.apply([tf.ones([3])], [weights])


def run_simulated(compressor):
    segments = make_segments("v", [(3,)])
    step = tf.constant(0, tf.int64)
    simulation.exchange(compressor, (), [tf.ones([2, 3])], step, segments)


@pytest.mark.parametrize("run", [run_replicas, run_simulated])
@pytest.mark.parametrize(
    ("compressor", "says"),
    [
        (
            Says(tem_tf.Sum, rounds=0),
            "A compressor must ask for something before it is done: nothing would be "
            "exchanged. Received: tem_tf.Done at once.",
        ),
        (
            Says(tem_tf.Sum, rounds=9),
            "A compressor may ask at most 8 times in a step. Received: one more "
            "tem_tf.Sum",
        ),
        (
            Says(list),
            "`compress` must return tem_tf.Gather, Sum, Broadcast or Done. Received: "
            "list",
        ),
        (
            Says(lambda corrected: tem_tf.Gather(corrected[0] > 0.5)),
            "`message` of tem_tf.Gather must be a tem_tf.SparseGradient or a subclass "
            f"of tem_tf.Message. Received: {type(tf.constant(0)).__name__}",
        ),
        (
            NeverSays(),
            "A compressor that gathers no message must say in tem_tf.Done what has "
            "left the corrected gradient. Received: own=None",
        ),
    ],
    ids=["at once", "too often", "unknown", "no message", "nothing left"],
)
def test_what_makes_no_sense_is_refused(run, compressor, says):
    with pytest.raises(ValueError) as error:
        run(compressor)
    assert says in str(error.value).replace("SymbolicTensor", "EagerTensor")


def test_eight_times_are_allowed():
    for run in (run_replicas, run_simulated):
        run(Says(tem_tf.Sum, rounds=8))
