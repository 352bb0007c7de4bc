"""Laws of tem_tf.PowerSGD: matrices travel as products of narrow ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import simulation
from tem_tf.compressors.low_rank import _orthonormal
from tem_tf.layout import make_segments
from tests.alone import step_alone

STEP = tf.constant(0, tf.int64)
KERNEL = make_segments(["kernel"], [(3, 4, 10)])  # A matrix (12, 10).


def random(*shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return values.astype(np.float32)


def off_identity(basis):
    basis = basis.numpy().astype(np.float64)
    return np.abs(basis.T @ basis - np.eye(basis.shape[1])).max()


def steps_on(matrix, compressor, steps, segments=KERNEL):
    """Σ own of each step on the same matrix, without memory."""
    state, sent = compressor.init(segments), []
    for _ in range(steps):
        corrected = [tf.constant(matrix.reshape(-1))]
        step = step_alone(compressor, state, corrected, STEP, segments)
        state = step.state
        sent.append(step.dense.numpy().reshape(matrix.shape))
    return sent


@pytest.mark.parametrize("condition", [1e0, 1e3, 1e5, 1e7])
@pytest.mark.parametrize("rows", [4, 30, 4608])
def test_a_basis_is_orthonormal(rows, condition):
    left, _ = np.linalg.qr(random(rows, 4).astype(np.float64))
    right, _ = np.linalg.qr(random(4, 4, seed=1).astype(np.float64))
    values = np.logspace(0, -np.log10(condition), 4)
    matrix = tf.constant(left * values @ right, tf.float32)
    assert off_identity(_orthonormal(matrix)) < 1e-5  # float32: 60 units.


@pytest.mark.parametrize("matrix", [np.zeros((30, 4)), np.ones((30, 4))])
def test_a_basis_is_orthonormal_where_columns_are_dependent(matrix):
    assert off_identity(_orthonormal(tf.constant(matrix, tf.float32))) < 1e-5


def test_a_variable_of_zeros_is_no_end():
    """Its total is zero, and from there the iteration finds what comes next."""
    compressor = tem_tf.PowerSGD(2)
    state = compressor.init(KERNEL)
    zeros = step_alone(compressor, state, [tf.zeros([120])], STEP, KERNEL)
    np.testing.assert_array_equal(zeros.total[0], np.zeros(120))
    matrix = random(12, 2) @ random(2, 10, seed=1)
    state, corrected = zeros.state, [tf.constant(matrix.reshape(-1))]
    for _ in range(3):
        step = step_alone(compressor, state, corrected, STEP, KERNEL)
        state = step.state
    np.testing.assert_allclose(step.dense, corrected[0], atol=1e-5)


def test_what_leaves_the_workers_is_the_total():
    """Σ own = total, to the rounding of sums of some ten numbers of size 1 to 10."""
    workers, compressor = 3, tem_tf.PowerSGD(2)
    segments = make_segments(["kernel", "bias", "dense"], [(3, 4, 10), (7,), (9, 8)])
    states = simulation.repeat(compressor.init(segments), workers)
    for seed in range(3):
        corrected = [
            tf.constant(random(workers, segment.size, seed=10 * seed + i))
            for i, segment in enumerate(segments)
        ]
        got = simulation.exchange(compressor, states, corrected, STEP, segments)
        states = got.states
        for own, total in zip(got.own, got.total, strict=True):
            np.testing.assert_allclose(np.sum(own, axis=0), total, atol=2e-5)


def test_the_total_is_the_same_on_all_workers_whose_states_are():
    workers, compressor = 3, tem_tf.PowerSGD(2)
    states = simulation.repeat(compressor.init(KERNEL), workers)
    corrected = [tf.constant(random(workers, 120))]
    states = simulation.exchange(compressor, states, corrected, STEP, KERNEL).states
    for rows in states:
        assert np.ptp(rows, axis=0).max() == 0


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_matrix_of_this_rank_is_sent_whole_by_the_second_step(rank):
    matrix = random(12, rank) @ random(rank, 10, seed=1)
    sent = steps_on(matrix, tem_tf.PowerSGD(rank), 2)[-1]
    np.testing.assert_allclose(sent, matrix, atol=1e-5)


def test_a_warm_start_lowers_the_error_down_to_the_least_of_this_rank():
    matrix = random(12, 10)
    errors = [
        np.linalg.norm(matrix - sent)
        for sent in steps_on(matrix, tem_tf.PowerSGD(2), 60)
    ]
    assert all(b <= a + 1e-5 for a, b in zip(errors[:-1], errors[1:], strict=True))
    least = np.linalg.norm(np.linalg.svd(matrix, compute_uv=False)[2:])
    assert errors[0] > 1.02 * least
    assert errors[-1] == pytest.approx(least, rel=1e-3)


def test_vectors_and_matrices_that_would_not_shrink_go_whole():
    # 2 (n + m) < n·m: 2·(5 + 3) = 16 > 15, 2·(5 + 4) = 18 < 20.
    shapes = [(50,), (), (5, 3), (5, 4)]
    segments = make_segments(["bias", "scalar", "small", "matrix"], shapes)
    compressor = tem_tf.PowerSGD(2)
    (start,) = compressor.init(segments)
    assert start.shape == (4, 2)
    corrected = [tf.constant(random(s.size, seed=i)) for i, s in enumerate(segments)]
    step = step_alone(compressor, [start], corrected, STEP, segments)
    for own, gradient in list(zip(step.own, corrected, strict=True))[:3]:
        np.testing.assert_array_equal(own, gradient)
    assert np.linalg.norm(step.own[3] - corrected[3]) > 0.1


def test_numbers_that_are_sent_are_those_of_the_factors():
    aggregator = tem_tf.Aggregator(tem_tf.PowerSGD(2))
    aggregator.build([tf.zeros([3, 4, 10]), tf.zeros([7])], ["kernel", "bias"])
    aggregator.aggregate([tf.ones([3, 4, 10]), tf.ones([7])], step=0)
    sent = aggregator.summaries()[0]["payload_bytes"] / 4
    # And two flags with each of two sums.
    assert sent == 2 * (12 + 10) + 7 + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "`rank` must be an integer >= 1. Received: rank=0"),
        ({"rank": 1.5}, "`rank` must be an integer >= 1. Received: rank=1.5"),
        ({"rank": True}, "`rank` must be an integer >= 1. Received: rank=True"),
        ({"seed": -1}, "`seed` must be an integer >= 0. Received: seed=-1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError) as error:
        tem_tf.PowerSGD(**arguments)
    assert str(error.value) == message


def test_a_configuration_makes_the_same_compressor():
    compressor = tem_tf.PowerSGD(3, seed=5)
    saved = keras.saving.serialize_keras_object(compressor)
    assert keras.saving.deserialize_keras_object(saved) == compressor
    same, other = compressor.init(KERNEL), tem_tf.PowerSGD(3, seed=6).init(KERNEL)
    np.testing.assert_array_equal(same[0], compressor.init(KERNEL)[0])
    assert np.abs(same[0] - other[0]).max() > 0.1
