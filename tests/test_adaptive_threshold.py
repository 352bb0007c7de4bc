"""Laws of AdaptiveThreshold: budget met, profile kept, one λ on all replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import simulation
from tem_tf.compressors import Heard
from tem_tf.layout import make_segments
from tests.closed_loop import SIZE, Training, best_constant
from tests.steps import apply_gradients
from tests.training import make_strategy


def gradients(steps, replicas, fall=0.0, size=60, scale=1.0):
    """Noise around a drift, its size falling as (1 + t)^-fall."""
    rng = np.random.default_rng(0)
    time = np.arange(1, steps + 1)[:, np.newaxis, np.newaxis]
    noise = rng.normal(size=(steps, replicas, size)) + 0.2 * rng.normal(size=size)
    return (scale * noise * time**-fall).astype(np.float32)


def run(compressor, rows):
    """(steps,) mean count of a worker, total error, and λ after each step."""
    workers, size = rows.shape[1:]
    segments = make_segments(["a"], [(size,)])

    @tf.function
    def step(t, row, residual, states):
        p = row + residual
        done = simulation.exchange(compressor, states, [p], t, segments, [row])
        return done.own[0], done.states

    residual = tf.zeros(rows.shape[1:])
    states = simulation.repeat(compressor.init(segments), workers)
    counts, error, thresholds = [], 0.0, []
    for t, row in enumerate(rows):
        sent, states = step(tf.constant(t, tf.int64), row, residual, states)
        residual = row + residual - sent
        counts.append(np.count_nonzero(sent) / workers)
        error += float(tf.reduce_sum(tf.square(residual))) / workers
        thresholds.append(float(states["threshold"][0]))
    return np.array(counts), error, np.array(thresholds)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
@pytest.mark.parametrize("fall", [0.0, 0.3])
def test_the_budget_of_the_run_is_met_at_any_scale(fall, scale):
    rows = gradients(400, 2, fall, scale=scale)
    counts, _, _ = run(tem_tf.AdaptiveThreshold(0.05, 400), rows)
    assert counts.sum() == pytest.approx(0.05 * 60 * 400, rel=0.05)


def test_the_profile_is_that_of_a_constant_threshold():
    """Where gradients are large for a while much is sent; Top-k sends the same.

    After the first quarter, in which λ is found.
    """
    rows = gradients(400, 2)
    large = np.arange(400) // 25 % 2 == 1
    rows[large] *= 3
    counts, _, thresholds = run(tem_tf.AdaptiveThreshold(0.05, 400), rows)
    constant = tem_tf.HardThreshold(float(np.median(thresholds)))
    expected, _ = run_constant(constant, rows)
    assert counts[large].mean() > 2 * counts[~large].mean()
    assert np.corrcoef(blocks(counts)[4:], blocks(expected)[4:])[0, 1] > 0.9
    # It moves slowly: by at most a tenth in one step, by construction.
    assert np.max(np.abs(np.diff(np.log(thresholds)))) <= 0.1 + 1e-9


def blocks(counts):
    return counts.reshape(-1, 25).mean(axis=1)


def run_constant(compressor, rows):
    residual, counts, error = np.zeros(rows.shape[1:], np.float32), [], 0.0
    for row in rows:
        p = row + residual
        mask = np.abs(p) >= compressor.threshold
        residual = np.where(mask, 0, p)
        counts.append(mask.sum() / len(row))
        error += np.sum(np.square(residual)) / len(row)
    return np.array(counts), error


@pytest.mark.parametrize(
    ("fall", "size", "density"), [(0.0, 60, 0.05), (0.3, 300, 0.01)]
)
def test_total_error_on_given_gradients_is_near_the_best_constants(fall, size, density):
    """Open loop; the best λ is found by bisection at the volume that was sent."""
    rows = gradients(400, 2, fall, size)
    counts, error, _ = run(tem_tf.AdaptiveThreshold(density, 400), rows)
    low, high = 0.01, 100.0
    for _ in range(25):
        middle = float(np.sqrt(low * high))
        sent, expected = run_constant(tem_tf.HardThreshold(middle), rows)
        low, high = (middle, high) if sent.sum() > counts.sum() else (low, middle)
    assert sent.sum() == pytest.approx(counts.sum(), rel=0.01)
    assert error <= 1.05 * expected


@pytest.mark.parametrize("replicas", [1, 2])
def test_all_replicas_hold_the_same_threshold(replicas):
    rows = gradients(6, replicas, size=12)
    rows *= np.arange(1, replicas + 1)[:, np.newaxis]  # Their norms differ.
    compressor = tem_tf.AdaptiveThreshold(0.3, steps=6)
    strategy = make_strategy(replicas)
    weights, optimizer = apply_gradients(strategy, rows / replicas, compressor)
    state = optimizer.aggregator.state
    names = [name for name in state._variables if name.startswith("compressor/")]
    assert len(names) == 6

    def read():
        return tf.stack([state.read(name) for name in names])

    held = strategy.experimental_local_results(strategy.run(read))
    for other in held[1:]:
        np.testing.assert_array_equal(held[0], other)
    for replica in range(replicas):
        np.testing.assert_array_equal(weights[:, 0], weights[:, replica])
    # In units of a worker's own gradient, whatever the number of workers.
    sent = optimizer.communication_summary()["entries_sent"]
    expected, _, _ = run(compressor, rows)
    assert sent == pytest.approx(expected.sum() * replicas, abs=2)


def test_the_first_threshold_follows_from_the_norms_of_all():
    compressor = tem_tf.AdaptiveThreshold(0.1, steps=10**6)
    rows = gradients(1, 3)
    _, _, thresholds = run(compressor, rows)
    norm = np.sqrt(np.mean(np.sum(rows[0] ** 2, axis=1)))
    # The first correction is by at most exp(0.1).
    assert abs(np.log(thresholds[0] / (0.7 * norm / np.sqrt(0.1 * 60)))) <= 0.1 + 1e-6


def test_nothing_is_sent_of_a_gradient_of_zeros():
    rows = np.zeros((5, 1, 60), np.float32)
    rows[3:] = gradients(2, 1)
    counts, _, thresholds = run(tem_tf.AdaptiveThreshold(0.1, steps=5), rows)
    assert counts[:3].tolist() == [0, 0, 0]
    assert thresholds[2] == 0 < thresholds[3]


def test_after_the_last_step_the_threshold_stays():
    _, _, thresholds = run(tem_tf.AdaptiveThreshold(0.1, 20), gradients(30, 1))
    assert len(set(thresholds[19:])) <= 2 and thresholds[18] != thresholds[17]


def test_a_dense_step_uses_up_budget_and_does_not_steer():
    compressor = tem_tf.AdaptiveThreshold(0.1, steps=100)
    segments = make_segments(["a"], [(60,)])
    row = tf.constant(gradients(1, 1)[0, 0])
    norm = compressor.share(compressor.init(segments), [row], 0, segments)
    dense = Heard([2 * row], tf.constant(120, tf.int64), 2, 2 * norm)
    state = compressor.init(segments)
    for step in range(5):
        state = compressor.observe(state, dense, tf.constant(step), segments)
    start = 0.7 * np.linalg.norm(row) / np.sqrt(0.1 * 60)
    assert float(state["threshold"]) == pytest.approx(start, rel=1e-6)
    assert float(state["sent"]) == 5 * 60
    few = dense._replace(entries=tf.constant(6, tf.int64))
    after = compressor.observe(state, few, tf.constant(5), segments)
    # 300 of the budget of 600 are gone, so λ rises.
    assert float(after["threshold"]) > start


def test_scaled_and_back_through_its_configuration():
    compressor = tem_tf.AdaptiveThreshold(0.1, 20)
    assert compressor.scaled(0.5).unit == 0.5
    config = keras.saving.serialize_keras_object(compressor)
    assert keras.saving.deserialize_keras_object(config) == compressor


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"density": 1.5}, r"`density` must be in \(0, 1\]"),
        ({"density": tem_tf.Ramp(1, 0.1, 3)}, "`density` must be a number"),
        ({"steps": 0}, "`steps` must be an integer >= 1"),
        ({"steps": 2.5}, "`steps` must be an integer >= 1"),
        ({"unit": 0}, "`unit` must be a finite number > 0"),
        ({"unit": tem_tf.Ramp(1, 2, 3)}, "`unit` must be a finite number > 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        tem_tf.AdaptiveThreshold(**{"density": 0.1, "steps": 10, **arguments})


@pytest.mark.slow
@pytest.mark.parametrize(("density", "steps"), [(0.05, 400), (0.01, 1000)])
def test_total_error_is_near_that_of_the_best_constant_threshold(density, steps):
    """A real training; the best λ is found in hindsight at the same volume."""
    adaptive = Training(tem_tf.AdaptiveThreshold(density, steps), steps).run()
    assert adaptive.volume == pytest.approx(density * SIZE * steps, rel=0.02)
    held = adaptive.thresholds[1:]
    np.testing.assert_array_equal(held, np.repeat(held[:, :1], held.shape[1], axis=1))
    best = best_constant(adaptive.volume, steps)
    assert adaptive.total_error <= 1.05 * best.total_error
