"""Laws of tem_tf.compressors: what is selected, and how it is told."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tem_tf
from tem_tf import compressors
from tem_tf.packing import make_segments
from tests.compressor_cases import COMPRESSORS

SEGMENTS = make_segments(["kernel", "empty", "bias"], [9, 0, 3])
STEP = tf.constant(4, tf.int64)


def gradient(seed=0, size=12):
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return tf.constant(values)


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize("seed", range(3))
def test_message_decodes_to_the_approximation(compressor, seed):
    p = gradient(seed)
    state = compressor.init(SEGMENTS)
    message, _ = compressor.compress(state, p, STEP, SEGMENTS)
    dense, _ = compressor.approximate(state, p, STEP, SEGMENTS)
    np.testing.assert_array_equal(message.to_dense(), dense)


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_approximation_runs_over_many_simulated_workers(compressor):
    p = tf.stack([gradient(seed) for seed in range(5)])
    state = compressor.init(SEGMENTS)

    def approximate(row):
        return compressor.approximate(state, row, STEP, SEGMENTS)[0]

    try:
        together = tf.vectorized_map(approximate, p, fallback_to_while_loop=False)
    except ValueError as error:
        if "No pfor vectorization defined for TopKV2" not in str(error):
            raise
        pytest.skip("this TensorFlow has no vectorised tf.math.top_k")
    np.testing.assert_array_equal(together, tf.stack([approximate(r) for r in p]))


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_compressor_is_frozen_and_serialisable(compressor):
    config = keras.saving.serialize_keras_object(compressor)
    assert keras.saving.deserialize_keras_object(config) == compressor
    assert hash(compressor) == hash(type(compressor).from_config(vars(compressor)))
    with pytest.raises(AttributeError):
        compressor.anything = 1


def test_hard_threshold_sends_what_reaches_it_and_no_less():
    below = np.nextafter(np.float32(0.1), np.float32(0))
    p = tf.constant([0.1, -0.1, below, -below, 0.2, 0.0])
    message, _ = tem_tf.HardThreshold(0.1).compress((), p, STEP, ())
    np.testing.assert_array_equal(message.indices, [0, 1, 4])


@pytest.mark.parametrize("replicas", [1, 2, 4, 3, 5, 7])
def test_hard_threshold_selects_the_same_entries_for_any_number_of_replicas(replicas):
    threshold = 0.1
    rng = np.random.default_rng(0)
    near = np.float32(threshold) * (1 + rng.integers(-20, 20, 5000) * 2.0**-23)
    g = np.concatenate([rng.normal(size=5000), near]).astype(np.float32)
    divided = g / np.float32(replicas)
    own, _ = tem_tf.HardThreshold(threshold).select(tf.constant(g), (), STEP, ())
    scaled = tem_tf.HardThreshold(threshold).scaled(1 / replicas)
    shared, _ = scaled.select(tf.constant(divided), (), STEP, ())
    different = g[own.numpy() != shared.numpy()]
    if replicas in (1, 2, 4):  # Division by a power of two is exact.
        assert different.size == 0
    else:
        assert np.all(np.abs(different - threshold) <= 4 * np.spacing(np.float32(0.1)))


@pytest.mark.parametrize(
    ("density", "size", "k"),
    [(0.29, 100, 29), (0.001, 12, 1), (0.5, 3, 1), (1.0, 7, 7), (0.1, 30, 3)],
)
def test_topk_sends_floor_of_density_times_size(density, size, k):
    topk = tem_tf.TopK(density=density, scope="model")
    message, _ = topk.compress((), gradient(size=size), STEP, ())
    assert message.values.shape[0] == k


def test_topk_ties_go_to_the_lower_index():
    p = tf.constant([1.0, -2.0, 2.0, 1.0, -1.0, 2.0])
    for k, expected in [(1, [1]), (2, [1, 2]), (4, [0, 1, 2, 5]), (9, [*range(6)])]:
        message, _ = tem_tf.TopK(k=k, scope="model").compress((), p, STEP, ())
        np.testing.assert_array_equal(message.indices, expected)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_topk_sends_no_zeros(scope):
    # As of an embedding, of which one row was touched.
    p = tf.constant([0.0, 0.0, -3.0, 1.0, 0.0, -0.0])
    segments = make_segments(["embedding"], [6])
    for k, sent in ((1, [2]), (5, [2, 3]), (6, [2, 3])):
        topk = tem_tf.TopK(k=k, scope=scope)
        message, _ = topk.compress((), p, STEP, segments)
        np.testing.assert_array_equal(message.indices, sent)
        np.testing.assert_array_equal(
            message.to_dense(), topk.approximate((), p, STEP, segments)[0]
        )


def test_topk_by_layer_takes_from_every_layer():
    p = tf.constant([9.0, 8.0, 7.0, 0.1, 0.3, 0.2])
    segments = make_segments(["large", "small"], [3, 3])
    message, _ = tem_tf.TopK(k=1).compress((), p, STEP, segments)
    np.testing.assert_array_equal(message.indices, [0, 4])
    message, _ = tem_tf.TopK(k=2, scope="model").compress((), p, STEP, segments)
    np.testing.assert_array_equal(message.indices, [0, 1])


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("density", [0.1, 0.4, 0.9])
def test_topk_error_is_at_most_its_share_of_the_norm(scope, density):
    topk = tem_tf.TopK(density=density, scope=scope)
    p = gradient(7, 120)
    segments = make_segments("ab", [100, 20])
    dense, _ = topk.approximate((), p, STEP, segments)
    parts = segments if scope == "layer" else make_segments("a", [120])
    for part in parts:
        k = max(1, math.floor(density * part.size + 1e-9))
        error = np.sum(np.square((p - dense).numpy()[part.slice].astype(float)))
        norm = np.sum(np.square(p.numpy()[part.slice].astype(float)))
        assert error <= (1 - k / part.size) * norm


def test_random_k_draws_the_same_on_all_workers_and_anew_at_each_step():
    compressor = tem_tf.RandomK(0.25, seed=3)
    draws = []
    for step in range(20):
        step = tf.constant(step, tf.int64)
        first, _ = compressor.compress((), gradient(0, 40), step, ())
        second, _ = compressor.compress((), gradient(1, 40), step, ())
        np.testing.assert_array_equal(first.indices, second.indices)
        assert len(set(first.indices.numpy())) == 10
        draws.append(tuple(first.indices.numpy()))
    assert len(set(draws)) == 20
    assert set(np.ravel(draws)) == set(range(40))
    other, _ = tem_tf.RandomK(0.25, seed=4).compress((), gradient(0, 40), step, ())
    assert tuple(other.indices.numpy()) != draws[-1]


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_one_entry_is_enough(compressor):
    p, segments = tf.constant([2.0]), make_segments(["a"], [1])
    message, _ = compressor.compress(compressor.init(segments), p, STEP, segments)
    sends_none = compressor == COMPRESSORS["hard_threshold_sends_none"]
    np.testing.assert_array_equal(message.to_dense(), [0.0 if sends_none else 2.0])


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.lists(
            # Subnormals are left out: TensorFlow flushes them to zero.
            st.floats(-8, 8, width=32, allow_subnormal=False),
            min_size=6,
            max_size=6,
        ),
        min_size=2,
        max_size=6,
    ),
    threshold=st.floats(0.125, 4),
)
def test_hard_threshold_has_the_least_total_error_of_equal_volume(steps, threshold):
    """On a fixed sequence {p_t}: by construction, so a test and no evidence."""
    sequence = tf.constant(steps, tf.float32)
    hard = tem_tf.HardThreshold(threshold)
    sent = [hard.compress((), p, STEP, ())[0].values.shape[0] for p in sequence]
    share, extra = divmod(sum(sent), len(steps))
    if share == 0:
        return
    counts = [share + (i < extra) for i in range(len(steps))]

    def total_error(kept):
        return np.sum(np.square(sequence.numpy().astype(float) - kept))

    by_threshold = [hard.approximate((), p, STEP, ())[0].numpy() for p in sequence]
    by_topk = [
        tem_tf.TopK(k=k, scope="model").approximate((), p, STEP, ())[0].numpy()
        for k, p in zip(counts, sequence, strict=True)
    ]
    assert total_error(by_threshold) <= total_error(by_topk) * (1 + 1e-12)


@pytest.mark.parametrize("density", [0, 1.5, "10%", float("nan"), None, True, -0.1])
@pytest.mark.parametrize("kind", [tem_tf.TopK, tem_tf.RandomK])
def test_density_out_of_range_is_refused(kind, density):
    with pytest.raises(ValueError, match=r"`density`.*Received: density="):
        kind(density=density)


@pytest.mark.parametrize(
    "threshold", [0, -1.0, float("nan"), float("inf"), "0.1", True, None]
)
def test_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match=r"`threshold` must be a finite number > 0"):
        tem_tf.HardThreshold(threshold)


def test_threshold_from_density_is_the_studys_formula():
    """λ = 1/(2√k): 0.1 % of ResNet-18 gives the 4.73e-3 of its authors."""
    hard = tem_tf.HardThreshold.from_density(0.001, 11_173_962)
    assert hard.threshold == pytest.approx(1 / (2 * math.sqrt(11_173.962)), rel=1e-12)
    assert round(hard.threshold, 5) == 4.73e-3
    with pytest.raises(ValueError, match=r"`density` must be in \(0, 1\]"):
        tem_tf.HardThreshold.from_density(10, 100)
    for size in (0, 1.5, True):
        with pytest.raises(ValueError, match="`size` must be an integer >= 1"):
            tem_tf.HardThreshold.from_density(0.1, size)
    with pytest.raises(ValueError, match="must be a number, not a schedule"):
        tem_tf.HardThreshold.from_density(tem_tf.Ramp(1, 0.1, 3), 100)


def test_topk_refuses_both_or_neither_or_unknown_scope():
    with pytest.raises(ValueError, match="Exactly one of `density` and `k`"):
        tem_tf.TopK()
    with pytest.raises(ValueError, match="Exactly one of `density` and `k`"):
        tem_tf.TopK(density=0.1, k=3)
    for k in (0, 1.5, True, "3"):
        with pytest.raises(ValueError, match="`k` must be an integer >= 1"):
            tem_tf.TopK(k=k)
    with pytest.raises(ValueError, match='`scope` must be "layer" or "model"'):
        tem_tf.TopK(density=0.1, scope="global")


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5, True])
def test_random_k_refuses_other_seeds(seed):
    with pytest.raises(ValueError, match="`seed` must be an integer in"):
        tem_tf.RandomK(0.1, seed=seed)


def test_a_compressor_without_select_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="must implement `select`"):
        tem_tf.Compressor().compress((), gradient(), STEP, SEGMENTS)


def test_the_dict_of_names_has_every_compressor():
    public = {kind for kind in vars(tem_tf).values() if isinstance(kind, type)}
    assert set(compressors.COMPRESSORS.values()) == {
        kind
        for kind in public
        if issubclass(kind, tem_tf.Compressor) and kind is not tem_tf.Compressor
    }


class _Selects(tem_tf.Compressor):
    def __init__(self, selected):
        object.__setattr__(self, "selected", selected)

    def select(self, vector, segments, step, state):
        return self.selected


@pytest.mark.parametrize(
    ("selected", "says"),
    [
        ((tf.ones([3], tf.bool), ()), "a bool mask of the vector's shape"),
        ((tf.ones([12]), ()), "a bool mask of the vector's shape"),
        (tf.ones([12], tf.bool), "a mask and a state"),
    ],
)
def test_a_mask_of_another_shape_or_type_is_refused(selected, says):
    for method in (_Selects(selected).compress, _Selects(selected).approximate):
        with pytest.raises(ValueError, match=says):
            method((), gradient(), STEP, SEGMENTS)


def test_threshold_of_numpy_is_stored_as_a_float():
    assert type(tem_tf.HardThreshold(np.float32(0.5)).threshold) is float
