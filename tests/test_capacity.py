"""The ladder of sizes, and how replicas learn the next one without asking."""

import numpy as np
import pytest
import tensorflow as tf

from tem_tf.capacity import LADDER, capacity_of, next_demand, rung_of


def demands(lengths, start=0):
    demand, history = tf.constant(start, tf.int64), []
    for length in lengths:
        demand = next_demand(demand, tf.constant(length, tf.int64))
        history.append(int(demand))
    return history


def test_the_ladder_rises_by_at_most_a_tenth_and_ends_within_int32():
    assert LADDER[0] == 1
    assert 2**30 < LADDER[-1] < 2**31
    steps = np.divide(LADDER[1:], LADDER[:-1])
    assert steps.min() > 1
    # Below 100 words a whole word is more than that.
    assert steps[LADDER.index(128) :].max() < 1.1


@pytest.mark.parametrize("words", [0, 1, 2, 3, 1000, 1024, 1025, 22_000_000, 2**30])
def test_a_rung_is_the_lowest_with_room(words):
    rung = rung_of(tf.constant(words, tf.int64))
    assert int(capacity_of(rung)) == min(c for c in LADDER if c >= words)


def test_a_steady_volume_soon_has_room_and_keeps_it():
    lengths = np.random.default_rng(0).integers(950, 1050, 500).tolist()
    history = demands(lengths)
    for demand, length in zip(history, lengths[1:], strict=False):
        assert demand >= length
        assert demand <= 1050 * 9 / 8


def test_a_longer_payload_is_learnt_at_once_and_a_peak_is_forgotten():
    history = demands([1000, 1000, 8000] + [1000] * 200)
    assert history[1] == 1125
    assert history[2] == 9000
    assert history[2 + 80] < 1.1 * 1125
    assert history[-1] == 1125  # Rounding does not stop it above the target.
    assert all(a >= b for a, b in zip(history[2:], history[3:], strict=False))


def test_beyond_the_longest_payload_of_all_the_last_rung_is_taken():
    (demand,) = demands([2**31 - 1])
    assert demand > 2**31
    rung = rung_of(tf.constant(demand, tf.int64))
    assert int(capacity_of(rung)) == LADDER[-1]
