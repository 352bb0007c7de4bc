"""Laws of ACCORDION: when a variable has the high density, and that all agree."""

import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.compressors import Heard
from tem_tf.layout import make_segments, total_size, unpack
from tests.steps import apply_gradients
from tests.training import make_strategy

SEGMENTS = make_segments("abc", [(20, 5), (50,), (0,)])


def densities(compressor, norms):
    """The density of `a` and `b` at each step, given the norms of their aggregates."""
    state, seen = compressor.init(SEGMENTS), []
    p = tf.random.stateless_normal([total_size(SEGMENTS)], [1, 2])
    for step, (a, b) in enumerate(norms):
        step = tf.constant(step, tf.int64)
        asked = compressor.compress(state, unpack(p, SEGMENTS), step, SEGMENTS)
        sent = asked.message.to_sparse().to_dense().numpy()
        parts = [np.count_nonzero(sent[s.slice]) / s.size for s in SEGMENTS[:2]]
        seen.append([round(share, 6) for share in parts])
        counts = compressor.counts(state, SEGMENTS)
        assert [int(k) for k in counts] == [
            round(100 * parts[0]),
            round(50 * parts[1]),
            0,
        ]
        aggregate = np.zeros(150, np.float32)
        aggregate[[0, 100]] = a, b
        total = unpack(tf.constant(aggregate), SEGMENTS)
        heard = Heard(total, tf.constant(1, tf.int64), 1, tf.zeros([0]))
        state = compressor.observe(state, heard, step, SEGMENTS)
    return seen


def test_high_at_first_then_by_the_change_of_the_norm():
    compressor = tem_tf.Accordion(0.1, 0.4, interval_steps=3)
    norms = [
        # Step 0 decides for 1 to 3, step 3 for 4 to 6; what is between has no effect.
        *[(1.0, 1.0), (9.0, 9.0), (9.0, 9.0)],
        *[(1.5, 1.51), (9.0, 9.0), (9.0, 9.0)],  # By half of 1, and by more.
        *[(0.74, 1.0), (1.0, 1.0), (1.0, 1.0)],  # Against 1.5 and 1.51.
        *[(0.74, 1.0), (1.0, 1.0)],
    ]
    low, high = 0.1, 0.4
    expected = [[high, high]] * 4 + [[low, high]] * 3 + [[high, low]] * 3 + [[low, low]]
    assert densities(compressor, norms) == expected


def test_high_after_the_learning_rate_was_lowered():
    compressor = tem_tf.Accordion(0.1, 0.4, 2, learning_rate_decays=(3, 6))
    seen = densities(compressor, [(1.0, 1.0)] * 11)
    # Decisions at 0, 2, 4, 6, 8: the decay at 3 is seen at 4, that at 6 at once.
    expected = [True] * 3 + [False] * 2 + [True] * 4 + [False] * 2
    assert [row == [0.4, 0.4] for row in seen] == expected
    assert [row == [0.1, 0.1] for row in seen] == [not x for x in expected]


@pytest.mark.parametrize("replicas", [1, 2])
def test_all_replicas_decide_alike_from_the_aggregate(replicas):
    """One replica's gradient alone would decide otherwise."""
    gradients = np.ones((6, replicas, 12))
    gradients *= np.linspace(1, 2, 12)  # No ties, so that k can be seen.
    gradients[2, -1] *= 100
    compressor = tem_tf.Accordion(0.25, 0.75, interval_steps=2)
    weights, _ = apply_gradients(
        make_strategy(replicas), gradients, compressor, memory=None
    )
    sent = np.count_nonzero(np.diff(weights[:, 0], axis=0, prepend=0), axis=1)
    # Variables of 4 and 8. High until the decision at 2; changed at 2 and at 4.
    assert sent.tolist() == [9] * 6
    for replica in range(1, replicas):
        np.testing.assert_array_equal(weights[:, 0], weights[:, replica])
    quiet = np.ones((6, replicas, 12)) * np.linspace(1, 2, 12)
    weights, _ = apply_gradients(
        make_strategy(replicas), quiet, compressor, memory=None
    )
    sent = np.count_nonzero(np.diff(weights[:, 0], axis=0, prepend=0), axis=1)
    assert sent.tolist() == [9, 9, 9, 3, 3, 3]


def test_warm_up_is_observed_too():
    """The decision at step 0, in a dense warm-up, is what that at 2 compares with."""
    gradients = np.ones((5, 1, 12)) * np.linspace(1, 2, 12)
    compressor = tem_tf.Accordion(0.25, 1.0, interval_steps=2)
    weights, _ = apply_gradients(
        make_strategy(1), gradients, compressor, memory=None, warmup_steps=2
    )
    sent = np.count_nonzero(np.diff(weights[:, 0], axis=0, prepend=0), axis=1)
    assert sent.tolist() == [12, 12, 12, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"low_density": 0}, r"`low_density` must be in \(0, 1\]"),
        ({"high_density": 10}, r"`high_density` must be in \(0, 1\].*10 % is 0.1"),
        ({"low_density": 0.5}, "`high_density` must be at least `low_density`"),
        ({"low_density": tem_tf.Ramp(1, 0.1, 3)}, "`low_density` must be a number"),
        ({"interval_steps": 0}, "`interval_steps` must be an integer >= 1"),
        ({"learning_rate_decays": 5}, "`learning_rate_decays` must be a tuple of"),
        ({"learning_rate_decays": (0,)}, "`learning_rate_decays` must be a tuple of"),
        ({"change": 0}, "`change` must be a finite number > 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        tem_tf.Accordion(**{"low_density": 0.1, "high_density": 0.3, **arguments})
