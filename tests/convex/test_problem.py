"""The problem: its minimum, its suboptimality, and the laws of a real run."""

import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

import tem_tf
from tem_studies.convex import data, methods, problem, simulation, splits
from tem_studies.refusal import Refusal
from tests.convex.problems import signed_rows, tiny


def loss(signed, l2, x):
    return np.logaddexp(0, -(signed @ x)).mean() + l2 / 2 * (x @ x)


def test_minimum_is_one_to_rounding():
    signed = signed_rows(200, 20)
    minimum = problem.minimise(signed)
    x = minimum.point
    gradient = minimum.l2 * x - signed.T @ expit(-(signed @ x)) / len(signed)
    # The gradient is a sum of 200 numbers of about 1/200: rounding is about 1e-17.
    assert np.linalg.norm(gradient) < 1e-15
    assert minimum.gradient_norm < 1e-15
    assert minimum.value == loss(signed, minimum.l2, x)


def test_smoothness_is_the_authors():
    signed = signed_rows(50, 8)
    minimum = problem.minimise(signed)
    greatest = np.linalg.eigvalsh(signed.T @ signed).max()
    np.testing.assert_allclose(minimum.smoothness, greatest / 200, rtol=1e-12)
    np.testing.assert_allclose(minimum.l2, minimum.smoothness / 1e4, rtol=1e-12)
    shared = tiny()
    total = shared.minimum.smoothness + shared.minimum.l2
    assert shared.step_size == 1 / total


@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e200])
def test_examples_whose_squares_leave_float64_are_refused(scale):
    with pytest.raises(Refusal, match="must not all be zero vectors, and their sq"):
        problem.minimise(scale * signed_rows(20, 3))


def test_singular_value_of_a_large_matrix_is_that_of_a_small_one():
    matrix = np.random.default_rng(0).normal(size=(260, 230))
    dense = np.linalg.norm(matrix, 2)
    found = problem.largest_singular_value(matrix)
    np.testing.assert_allclose(found, dense, rtol=1e-10)


def test_minimum_is_read_from_the_cache(tmp_path, monkeypatch):
    signed = signed_rows(40, 5)
    first = problem.minimise(signed, tmp_path)
    monkeypatch.setattr(problem, "_minimise", None)
    again = problem.minimise(signed, tmp_path)
    np.testing.assert_array_equal(first.point, again.point)
    assert first[1:] == again[1:]
    with pytest.raises(TypeError):  # other data is not taken from there
        problem.minimise(signed + 1, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_damaged_cache_is_made_again(tmp_path, share):
    signed = signed_rows(40, 5)
    first = problem.minimise(signed, tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    again = problem.minimise(signed, tmp_path)
    np.testing.assert_array_equal(first.point, again.point)
    assert file.read_bytes() == content


def test_suboptimality_copies_no_examples():
    signed = signed_rows(2000, 200)
    minimum = problem.Minimum(np.zeros(200), 0.0, 0.0, 1.0, 1e-4)
    shared = problem.share_out(signed, np.arange(2000).reshape(20, 100), minimum)
    tracemalloc.start()
    shared.suboptimality(np.zeros((1, 200)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < signed.nbytes / 2


def test_suboptimality_is_a_difference_of_losses():
    shared = tiny()
    minimum, signed = shared.minimum, shared.signed.numpy().reshape(-1, 7)
    generator = np.random.default_rng(0)
    points = minimum.point + generator.normal(size=(300, 7))
    wanted = [loss(signed, minimum.l2, x) - minimum.value for x in points]
    np.testing.assert_allclose(shared.suboptimality(points), wanted, rtol=1e-10)


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-9])
def test_suboptimality_near_the_minimum_is_the_quadratic_form(size):
    # Where the difference of two losses is rounding alone.
    shared = tiny()
    minimum, signed = shared.minimum, shared.signed.numpy().reshape(-1, 7)
    x = minimum.point + size * np.ones(7)
    step = x - minimum.point
    weight = expit(signed @ minimum.point)
    curvature = weight * (1 - weight)
    wanted = np.mean(curvature * (signed @ step) ** 2) / 2
    wanted += minimum.l2 / 2 * (step @ step)
    found = shared.suboptimality(x[np.newaxis])[0]
    np.testing.assert_allclose(found, wanted, rtol=10 * size + 1e-10)


@pytest.mark.parametrize(("outlier", "margin"), [(1000, 1000), (-60, -80)])
def test_suboptimality_where_an_example_is_far_out(outlier, margin):
    # exp(margin) is beyond float64, or q = 1 - exp(margin) rounds to 1.
    generator = np.random.default_rng(0)
    signed = generator.normal([1, 0], 0.1, size=(400, 2))
    signed[-1] = outlier, 0
    minimum = problem.minimise(signed)
    far = signed[-1] @ minimum.point
    assert abs(far) > abs(margin) and far * margin > 0
    shared = problem.share_out(signed, np.arange(400).reshape(20, 20), minimum)
    points = np.concatenate([np.zeros((1, 2)), generator.normal(size=(50, 2))])
    wanted = [loss(signed, minimum.l2, x) - minimum.value for x in points]
    np.testing.assert_allclose(shared.suboptimality(points), wanted, rtol=1e-10)


# ---------------------------------------------------------------- the laws of real runs


def real_run(threshold, iterations=1500, **more):
    """EC-SGD on scikit-learn's breast-cancer over 20 workers, every iteration."""
    loaded = data.load("breast-cancer")
    shares = splits.share(loaded.labels, 20, "shuffled", 0)
    signed = loaded.signed
    minimum = problem.minimise(signed[splits.kept(len(signed), 20)])
    shared = problem.share_out(signed, shares, minimum)
    trace = simulation.run(
        shared,
        methods.METHODS["ec-sgd"],
        tem_tf.HardThreshold(threshold),
        start=np.zeros(30),
        iterations=iterations,
        interval=1,
        **more,
    )
    return shared, trace


def test_residual_stays_below_the_threshold_at_every_iteration():
    threshold = 0.05
    _, trace = real_run(threshold)
    assert trace.residual_max[1:].max() < threshold
    assert trace.error_max[1:].max() < 30 * threshold**2
    # Neither bound is far: the law says something here.
    assert trace.residual_max[1:].max() > 0.95 * threshold
    assert trace.error_max[1:].max() > 0.3 * 30 * threshold**2


def test_residual_settles_between_a_sixth_and_a_third_of_its_bound():
    # Where entries drift through (-λ, λ): a third if they jump about, as those of a
    # uniform residual; a sixth if they move from 0 by small steps either way.
    threshold = 0.05
    _, trace = real_run(threshold, 3000)
    plateau = trace.error[1500:].mean() / (30 * threshold**2)
    assert 1 / 6 < plateau < 1 / 3


def test_threshold_has_the_least_total_error_on_a_recorded_sequence():
    generator = np.random.default_rng(2)
    # Gradients whose size falls, as those of a run do.
    scale = np.geomspace(3, 0.3, 60)[:, np.newaxis]
    sequence = tf.constant(scale * generator.normal(size=(60, 40)))
    threshold = 1.0
    mask = np.abs(sequence) >= threshold
    volume = int(mask.sum())
    error = float(np.sum(np.where(mask, 0, sequence) ** 2))
    for k in (volume // 60, volume // 60 + 1):  # one of less volume, one of more
        compressor = tem_tf.TopK(k=k)
        segments = simulation.check_compressor(compressor, 40)
        other = 0.0
        for t, row in enumerate(sequence):
            asked = compressor.compress((), [row], tf.constant(t), segments)
            held_back = row - asked.message.to_dense()
            other += float(tf.reduce_sum(held_back**2))
        if 60 * k <= volume:
            assert error < other
    # At equal volume, the k of the mean with its fraction spread over the steps.
    k = np.diff(volume * np.arange(61) // 60)
    assert k.sum() == volume
    ordered = -np.sort(-np.abs(sequence.numpy()), axis=1)
    other = sum(float((ordered[t, k[t] :] ** 2).sum()) for t in range(60))
    assert error < other


def test_diverging_run_is_cut_where_it_diverges():
    _, trace = real_run(1e-3, 200, step_size=1e6)
    assert trace.status == "diverged"
    assert len(trace.step) < 201
    for name, column in trace.columns().items():
        assert len(column) == len(trace.step), name
        assert np.isfinite(column[1:]).all(), name


def test_same_seed_gives_the_same_run():
    _, first = real_run(0.05, 100, seed=3)
    _, again = real_run(0.05, 100, seed=3)
    _, other = real_run(0.05, 100, seed=4)
    np.testing.assert_array_equal(first.point, again.point)
    assert (first.point != other.point).any()


def test_bits_and_epochs_are_those_of_what_was_sent():
    _, trace = real_run(0.05, 100)
    sent = np.cumsum(trace.schedule.mean(axis=1))
    steps = np.arange(1, 101)
    np.testing.assert_allclose(trace.bits[1:], 32 * sent, rtol=1e-12)
    words = 2 * sent + 6 * steps  # index and value; the header
    np.testing.assert_allclose(trace.encoded_bits[1:], 32 * words, rtol=1e-12)
    np.testing.assert_allclose(trace.epochs[1:], steps / 28, rtol=1e-12)
    np.testing.assert_allclose(
        trace.total_error[1:], np.cumsum(trace.error[1:]), rtol=1e-12
    )
