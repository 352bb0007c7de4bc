"""Laws of tem_tf.CyclicTopK: one replica chooses, all send what they have there."""

import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import simulation
from tem_tf.layout import make_segments

SEGMENTS = make_segments(["a", "b"], [(2, 5), (20,)])
SCOPES = ("layer", "model")


def exchanged(compressor, gradients, step):
    """(workers, 30) in one row each: own and total, of workers' rows side by side."""
    parts = [tf.constant(gradients[:, :10]), tf.constant(gradients[:, 10:])]
    found = simulation.exchange(
        compressor, (), parts, tf.constant(step, tf.int64), SEGMENTS
    )
    own = np.concatenate([part.numpy() for part in found.own], axis=1)
    return own, np.concatenate([part.numpy() for part in found.total])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("step", range(5))
def test_the_leader_of_a_step_chooses_for_all(scope, step):
    gradients = np.random.default_rng(0).normal(size=(3, 30)).astype("float32")
    compressor = tem_tf.CyclicTopK(0.2, scope)
    own, total = exchanged(compressor, gradients, step)
    leader = np.abs(gradients[step % 3])
    if scope == "layer":
        chosen = [*leader[:10].argsort()[-2:], *(10 + leader[10:].argsort()[-4:])]
    else:
        chosen = leader.argsort()[-6:]
    expected = np.zeros_like(gradients)
    expected[:, chosen] = gradients[:, chosen]
    np.testing.assert_array_equal(own, expected)
    np.testing.assert_allclose(total, expected.sum(axis=0), rtol=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
def test_of_equal_magnitudes_the_lower_place_is_chosen(scope):
    own, _ = exchanged(tem_tf.CyclicTopK(0.1, scope), np.ones((2, 30), "float32"), 0)
    places = [0, 10, 11] if scope == "layer" else [0, 1, 2]
    assert np.flatnonzero(own[0]).tolist() == places


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.0}, "`density` must be"),
        ({"density": 1.5}, "`density` must be"),
        ({"density": tem_tf.Ramp(0.5, 0.1, steps=4)}, "`density` must be a number"),
        ({"density": 0.1, "scope": "block"}, '`scope` must be "layer" or "model"'),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tem_tf.CyclicTopK(**arguments)
