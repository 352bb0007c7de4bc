"""Laws of tem_tf.Sign: one bit for each entry, and scales."""

import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.layout import make_segments
from tests.alone import step_alone

STEP = tf.constant(0, tf.int64)


def segments_of(*sizes):
    return make_segments([f"v{i}" for i in range(len(sizes))], [(n,) for n in sizes])


def signs_of(vectors):
    """What is sent of numpy vectors."""
    segments = segments_of(*map(len, vectors))
    corrected = [tf.constant(vector, tf.float32) for vector in vectors]
    return tem_tf.Sign().compress((), corrected, STEP, segments).message


def random_vectors(*sizes):
    rng = np.random.default_rng(len(sizes))
    return [rng.standard_normal(size).astype(np.float32) for size in sizes]


@pytest.mark.parametrize(
    "sizes", [(1,), (8,), (31,), (32,), (33,), (5, 0, 60), (64, 64), (1000, 3, 7)]
)
def test_the_words_are_scales_and_numpys_bits(sizes):
    vectors = random_vectors(*sizes)
    message = signs_of(vectors)
    words = message.encode().numpy()
    scales = [np.abs(v).mean() if len(v) else 0.0 for v in vectors]
    np.testing.assert_allclose(words[: len(sizes)].view(np.float32), scales, rtol=1e-6)
    bits = np.concatenate(vectors) > 0
    packed = np.packbits(np.pad(bits, (0, -len(bits) % 32)))
    np.testing.assert_array_equal(words[len(sizes) :].view(np.uint8), packed)


@pytest.mark.parametrize("sizes", [(1,), (31,), (32,), (33,), (5, 0, 60), (1000, 3, 7)])
def test_what_is_decoded_is_what_was_sent(sizes):
    message = signs_of(random_vectors(*sizes))
    other = signs_of([np.zeros(size, np.float32) for size in sizes])
    decoded = other.decode(message.encode())
    np.testing.assert_array_equal(decoded.positive, message.positive)
    np.testing.assert_array_equal(decoded.to_dense(), message.to_dense())
    assert decoded.to_dense().shape == (sum(sizes),)


def test_every_byte_is_decoded_as_numpy_does():
    everything = np.arange(256, dtype=np.uint8)
    message = signs_of([np.zeros(2048, np.float32)])
    words = np.concatenate([np.float32([1]).view(np.int32), everything.view(np.int32)])
    positive = message.decode(tf.constant(words)).positive
    np.testing.assert_array_equal(positive, np.unpackbits(everything))


def test_zeros_are_sent_as_negative():
    message = signs_of([np.float32([0.0, -0.0, 3.0])])
    np.testing.assert_array_equal(message.to_dense(), [-1.0, -1.0, 1.0])


def test_a_variable_of_zeros_stays_zero():
    vectors = [np.zeros(5, np.float32), np.float32([2.0, -4.0])]
    np.testing.assert_array_equal(signs_of(vectors).to_dense(), [0] * 5 + [3.0, -3.0])


def test_with_error_feedback_nothing_is_lost():
    """What was sent and the residual are the gradients' sum. Exact: multiples of 1/8.

    Four entries in the vector, so that a mean is exact, too.
    """
    rng = np.random.default_rng(0)
    gradients = rng.integers(-16, 17, size=(4, 4)) / 8
    segments, sent, residual = segments_of(4), 0.0, tf.zeros([4])
    for gradient in gradients:
        corrected = residual + tf.constant(gradient, tf.float32)
        step = step_alone(tem_tf.Sign(), (), [corrected], STEP, segments)
        residual, sent = corrected - step.dense, sent + step.dense
    np.testing.assert_array_equal(sent + residual, gradients.sum(axis=0))


def test_the_payload_of_resnet_18_is_a_bit_for_each_entry(monkeypatch):
    from tests.test_benchmarks import BENCHMARKS

    monkeypatch.syspath_prepend(BENCHMARKS)
    from resnet18 import resnet18_shapes

    variables = [tf.zeros(shape) for shape in resnet18_shapes()]
    aggregator = tem_tf.Aggregator(tem_tf.Sign())
    aggregator.build(variables, [f"v{i}" for i in range(len(variables))])
    aggregator.aggregate(variables, step=0)
    summary = aggregator.summaries()[0]
    sent = summary["payload_bytes"] + summary["padded_bytes"]
    entries = sum(int(tf.size(variable)) for variable in variables)
    assert entries == 11_173_962
    assert 1 < 8 * sent / entries < 1.05
