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


def test_memory_is_serialisable():
    config = keras.saving.serialize_keras_object(tem_tf.ErrorFeedback())
    assert keras.saving.deserialize_keras_object(config) == tem_tf.ErrorFeedback()
