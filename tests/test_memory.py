"""Laws of error feedback, alone and with every compressor."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import memory as memories
from tem_tf.packing import make_segments
from tests.compressor_cases import COMPRESSORS

SEGMENTS = make_segments(["kernel", "bias"], [9, 3])


def run(compressor, memory, gradients):
    """Yields (corrected, sent, state) of each step of one worker."""
    state = memory.init(SEGMENTS)
    inner = compressor.init(SEGMENTS)
    for step, gradient in enumerate(gradients):
        corrected = memory.compensate(state, tf.constant(gradient))
        step = tf.constant(step, tf.int64)
        message, inner = compressor.compress(inner, corrected, step, SEGMENTS)
        sent = message.to_dense()
        state = memory.update(state, corrected, sent)
        yield corrected.numpy(), sent.numpy(), state


def gradients(steps=40, scale=1.0, size=12):
    rng = np.random.default_rng(0)
    return (scale * rng.normal(size=(steps, size))).astype(np.float32)


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_nothing_is_lost(compressor):
    for corrected, sent, state in run(compressor, tem_tf.ErrorFeedback(), gradients()):
        np.testing.assert_array_equal(sent + state["residual"].numpy(), corrected)


@pytest.mark.parametrize("threshold", [0.3, 1.0, 4.0])
def test_hard_threshold_bounds_the_residual(threshold):
    """max|m| < λ and ‖m‖² < dλ² at every step."""
    compressor = tem_tf.HardThreshold(threshold)
    steps = run(compressor, tem_tf.ErrorFeedback(), gradients(200))
    for _, _, state in steps:
        residual = state["residual"].numpy().astype(float)
        assert np.max(np.abs(residual)) < threshold
        assert np.sum(residual**2) < residual.size * threshold**2


def test_a_constant_gradient_is_sent_every_ceil_of_lambda_over_g_steps():
    """Dyadic values, so that the sums are exact."""
    g = np.float32([0.25, -0.5, 0.375, 1.0, 2.0, 0.125] * 2)
    period = [math.ceil(1.0 / abs(x)) for x in g]
    compressor = tem_tf.HardThreshold(1.0)
    steps = run(compressor, tem_tf.ErrorFeedback(), np.tile(g, (32, 1)))
    sent = np.stack([sent for _, sent, _ in steps])
    for entry, every in enumerate(period):
        expected = [step for step in range(32) if (step + 1) % every == 0]
        assert np.flatnonzero(sent[:, entry]).tolist() == expected


def test_without_memory_nothing_is_sent_below_the_threshold():
    small = gradients(50, scale=0.01)
    steps = list(run(tem_tf.HardThreshold(1.0), tem_tf.Memory(), small))
    assert not any(sent.any() for _, sent, _ in steps)
    steps = list(run(tem_tf.HardThreshold(0.05), tem_tf.ErrorFeedback(), small))
    assert any(sent.any() for _, sent, _ in steps)


def test_auto_is_error_feedback_for_lossy_compressors_only():
    assert memories.get("auto", lossless=False) == tem_tf.ErrorFeedback()
    assert memories.get("auto", lossless=True) is None
    assert memories.get(None, lossless=False) is None
    assert memories.get(tem_tf.ErrorFeedback(), True) == tem_tf.ErrorFeedback()
    with pytest.raises(ValueError, match='`memory` must be "auto", None or'):
        memories.get("none", lossless=False)


MEMORIES = {
    "error_feedback": tem_tf.ErrorFeedback(),
    "decaying": tem_tf.DecayingErrorFeedback(0.5),
    "dgc": tem_tf.MomentumCorrection(0.5),
    "dgc_unmasked": tem_tf.MomentumCorrection(0.75, masking=False),
    "ef21": tem_tf.EF21(),
    "ef21_sgdm": tem_tf.EF21SGDM(0.25),
}


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
    memory, rows = MEMORIES[name], gradients(30)
    state, directions = memory.init(SEGMENTS), []
    for step, row in enumerate(rows):
        p = memory.compensate(state, tf.constant(row))
        step = tf.constant(step, tf.int64)
        compressor = tem_tf.TopK(k=3, scope="model")
        sent = compressor.compress((), p, step, SEGMENTS)[0].to_dense()
        state = memory.update(state, p, sent)
        direction, state = memory.apply(state, sent)
        directions.append(direction.numpy())
    expected = transcribed(name, rows, 3)
    np.testing.assert_allclose(directions, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize("name", ["decaying", "dgc", "dgc_unmasked"])
def test_sent_and_residual_are_all_that_should_be_sent(name, compressor):
    for corrected, sent, state in run(compressor, MEMORIES[name], gradients(5)):
        np.testing.assert_array_equal(sent + state["residual"].numpy(), corrected)


def test_momentum_of_what_was_sent_is_masked():
    memory = tem_tf.MomentumCorrection(0.5)
    state = memory.init(SEGMENTS)
    p = memory.compensate(state, tf.ones([12]))
    sent = tf.constant([1.0] * 6 + [0.0] * 6)
    state = memory.update(state, p, sent)
    np.testing.assert_array_equal(state["velocity"], [0.0] * 6 + [1.0] * 6)
    # By hand: the sent start anew; of the others u = 0.5 + 1 is added to m = 1.
    p = memory.compensate(state, tf.ones([12]))
    np.testing.assert_array_equal(p, [1.0] * 6 + [2.5] * 6)


def test_special_cases_are_one_another():
    rows = gradients(10)
    for first, second in (
        (tem_tf.DecayingErrorFeedback(1.0), tem_tf.ErrorFeedback()),
        (tem_tf.MomentumCorrection(0.0), tem_tf.ErrorFeedback()),
        (tem_tf.EF21SGDM(1.0), tem_tf.EF21()),
    ):
        compressor = tem_tf.TopK(k=3, scope="model")
        both = (run(compressor, memory, rows) for memory in (first, second))
        for (_, sent, _), (_, expected, _) in zip(*both, strict=True):
            np.testing.assert_allclose(sent, expected, rtol=1e-5, atol=1e-6)


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
