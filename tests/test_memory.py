"""Laws of error feedback, alone and with every compressor."""

import math
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import memory as memories
from tem_tf.layout import make_segments, pack, unpack
from tests.alone import step_alone
from tests.compressor_cases import ALL, rounding_of
from tests.memory_cases import KEEPING, MEMORIES, CountsSteps

SEGMENTS = make_segments(["kernel", "bias"], [(3, 3), (3,)])


class Run(NamedTuple):
    """One step of one worker; arrays (n,), but for `state`."""

    corrected: np.ndarray
    sent: np.ndarray
    direction: np.ndarray
    state: dict

    @property
    def residual(self):
        return pack(self.state["residual"]).numpy()


def run(compressor, memory, gradients):
    """Yields the steps of one worker."""
    state, inner = memory.init(SEGMENTS), compressor.init(SEGMENTS)
    for step, gradient in enumerate(gradients):
        step = tf.constant(step, tf.int64)
        gradient = unpack(tf.constant(gradient), SEGMENTS)
        corrected = memory.compensate(state, gradient, step, SEGMENTS)
        done = step_alone(compressor, inner, corrected, step, SEGMENTS, gradient)
        state = memory.update(state, corrected, done.own, step, SEGMENTS)
        direction, state = memory.apply(state, done.total, step, SEGMENTS)
        inner = done.state
        vectors = corrected, done.own, direction
        yield Run(*(pack(v).numpy() for v in vectors), state)


def assert_sum(done, compressor):
    """What was sent and what is held back are what should be sent."""
    found = done.sent + done.residual
    rounding = rounding_of(compressor)
    np.testing.assert_allclose(found, done.corrected, rtol=0, atol=rounding)


def gradients(steps=40, scale=1.0, size=12):
    rng = np.random.default_rng(0)
    return (scale * rng.normal(size=(steps, size))).astype(np.float32)


@pytest.mark.parametrize("compressor", ALL.values(), ids=ALL)
def test_nothing_is_lost(compressor):
    for done in run(compressor, tem_tf.ErrorFeedback(), gradients()):
        assert_sum(done, compressor)


@pytest.mark.parametrize("threshold", [0.3, 1.0, 4.0])
def test_hard_threshold_bounds_the_residual(threshold):
    """max|m| < λ and ‖m‖² < dλ² at every step."""
    compressor = tem_tf.HardThreshold(threshold)
    steps = run(compressor, tem_tf.ErrorFeedback(), gradients(200))
    for done in steps:
        residual = done.residual.astype(float)
        assert np.max(np.abs(residual)) < threshold
        assert np.sum(residual**2) < residual.size * threshold**2


def test_a_constant_gradient_is_sent_every_ceil_of_lambda_over_g_steps():
    """Dyadic values, so that the sums are exact."""
    g = np.float32([0.25, -0.5, 0.375, 1.0, 2.0, 0.125] * 2)
    period = [math.ceil(1.0 / abs(x)) for x in g]
    compressor = tem_tf.HardThreshold(1.0)
    steps = run(compressor, tem_tf.ErrorFeedback(), np.tile(g, (32, 1)))
    sent = np.stack([done.sent for done in steps])
    for entry, every in enumerate(period):
        expected = [step for step in range(32) if (step + 1) % every == 0]
        assert np.flatnonzero(sent[:, entry]).tolist() == expected


def test_without_memory_nothing_is_sent_below_the_threshold():
    small = gradients(50, scale=0.01)
    steps = list(run(tem_tf.HardThreshold(1.0), tem_tf.Memory(), small))
    assert not any(done.sent.any() for done in steps)
    steps = list(run(tem_tf.HardThreshold(0.05), tem_tf.ErrorFeedback(), small))
    assert any(done.sent.any() for done in steps)


def test_auto_is_error_feedback_for_lossy_compressors_only():
    assert memories.get("auto", lossless=False) == tem_tf.ErrorFeedback()
    assert memories.get("auto", lossless=True) is None
    assert memories.get(None, lossless=False) is None
    assert memories.get(tem_tf.ErrorFeedback(), True) == tem_tf.ErrorFeedback()
    with pytest.raises(ValueError, match='`memory` must be "auto", None or'):
        memories.get("none", lossless=False)


def transcribed(name, gradients, k):
    """What Top-k of the whole gradient sends, by the papers' equations in numpy.

    Returns:
        The direction of each step for one worker.
    """
    size = gradients.shape[1]
    m, u, v, h = (np.zeros(size) for _ in range(4))
    directions = []
    for g in gradients.astype(float):
        if name.startswith("dgc"):
            u = (0.5 if name == "dgc" else 0.75) * u + g
            p = m + u
        elif name == "ef21":
            p = g - h
        elif name == "ef21_sgdm":
            v = 0.75 * v + 0.25 * g
            p = v - h
        else:
            p = g + (0.5 if name == "decaying" else 1) * m
        s = np.zeros(size)
        kept = np.argsort(-np.abs(p), kind="stable")[:k]
        s[kept] = p[kept]
        m, h = p - s, h + s
        if name == "dgc":
            u[s != 0] = 0
        directions.append(h if name.startswith("ef21") else s)
    return np.array(directions)


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_against_its_papers_equations(name):
    rows, compressor = gradients(30), tem_tf.TopK(k=3, scope="model")
    directions = [done.direction for done in run(compressor, MEMORIES[name], rows)]
    expected = transcribed(name, rows, 3)
    np.testing.assert_allclose(directions, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compressor", ALL.values(), ids=ALL)
@pytest.mark.parametrize("name", ["decaying", "dgc", "dgc_unmasked"])
def test_sent_and_residual_are_all_that_should_be_sent(name, compressor):
    for done in run(compressor, MEMORIES[name], gradients(5)):
        assert_sum(done, compressor)


def test_momentum_of_what_was_sent_is_masked():
    memory, step = tem_tf.MomentumCorrection(0.5), tf.constant(0, tf.int64)
    state, ones = memory.init(SEGMENTS), unpack(tf.ones([12]), SEGMENTS)
    p = memory.compensate(state, ones, step, SEGMENTS)
    sent = unpack(tf.constant([1.0] * 6 + [0.0] * 6), SEGMENTS)
    state = memory.update(state, p, sent, step, SEGMENTS)
    np.testing.assert_array_equal(pack(state["velocity"]), [0.0] * 6 + [1.0] * 6)
    # By hand: the sent start anew; of the others u = 0.5 + 1 is added to m = 1.
    p = memory.compensate(state, ones, step, SEGMENTS)
    np.testing.assert_array_equal(pack(p), [1.0] * 6 + [2.5] * 6)


def test_special_cases_are_one_another():
    rows = gradients(10)
    for first, second in (
        (tem_tf.DecayingErrorFeedback(1.0), tem_tf.ErrorFeedback()),
        (tem_tf.MomentumCorrection(0.0), tem_tf.ErrorFeedback()),
        (tem_tf.EF21SGDM(1.0), tem_tf.EF21()),
    ):
        compressor = tem_tf.TopK(k=3, scope="model")
        both = (run(compressor, memory, rows) for memory in (first, second))
        for one, other in zip(*both, strict=True):
            np.testing.assert_allclose(one.sent, other.sent, rtol=1e-5, atol=1e-6)


def dyadic_states(memory, workers):
    """States of several workers, as different as they may be."""
    rng = np.random.default_rng(0)
    states = []
    for _ in range(workers):
        state = memory.init(SEGMENTS)
        for key, value in state.items():
            if isinstance(value, list):
                draw = tf.constant(rng.integers(-64, 64, 12) / 8, tf.float32)
                state[key] = unpack(draw, SEGMENTS)
            else:
                state[key] = tf.constant(rng.integers(0, 9), tf.float32)
        states.append(state)
    if isinstance(memory, tem_tf.EF21):  # All workers have heard the same.
        for state in states:
            state["sum"] = states[0]["sum"]
    return states


@pytest.mark.parametrize(("before", "after"), [(2, 3), (4, 1), (1, 2), (3, 3)])
@pytest.mark.parametrize("name", KEEPING)
def test_what_workers_hold_together_stays_when_their_number_changes(
    name, before, after
):
    memory = KEEPING[name]
    old = dyadic_states(memory, before)
    new = memory.redistribute(old, after)
    assert len(new) == after
    for key in old[0]:
        shapes = tf.nest.map_structure(lambda leaf: leaf.shape, old[0][key])
        for state in new:
            assert tf.nest.map_structure(lambda leaf: leaf.shape, state[key]) == shapes
            # All have an equal share.
            np.testing.assert_array_equal(flat(state[key]), flat(new[0][key]))
        if key == "sum" and isinstance(memory, tem_tf.EF21):
            np.testing.assert_array_equal(flat(new[0][key]), flat(old[0][key]))
            continue
        held = sum(flat(state[key]) for state in new)
        expected = sum(flat(state[key]) for state in old)
        # Thirds are rounded.
        np.testing.assert_allclose(held, expected, rtol=1e-6)


def flat(value):
    return pack(value if isinstance(value, list) else [value]).numpy()


def test_without_memory_there_is_nothing_to_share():
    assert tem_tf.Memory().redistribute([{}, {}], 3) == [{}, {}, {}]


def test_what_was_shared_out_anew_is_the_new_workers_own():
    """A worker that changes its state changes no other's."""
    first, second = tem_tf.ErrorFeedback().redistribute(
        dyadic_states(tem_tf.ErrorFeedback(), 1), 2
    )
    first["residual"] = None
    assert second["residual"] is not None


def test_a_memory_may_keep_a_scalar():
    weights = keras.Variable([0.0, 0.0])
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.TopK(k=1), memory=CountsSteps()
    )
    for total in (1.0, 3.0, 6.0):
        optimizer.apply([tf.constant([0.5, 1.0])], [weights])
        np.testing.assert_array_equal(weights, [0.0, -total])
    optimizer.forget()
    optimizer.apply([tf.constant([0.5, 1.0])], [weights])
    np.testing.assert_array_equal(weights, [0.0, -7.0])


class OfShape(tem_tf.Memory):
    """Keeps what a function makes of the segments."""

    def __init__(self, value):
        object.__setattr__(self, "value", value)

    def init(self, segments):
        return {"kept": self.value(segments)}


@pytest.mark.parametrize(
    ("value", "received"),
    [
        (lambda segments: tf.zeros([2]), "(2,) where () was expected."),
        (
            lambda segments: [tf.zeros(s.shape) for s in segments],
            "(2, 3) where (6,) was expected.",
        ),
        (
            lambda segments: [tf.zeros([s.size + 1]) for s in segments],
            "(7,) where (6,) was expected.",
        ),
    ],
    ids=["vector", "shape", "length"],
)
def test_a_state_of_another_shape_is_refused_by_name(value, received):
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.TopK(k=1), memory=OfShape(value)
    )
    with pytest.raises(ValueError) as error:
        optimizer.build([keras.Variable(tf.zeros([2, 3]))])
    assert str(error.value) == (
        "A memory's state must hold scalars, and lists of a vector for each segment. "
        f"Received: OfShape.init()['kept'] of shape {received}"
    )


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_memory_is_serialisable(memory):
    config = keras.saving.serialize_keras_object(memory)
    assert keras.saving.deserialize_keras_object(config) == memory


def test_the_dict_of_names_has_every_memory():
    public = {kind for kind in vars(tem_tf).values() if isinstance(kind, type)}
    expected = {kind for kind in public if issubclass(kind, tem_tf.Memory)}
    assert set(memories.MEMORIES.values()) == expected - {tem_tf.Memory}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tem_tf.DecayingErrorFeedback(0), r"`decay` must be in \(0, 1\]"),
        (lambda: tem_tf.DecayingErrorFeedback("1"), r"`decay` must be in \(0, 1\]"),
        (lambda: tem_tf.MomentumCorrection(1), r"`momentum` must be in \[0, 1\)"),
        (lambda: tem_tf.MomentumCorrection(0.9, 1), "`masking` must be True or False"),
        (lambda: tem_tf.EF21SGDM(0), r"`momentum` must be in \(0, 1\]"),
        (lambda: tem_tf.EF21SGDM(True), r"`momentum` must be in \(0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
