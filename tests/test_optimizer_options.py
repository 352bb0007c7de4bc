"""The wrapper's own options, in numbers that can be followed by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tests.training import apply_steps, fit, make_model, thresholded

graph_or_eager = pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])


def test_dense_below_sends_small_variables_whole():
    small, large = keras.Variable([0.0, 0.0]), keras.Variable([0.0, 0.0, 0.0])
    optimizer = thresholded(dense_below=3)
    optimizer.apply(
        [tf.constant([0.125, 0.25]), tf.constant([0.125, 1.0, 0.25])], [small, large]
    )
    np.testing.assert_array_equal(small.numpy(), [-0.125, -0.25])
    np.testing.assert_array_equal(large.numpy(), [0, -1, 0])
    summary = optimizer.communication_summary()
    assert summary["entries_sent"] == 3
    assert summary["residual_max"] == 0.25  # Of the large one alone.


def test_dense_below_may_take_in_all_variables():
    history, optimizer = apply_steps(
        lambda: thresholded(dense_below=100), [[[0.125, 0.25]], [[0.125, 0.25]]]
    )
    np.testing.assert_array_equal(history, [[-0.125, -0.25], [-0.25, -0.5]])
    assert optimizer.communication_summary()["density"] == 1.0


@graph_or_eager
@pytest.mark.parametrize("replicas", [1, 2])
def test_warmup_is_plain_keras_until_its_step(replicas, graph):
    gradients = np.random.default_rng(0).normal(size=(4, replicas, 5))
    expected, _ = apply_steps(lambda: keras.optimizers.Adam(0.1), gradients, graph)

    def warmed_up():
        inner, compressor = keras.optimizers.Adam(0.1), tem_tf.HardThreshold(1e9)
        return tem_tf.SparsifiedOptimizer(inner, compressor, warmup_steps=2)

    history, optimizer = apply_steps(warmed_up, gradients, graph)
    np.testing.assert_array_equal(history[:2], expected[:2])
    assert np.all(history[2:] != expected[2:])
    summary = optimizer.communication_summary()
    assert summary["entries_sent"] == 2 * 5 * replicas  # Nothing after warm-up.
    held_back = np.linalg.norm(gradients[2:].sum(axis=0) * replicas, axis=1)
    expected_norm = np.sqrt(np.mean(held_back**2))
    assert summary["residual_norm"] == pytest.approx(expected_norm, rel=1e-6)


# What two workers computed: norms 5 and 0.5.
OWN = np.array([[3.0, 4.0], [0.0, 0.5]])


def test_local_clipnorm_bounds_each_workers_own_gradient():
    def clipped():
        return thresholded(threshold=1e-6, local_clipnorm=2.5)

    history, optimizer = apply_steps(clipped, [OWN / 2])
    # (1.5, 2.0) and (0.0, 0.5), of which Keras takes the mean.
    np.testing.assert_array_equal(history, [[-0.75, -1.25]])
    norm = optimizer.communication_summary()["gradient_norm"]  # Before clipping.
    assert norm == pytest.approx(np.sqrt((5**2 + 0.5**2) / 2), rel=1e-6)


def test_local_clipnorm_bounds_a_dense_gradient_too():
    def clipped():
        return tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(1.0), tem_tf.Identity(), local_clipnorm=2.5
        )

    history, _ = apply_steps(clipped, [OWN / 2])
    np.testing.assert_array_equal(history, [[-0.75, -1.25]])


def test_gradients_that_keras_has_not_divided_are_taken_as_they_are():
    def undivided():
        return thresholded(
            threshold=1e-6, local_clipnorm=2.5, gradients_divided_by_replicas=False
        )

    history, _ = apply_steps(undivided, [OWN])
    np.testing.assert_array_equal(history, [[-1.5, -2.5]])


@pytest.mark.parametrize(
    ("divided", "sent"), [(True, [0, -1.25]), (False, [0, 0])], ids=["yes", "no"]
)
def test_the_threshold_is_in_units_of_the_own_gradient(divided, sent):
    def optimizer():
        return thresholded(threshold=1.0, gradients_divided_by_replicas=divided)

    # Divided by two, so the own gradients were 0.75 and 1.25.
    history, _ = apply_steps(optimizer, [[[0.375, 0.625], [0.375, 0.625]]])
    np.testing.assert_array_equal(history, [sent])


@graph_or_eager
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_gradient_that_is_not_finite_ends_the_run(replicas, bad, graph):
    gradients = np.ones((1, replicas, 2))
    gradients[0, -1, 1] = bad  # On one replica.
    with pytest.raises(tf.errors.InvalidArgumentError, match="has NaN or Inf"):
        apply_steps(thresholded, gradients, graph)


def test_a_gradient_that_is_not_finite_ends_fit():
    model = make_model(thresholded())
    model.layers[0].kernel.assign(np.full((3, 2), np.nan))
    with pytest.raises(tf.errors.InvalidArgumentError, match="has NaN or Inf"):
        fit(model)


@graph_or_eager
def test_a_gradient_that_is_not_finite_may_count_as_zero(graph):
    gradients = [[[0.25, np.nan], [0.5, 0.125]], [[0.25, 0.25], [0.0, 0.25]]]
    history, optimizer = apply_steps(
        lambda: thresholded(nonfinite="zero"), gradients, graph
    )
    # The whole of the first worker's gradient is dropped, and no residual is spoilt:
    # 0.125 + 0.25 is sent at the second step.
    np.testing.assert_array_equal(history, [[-0.5, 0.0], [-0.75, -0.625]])
    assert optimizer.communication_summary()["nonfinite_gradients"] == 1


def test_without_compression_nothing_is_checked():
    def identity():
        return tem_tf.SparsifiedOptimizer("sgd", tem_tf.Identity())

    history, _ = apply_steps(identity, [[[np.nan, 1.0]]])
    assert np.isnan(history[0, 0])
