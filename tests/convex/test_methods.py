"""Every method against its plain transcription, and what its mathematics says."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_studies.convex import methods, schedules, simulation
from tests.compressor_cases import COMPRESSORS, EveryOther
from tests.convex import transcription
from tests.convex.problems import tiny

ITERATIONS = 40
# name -> (the plugin's object, its transcription for a threshold)
PAIRS = {
    "identity": (tem_tf.Identity(), lambda threshold: transcription.identity),
    "hard_threshold": (tem_tf.HardThreshold(0.05), transcription.hard_threshold),
    "topk": (tem_tf.TopK(k=2), lambda threshold: transcription.top_k(2)),
}


def well_posed():
    """A problem of condition 20 instead of 10,000: a rate that can be waited for."""
    return tiny(l2_factor=0.05)


def simulate(name, compressor, iterations=ITERATIONS, interval=1, problem=None, **more):
    problem = problem or tiny()
    start = more.pop("start", problem.minimum.point + 0.5)
    return simulation.run(
        problem,
        methods.METHODS[name],
        compressor,
        start=start,
        iterations=iterations,
        interval=interval,
        **more,
    )


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("name", methods.METHODS)
def test_method_is_its_transcription(name, pair):
    problem, seed = tiny(), 5
    # EF21 compresses gradients; a threshold is in units of γ times them.
    unit = problem.step_size if name == "ef21-sgdm" else 1.0
    compressor, plain = pair[0], pair[1](0.05 / unit)
    drawn = simulation.draws(methods.METHODS[name], problem, ITERATIONS, seed)
    rows = (problem.workers, problem.dimension)
    uniform = [
        tf.random.stateless_uniform(rows, [seed, t], dtype=tf.float64).numpy()
        for t in range(ITERATIONS)
    ]
    points, entries, residual = transcription.run(
        name,
        problem.signed.numpy(),
        problem.minimum.l2,
        problem.step_size,
        problem.minimum.point,
        problem.minimum.point + 0.5,
        plain,
        drawn.example,
        drawn.renews,
        np.array(uniform),
    )
    trace = simulate(name, compressor, seed=seed)
    # 1e-12: forty iterations of sums in another order, of numbers of about one.
    distance = np.sum((points - problem.minimum.point) ** 2, axis=1)
    np.testing.assert_allclose(trace.squared_distance[1:], distance, atol=1e-12)
    np.testing.assert_allclose(trace.point, points[-1], rtol=0, atol=1e-12)
    if name != "ef21-sgdm":
        error = np.mean(np.sum(residual**2, axis=1))
        np.testing.assert_allclose(trace.error[-1], error, atol=1e-12)
    if not compressor.lossless:
        np.testing.assert_array_equal(trace.schedule, entries)


def test_ec_sgd_with_identity_is_sgd_exactly():
    problem = tiny(workers=1)
    trace = simulate("ec-sgd", tem_tf.Identity(), problem=problem, seed=3)
    drawn = simulation.draws(methods.METHODS["ec-sgd"], problem, ITERATIONS, 3)
    setting = methods.Setting(
        problem.signed,
        tf.constant(problem.minimum.l2, tf.float64),
        tf.constant(problem.step_size, tf.float64),
        tf.zeros([1, problem.dimension], tf.float64),
        tf.constant(0),
    )
    x = tf.constant(problem.minimum.point + 0.5)
    for t in range(ITERATIONS):
        g = methods.example_gradients(setting.signed, setting.l2, x, drawn.example[t])
        x = x - setting.step_size * g[0]
    np.testing.assert_array_equal(trace.point, x)  # bit for bit
    assert trace.residual_max[1:].max() == 0
    assert trace.total_error[-1] == 0


@pytest.mark.parametrize("compressor", [tem_tf.Identity(), tem_tf.TopK(k=2)])
def test_one_local_step_is_ec_sgd(compressor):
    problem = tiny()
    one = dataclasses.replace(methods.METHODS["ec-local-sgd"], local_steps=1)
    settings = {"start": np.zeros(problem.dimension), "iterations": 40, "interval": 40}
    local = simulation.run(problem, one, compressor, **settings)
    every = simulation.run(problem, methods.METHODS["ec-sgd"], compressor, **settings)
    # What has moved is a difference of two points, so that it is rounded once more.
    np.testing.assert_allclose(local.point, every.point, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(local.schedule, every.schedule)


def test_local_steps_send_once_in_so_many():
    schedule = simulate("ec-local-sgd", tem_tf.TopK(k=2)).schedule
    sent = schedule.sum(axis=1) > 0
    np.testing.assert_array_equal(sent, np.arange(1, ITERATIONS + 1) % 10 == 0)


def test_ec_gd_star_converges_linearly_to_machine_precision():
    trace = simulate("ec-gd-star", tem_tf.TopK(k=2), 3000, 50, problem=well_posed())
    # ‖x - x*‖² falls to the square of one rounding of x, 1e-16.
    assert trace.squared_distance[-1] < 1e-30 * trace.squared_distance[0]
    # A straight line in the logarithm, up to where rounding begins.
    upto = int(np.argmax(trace.squared_distance < 1e-24))
    logarithm = np.log(trace.squared_distance[1:upto])
    slope = np.diff(logarithm[:: max(len(logarithm) // 5, 1)])
    assert slope.max() < 0
    assert slope.min() > 2.5 * slope.max()


@pytest.mark.parametrize(
    ("noisy", "quiet", "compressor"),
    [
        # What differs between examples, then what differs between workers, then both.
        ("ec-sgd", "ec-lsvrg", tem_tf.Identity()),
        ("ec-gd", "ec-gd-diana", tem_tf.TopK(k=2)),
        ("ec-sgd", "ec-lsvrg-diana", tem_tf.TopK(k=2)),
        # DIANA alone leaves what differs between examples.
        ("ec-sgd-diana", "ec-lsvrg-diana", tem_tf.TopK(k=2)),
    ],
)
def test_noise_vanishes_with_diana_and_lsvrg(noisy, quiet, compressor):
    more = {"iterations": 4000, "interval": 100, "problem": well_posed()}
    floor = simulate(noisy, compressor, **more).suboptimality
    below = simulate(quiet, compressor, **more).suboptimality
    # The one rests where it was long before; the other goes down to rounding, 1e-32.
    assert floor[-10:].mean() > 0.2 * floor[10:20].mean()
    assert floor[-10:].min() > 1e-8
    assert below[-1] < 1e-28


def test_dithering_is_unbiased_with_its_variance():
    x = tf.constant([[3.0, -1.0, 0.0, 0.5]], tf.float64)
    draws = 40_000
    uniform = tf.random.stateless_uniform([draws, 4], [0, 1], dtype=tf.float64)
    samples = methods.dither(tf.repeat(x, draws, axis=0), uniform).numpy()
    x = x.numpy()
    norm, norm1 = np.linalg.norm(x), np.abs(x).sum()
    variance = norm * norm1 - norm**2
    # Five standard errors of a mean of independent draws.
    standard_error = np.sqrt(variance / draws)
    np.testing.assert_allclose(samples.mean(axis=0), x[0], atol=5 * standard_error)
    squared = ((samples - x) ** 2).sum(axis=1)
    assert abs(squared.mean() - variance) < 5 * squared.std() / np.sqrt(draws)
    assert not methods.dither(tf.zeros([1, 4], tf.float64), uniform[:1]).numpy().any()


def test_dithering_never_exceeds_the_variance_that_sets_alpha():
    x = np.random.default_rng(0).normal(size=50)
    norm = np.linalg.norm(x)
    omega = 1 / methods.shift_rate(50) - 1
    assert norm * np.abs(x).sum() - norm**2 <= omega * norm**2


# ------------------------------------------------- the plugin's objects in float64 rows


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_every_compressor_of_the_plugin_runs_here(compressor):
    trace = simulate("ec-sgd", compressor, 4)
    assert np.isfinite(trace.suboptimality).all()


def test_stateful_compressor_keeps_its_state():
    trace = simulate("ec-gd", EveryOther(), 6, problem=tiny())
    # d = 7: even entries are four, odd ones three.
    np.testing.assert_array_equal(trace.entries[1:], [4, 3, 4, 3, 4, 3])


def test_scheduled_topk_sends_its_schedule():
    schedule = np.random.default_rng(0).integers(0, 8, (ITERATIONS, 3))
    trace = simulate("ec-sgd", tem_tf.Identity(), schedule=schedule)
    np.testing.assert_array_equal(trace.schedule, schedule)


def test_constant_schedule_is_topk():
    schedule = np.full((ITERATIONS, 3), 2)
    scheduled = simulate("ec-sgd", tem_tf.Identity(), schedule=schedule)
    constant = simulate("ec-sgd", tem_tf.TopK(k=2))
    np.testing.assert_array_equal(scheduled.point, constant.point)


def test_replay_worker_by_worker_is_the_hard_threshold():
    threshold = simulate("ec-sgd", tem_tf.HardThreshold(0.1))
    again = simulate("ec-sgd", tem_tf.Identity(), schedule=threshold.schedule)
    np.testing.assert_array_equal(again.point, threshold.point)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_schedules_have_the_volume_they_copy(name):
    entries = np.random.default_rng(1).integers(0, 9, (50, 4))
    schedule = schedules.SCHEDULES[name](entries, 9)
    assert set(schedule.sum(axis=0)) == {entries.sum() // 4}
    assert schedule.min() >= 0 and schedule.max() <= 9


def test_schedules_differ_as_they_say():
    entries = np.array([[9, 9], [3, 2], [0, 1], [0, 4]])
    wanted = {
        "topk_equal": [3, 4, 3, 4],
        "topk_replay": [9, 2, 1, 2],
        "topk_warmup": [9, 1, 2, 2],
    }
    for name, schedule in wanted.items():
        made = schedules.SCHEDULES[name](entries, 9)
        np.testing.assert_array_equal(made, np.transpose([schedule, schedule]))
