"""Training with the native kernels gives the bits that it gives without."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tests.compressor_cases import COMPRESSORS, ErrorFeedback21, EveryOther
from tests.native_cases import needs_native
from tests.steps import apply_gradients, residuals
from tests.training import make_strategy

pytestmark = needs_native

FAST = {
    name: compressor
    for name, compressor in COMPRESSORS.items()
    if type(compressor)
    in (
        *(tem_tf.HardThreshold, tem_tf.AdaptiveThreshold),
        *(tem_tf.TopK, tem_tf.TopKSchedule, tem_tf.Accordion, tem_tf.RandomK),
    )
}
CASES = [
    *((name, {}) for name in FAST),
    ("hard_threshold", {"dense_below": 20}),
    ("random_k", {"dense_below": 20}),
    ("hard_threshold", {"nonfinite": "zero", "dense_below": 20}),
    ("adaptive_threshold", {"nonfinite": "zero", "dense_below": 20}),
]


def gradients_for(replicas, options, steps=4, size=50):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(steps, replicas, size))
    if options.get("nonfinite") == "zero":
        gradients[1, -1, 3] = np.nan
    return gradients


@pytest.mark.parametrize(
    ("replicas", "graph"),
    [
        (1, True),
        pytest.param(2, True, marks=pytest.mark.slow),
        pytest.param(2, False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_weights_residuals_and_counts(monkeypatch, name, options, replicas, graph):
    gradients = gradients_for(replicas, options)
    outcomes = []
    for mode in ("built", "0"):
        monkeypatch.setenv("TEM_TF_NATIVE", mode)
        weights, optimizer = apply_gradients(
            make_strategy(replicas), gradients, FAST[name], graph, **options
        )
        held = residuals(make_strategy(replicas), optimizer)
        outcomes.append((weights, held, optimizer.communication_summary()))
    (weights, held, summary), (others, their_held, their_summary) = outcomes
    np.testing.assert_array_equal(weights.view(np.uint32), others.view(np.uint32))
    np.testing.assert_array_equal(held.view(np.uint32), their_held.view(np.uint32))
    for key, value in summary.items():
        # Norms are summed in another order.
        assert value == pytest.approx(their_summary[key], rel=1e-5, abs=1e-12), key


def native_ops(compressor, gradient=None, **options):
    """Types of our own ops in the graph of one step, but for those of the wire."""
    weights = keras.Variable(tf.zeros([8]))
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), compressor, **options
    )
    optimizer.build([weights])
    gradient = tf.ones([8]) if gradient is None else gradient

    @tf.function
    def step():
        optimizer.apply([gradient], [weights])

    types = set()
    graph = step.get_concrete_function().graph
    for operation in graph.get_operations():
        types.add(operation.type)
    wire = {"TemTfEncode", "TemTfDecode"}
    return {name for name in types - wire if name.startswith("TemTf")}


@pytest.mark.parametrize(
    ("compressor", "op"),
    [
        (tem_tf.HardThreshold(0.1), "TemTfSelectThreshold"),
        (tem_tf.AdaptiveThreshold(0.1, 5), "TemTfSelectThreshold"),
        (tem_tf.TopK(k=1), "TemTfSelectTopK"),
        (tem_tf.TopKSchedule([2, 0]), "TemTfSelectTopK"),
        (tem_tf.Accordion(0.2, 0.5, 2), "TemTfSelectTopK"),
        (tem_tf.RandomK(0.1), "TemTfSelectGiven"),
    ],
)
def test_the_kernels_are_taken_where_they_can_be(monkeypatch, compressor, op):
    assert native_ops(compressor) == {op, "TemTfSumMessages"}
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    assert native_ops(compressor) == set()


@pytest.mark.parametrize(
    ("compressor", "options"),
    [
        (EveryOther(), {}),
        (tem_tf.TopK(k=1), {"memory": None}),
        (tem_tf.TopK(k=1), {"memory": ErrorFeedback21()}),
        (tem_tf.Identity(), {"memory": tem_tf.ErrorFeedback()}),
        (tem_tf.TopK(k=1), {"dense_below": 100}),
        (tem_tf.TopK(k=1), {"warmup_steps": 1}),
        (tem_tf.TopK(k=1), {"local_clipnorm": 1.0}),
        (tem_tf.TopK(k=1), {"value_dtype": "bfloat16"}),
    ],
    ids=repr,
)
def test_the_operations_are_taken_elsewhere(compressor, options):
    assert native_ops(compressor, **options) == set()


def train_other_kinds():
    """Embeddings' slices with a repeated row, and bfloat16; returns the weights."""
    rng = np.random.default_rng(0)
    rows = tf.constant(rng.normal(size=(3, 4)), tf.float32)
    sixteen = tf.constant(rng.normal(size=(5,)), tf.bfloat16)
    table = keras.Variable(tf.zeros([6, 4]))
    other = keras.Variable(tf.zeros([5], tf.bfloat16), dtype="bfloat16")
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.TopK(density=0.3)
    )
    optimizer.build([table, other])

    @tf.function
    def step():
        slices = tf.IndexedSlices(rows, tf.constant([1, 4, 1]), tf.constant([6, 4]))
        optimizer.apply([slices, sixteen], [table, other])

    for _ in range(3):
        step()
    return [table.numpy(), tf.cast(other.value, tf.float32).numpy()]


def test_gradients_of_other_kinds(monkeypatch):
    monkeypatch.setenv("TEM_TF_NATIVE", "built")
    ours = train_other_kinds()
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    for own, other in zip(ours, train_other_kinds(), strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_gradient_that_is_not_finite_leaves_the_residual():
    weights = keras.Variable(tf.zeros([8]))
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.HardThreshold(1.0)
    )
    optimizer.apply([tf.fill([8], 0.75)], [weights])
    with pytest.raises(tf.errors.InvalidArgumentError, match="has NaN or Inf"):
        optimizer.apply([tf.constant([np.nan] + 7 * [0.75])], [weights])
    held = residuals(tf.distribute.get_strategy(), optimizer)
    np.testing.assert_array_equal(held[0], np.full(8, 0.75))
    np.testing.assert_array_equal(weights.numpy(), np.zeros(8))


def test_gradients_are_not_packed_eagerly(monkeypatch):
    def refuse(gradients):
        raise AssertionError(f"{len(gradients)} gradients were packed")

    monkeypatch.setattr(tem_tf.aggregation, "pack", refuse)
    weights = keras.Variable(tf.zeros([8]))
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.HardThreshold(0.5)
    )
    optimizer.apply([tf.ones([8])], [weights])
    np.testing.assert_array_equal(weights, -np.ones(8))
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    with pytest.raises(AssertionError, match="1 gradients were packed"):
        optimizer.apply([tf.ones([8])], [weights])
