"""The rounds of a compressor over simulated workers, run eagerly and in a graph."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.layout import make_segments
from tem_tf.simulation import exchange, repeat

SEGMENTS = make_segments(["kernel", "bias"], [(2, 3), (2,)])
COMPRESSORS = {
    "none": tem_tf.Identity(),
    "hard_threshold": tem_tf.HardThreshold(0.7),
    "topk": tem_tf.TopK(k=2),
    "random_k": tem_tf.RandomK(0.5),
    "accordion": tem_tf.Accordion(0.2, 0.5),
    "adaptive_threshold": tem_tf.AdaptiveThreshold(0.3, 10),
}


def vectors(workers=3):
    generator = np.random.default_rng(0)
    return [tf.constant(generator.normal(size=(workers, s.size))) for s in SEGMENTS]


def run(compressor, corrected, step=0):
    states = repeat(compressor.init(SEGMENTS), corrected[0].shape[0])
    step = tf.constant(step, tf.int64)
    return exchange(compressor, states, corrected, step, SEGMENTS)


@dataclasses.dataclass(frozen=True)
class InTurns(tem_tf.Compressor):
    """Sends all of one replica, another at each step; what others have stays."""

    def compress(self, state, corrected, step, segments, heard=()):
        if not heard:
            root = tf.cast(step, tf.int32)
            return tem_tf.Broadcast(corrected, root, carry=corrected)
        same = [
            tf.reduce_all(tf.equal(own, total))
            for own, total in zip(heard[0].carry, heard[0].total, strict=True)
        ]
        own = [
            tf.where(is_own, total, tf.zeros_like(total))
            for is_own, total in zip(same, heard[0].total, strict=True)
        ]
        return tem_tf.Done(heard[0].total, state, own)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_what_left_the_workers_is_the_total(name, in_graph):
    def sent(corrected):
        return run(COMPRESSORS[name], corrected)

    corrected = vectors()
    simulated = (tf.function(sent) if in_graph else sent)(corrected)
    for rows, own, total in zip(corrected, simulated.own, simulated.total, strict=True):
        assert own.dtype == tf.float64
        np.testing.assert_array_equal(tf.reduce_sum(own, axis=0), total)
        is_sent = own != 0  # Unrounded: values stay what they were.
        np.testing.assert_array_equal(own[is_sent], rows[is_sent])


@pytest.mark.parametrize("in_graph", [False, True])
def test_root_of_a_broadcast_may_be_a_tensor(in_graph):
    def sent(corrected):
        return run(InTurns(), corrected, step=1)

    corrected = vectors()
    simulated = (tf.function(sent) if in_graph else sent)(corrected)
    for rows, own, total in zip(corrected, simulated.own, simulated.total, strict=True):
        np.testing.assert_array_equal(total, rows[1])
        np.testing.assert_array_equal(own, rows * [[0], [1], [0]])
