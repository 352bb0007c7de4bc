"""Laws of one gradient's path over the replicas of one process.

The same laws run on real processes in tests/multi_worker: TensorFlow takes other
branches there.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import native
from tests.compressor_cases import ALL, COMPRESSORS, EveryOther, rounding_of
from tests.memory_cases import ErrorFeedback21
from tests.steps import apply_gradients, dyadic, residuals
from tests.training import make_strategy

REPLICAS = [1, 2]
# A graph of several replicas takes seconds to trace: each decodes all payloads.
eager_and_graph = pytest.mark.parametrize(
    "graph",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["eager", "graph"],
)


@pytest.fixture(
    autouse=True,
    params=["operations", pytest.param("native", marks=pytest.mark.slow)],
)
def path(request, monkeypatch):
    """Every law, by TensorFlow's operations and by our kernels.

    That both give the same bits is in test_native_path.py, in the quick part too.
    """
    monkeypatch.setenv(
        "TEM_TF_NATIVE", "0" if request.param == "operations" else "built"
    )
    if request.param == "native" and native.library() is None:
        pytest.skip(f"native kernels: {native.status().reason}")


def train(replicas, *arguments, **options):
    return apply_gradients(make_strategy(replicas), *arguments, **options)


@pytest.mark.parametrize(
    ("replicas", "graph"),
    # Three in a graph are real workers, in tests/multi_worker/test_laws.py.
    [(1, True), (2, False), pytest.param(3, True, marks=pytest.mark.exhaustive)],
)
@pytest.mark.parametrize("compressor", ALL.values(), ids=ALL)
def test_replicas_stay_bit_equal_and_nothing_is_lost(replicas, compressor, graph):
    """Σ gradients = −weights + Σ residuals, of dyadic values where none is rounded."""
    gradients = dyadic(3, replicas)
    weights, optimizer = train(replicas, gradients, compressor, graph)
    for replica in range(1, replicas):
        np.testing.assert_array_equal(weights[:, 0], weights[:, replica])
    held = residuals(make_strategy(replicas), optimizer)
    if held.any() and replicas > 1:
        assert not np.array_equal(held[0], held[1])
    total = gradients.sum(axis=(0, 1))
    found = held.sum(axis=0) - weights[-1][0]
    np.testing.assert_allclose(found, total, rtol=0, atol=rounding_of(compressor))


@eager_and_graph
@pytest.mark.parametrize("replicas", REPLICAS)
def test_threshold_is_in_units_of_a_workers_own_gradient(replicas, graph):
    """Keras hands over gradients divided by N; λ is meant for the undivided one."""
    own = np.float32([0.4, 0.5, 0.6, -0.5, -0.4, 0.0])
    divided = np.tile(own / np.float32(replicas), (1, replicas, 1))
    weights, _ = train(replicas, divided, tem_tf.HardThreshold(0.5), graph)
    assert np.flatnonzero(weights[0][0]).tolist() == [1, 2, 3]
    undivided = np.tile(own, (1, replicas, 1))
    weights, _ = train(
        replicas,
        undivided,
        tem_tf.HardThreshold(0.5),
        graph,
        gradients_divided_by_replicas=False,
    )
    assert np.flatnonzero(weights[0][0]).tolist() == [1, 2, 3]


@eager_and_graph
def test_one_replica_may_send_nothing_while_others_send(graph):
    gradients = np.zeros((1, 3, 6))
    gradients[0, 1, 2] = 1.0
    weights, optimizer = train(3, gradients, tem_tf.HardThreshold(1.5), graph)
    np.testing.assert_array_equal(weights[0][0], [0, 0, -1, 0, 0, 0])
    summary = optimizer.communication_summary()
    assert summary["entries_sent"] == 1
    assert summary["payload_bytes"] == 4 * (3 * 6 + 2)  # A bitmap and a value.


@eager_and_graph
@pytest.mark.parametrize(
    ("compressor", "value_dtype"),
    [
        ("hard_threshold", "float16"),
        ("random_k", "bfloat16"),
        pytest.param("random_k", "float16", marks=pytest.mark.slow),
        pytest.param("topk_model", "bfloat16", marks=pytest.mark.slow),
        pytest.param("topk_layer", "float16", marks=pytest.mark.slow),
    ],
)
def test_what_rounding_takes_away_stays_in_the_residual(compressor, value_dtype, graph):
    """As above, with 17 significant bits of which 8 or 11 are sent."""
    replicas = 2
    rng = np.random.default_rng(0)
    gradients = rng.integers(-(2**16), 2**16, size=(4, replicas, 12)) / 2**12
    weights, optimizer = train(
        replicas, gradients, COMPRESSORS[compressor], graph, value_dtype=value_dtype
    )
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    held = residuals(make_strategy(replicas), optimizer)
    total = gradients.sum(axis=(0, 1))
    np.testing.assert_array_equal(total, held.sum(axis=0) - weights[-1][0])
    exact, _ = train(replicas, gradients, COMPRESSORS[compressor], graph)
    assert not np.array_equal(weights[0], exact[0])  # It was rounded indeed,
    np.testing.assert_allclose(weights[0], exact[0], atol=16 * 2**-8)  # and not more.
    if compressor == "random_k":  # 3 values in 2 words, and no indices.
        bytes_sent = optimizer.communication_summary()["payload_bytes"]
        assert bytes_sent == 4 * (6 + 2) * 4 * replicas


@pytest.mark.parametrize("replicas", REPLICAS)
def test_a_compressor_with_a_state_keeps_it(replicas):
    ones = np.ones((4, replicas, 6))
    weights, _ = train(replicas, ones, EveryOther(), memory=None)
    even = np.float32([1, 0, 1, 0, 1, 0])
    steps = np.cumsum([even, 1 - even, even, 1 - even], axis=0)
    np.testing.assert_array_equal(-weights[:, 0], replicas * steps)


@pytest.mark.parametrize("replicas", REPLICAS)
def test_a_memory_with_a_word_of_its_own_after_aggregation(replicas):
    """EF21 against its equations, in numpy."""
    gradients = dyadic(6, replicas)
    weights, _ = train(
        replicas, gradients, tem_tf.TopK(k=2, scope="model"), memory=ErrorFeedback21()
    )
    own, expected = np.zeros((replicas, 12)), []
    position = np.zeros(12)
    for step in gradients:
        for i in range(replicas):
            p = step[i] - own[i]
            kept = np.argsort(-np.abs(p), kind="stable")[:2]
            own[i][kept] += p[kept]
        position = position - own.sum(axis=0)
        expected.append(position)
    np.testing.assert_array_equal(weights[:, 0], expected)


@functools.cache
def weights_by_error_feedback(compressor, graph):
    """What `dyadic(4, 2)` gives with the memory that stands where none is named."""
    return train(2, dyadic(4, 2), COMPRESSORS[compressor], graph)[0]


@pytest.mark.parametrize(
    "graph", [False, pytest.param(True, marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("compressor", ["topk_model", "hard_threshold", "random_k"])
@pytest.mark.parametrize(
    "memory",
    [
        tem_tf.DecayingErrorFeedback(0.5),
        tem_tf.MomentumCorrection(0.5),
        tem_tf.EF21(),
        tem_tf.EF21SGDM(0.5),
    ],
    ids=lambda memory: type(memory).__name__,
)
def test_replicas_stay_bit_equal_with_every_memory(memory, compressor, graph):
    gradients = dyadic(4, 2)
    weights, _ = train(2, gradients, COMPRESSORS[compressor], graph, memory=memory)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    without = weights_by_error_feedback(compressor, graph)
    assert weights[-1].any() and not np.array_equal(weights, without)


@pytest.mark.parametrize("replicas", REPLICAS)
@pytest.mark.parametrize("compressor", ["hard_threshold_sends_none", "random_k"])
def test_small_variables_ride_whole(replicas, compressor):
    gradients = dyadic(3, replicas)  # Variables of 4 and 8 entries.
    compressor = COMPRESSORS[compressor]
    weights, optimizer = train(replicas, gradients, compressor, dense_below=5)
    expected = -np.cumsum(gradients.sum(axis=1), axis=0)[:, :4]
    np.testing.assert_array_equal(weights[:, 0, :4], expected)
    assert "memory/residual/a" not in optimizer.aggregator.state
    per_step = optimizer.communication_summary()["entries_sent"] / (3 * replicas)
    assert per_step == 4 + (2 if isinstance(compressor, tem_tf.RandomK) else 0)


@eager_and_graph
@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_all_variables_may_be_small(compressor, graph):
    gradients = dyadic(2, 1)
    weights, _ = train(1, gradients, compressor, graph, dense_below=100)
    np.testing.assert_array_equal(weights[:, 0], -np.cumsum(gradients[:, 0], axis=0))


@pytest.mark.parametrize("replicas", REPLICAS)
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_warm_up_is_dense_and_then_it_is_not(replicas, graph):
    gradients = dyadic(4, replicas)
    compressor = COMPRESSORS["hard_threshold_sends_none"]
    weights, optimizer = train(replicas, gradients, compressor, graph, warmup_steps=2)
    dense = -np.cumsum(gradients.sum(axis=1), axis=0)
    np.testing.assert_array_equal(weights[:2, 0], dense[:2])
    np.testing.assert_array_equal(weights[3, 0], dense[1])
    summary = optimizer.communication_summary()
    assert summary["entries_sent"] == 2 * 12 * replicas
    assert summary["payload_bytes"] == 4 * replicas * (2 * (12 + 2) + 2 * 6)


@pytest.mark.parametrize("replicas", REPLICAS)
def test_local_clip_is_in_units_of_a_workers_own_gradient(replicas):
    own = np.float32([3.0, 0, 0, 4.0, 0, 0])
    divided = np.tile(own / replicas, (1, replicas, 1))
    weights, optimizer = train(
        replicas, divided, tem_tf.HardThreshold(1e-6), local_clipnorm=0.5
    )
    np.testing.assert_allclose(-weights[0, 0], 0.1 * own, rtol=1e-6)
    np.testing.assert_allclose(
        optimizer.communication_summary()["gradient_norm"], 5.0, rtol=1e-6
    )


@eager_and_graph
@pytest.mark.parametrize(
    ("compressor", "bad", "replicas"),
    [
        ("hard_threshold", np.nan, 1),
        ("hard_threshold", np.inf, 3),
        ("topk_layer", -np.inf, 2),
        ("random_k", np.nan, 3),
    ],
)
def test_a_gradient_that_is_not_finite_raises(compressor, bad, replicas, graph):
    gradients = dyadic(1, replicas)
    gradients[0, -1, 3] = bad
    with pytest.raises(tf.errors.InvalidArgumentError, match="has NaN or Inf"):
        train(replicas, gradients, COMPRESSORS[compressor], graph)


@eager_and_graph
@pytest.mark.parametrize("compressor", ["hard_threshold", "random_k"])
@pytest.mark.parametrize("replicas", REPLICAS)
def test_a_gradient_that_is_not_finite_may_count_as_zero(replicas, compressor, graph):
    gradients = dyadic(3, replicas)
    clean = gradients.copy()
    gradients[1, -1, 3] = np.nan
    clean[1, -1] = 0
    compressor = COMPRESSORS[compressor]
    weights, optimizer = train(replicas, gradients, compressor, graph, nonfinite="zero")
    expected, _ = train(replicas, clean, compressor, graph)
    np.testing.assert_array_equal(weights, expected)
    assert optimizer.communication_summary()["nonfinite_gradients"] == 1


@pytest.mark.parametrize("replicas", REPLICAS)
def test_metrics_against_a_numpy_transcription(replicas):
    gradients = dyadic(5, replicas)
    threshold = 1.25
    residual = np.zeros((replicas, 12))
    entries, words, total_error = 0, 0, 0.0
    for step in gradients:
        p = replicas * step + residual  # A worker's own gradient.
        kept = np.abs(p) >= threshold
        residual = np.where(kept, 0, p)
        entries += kept.sum()
        for k in kept.sum(axis=1):  # One word says which of 12, unless all 12 go.
            words += 6 + (min(k + 1, 12) if k else 0)
        total_error += np.mean(np.sum(residual**2, axis=1))
    # Keras's division by N is exact for dyadic values and N = 1, 2.
    _, optimizer = train(replicas, gradients, tem_tf.HardThreshold(threshold))
    summary = optimizer.communication_summary()
    assert summary["replicas"] == replicas
    assert summary["steps"] == 5
    assert summary["entries_sent"] == entries
    assert summary["dense_bytes"] == 4 * 12 * 5 * replicas
    assert summary["payload_bytes"] == 4 * words
    assert summary["padded_bytes"] == 0  # Nothing is padded within a process.
    assert summary["density"] == entries / (12 * 5 * replicas)
    np.testing.assert_allclose(summary["total_error"], total_error, rtol=1e-6)
    norms = np.sum(residual**2, axis=1)
    np.testing.assert_allclose(summary["compression_error"], norms.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        summary["residual_norm"], np.sqrt(norms.mean()), rtol=1e-6
    )
    np.testing.assert_allclose(summary["residual_max"], np.abs(residual).max())
    last = np.sum((replicas * gradients[-1]) ** 2, axis=1)
    np.testing.assert_allclose(
        summary["gradient_norm"], np.sqrt(last.mean()), rtol=1e-6
    )


@pytest.mark.parametrize("replicas", REPLICAS)
@pytest.mark.parametrize(
    "options", [{}, {"dense_below": 5}, {"local_clipnorm": 1.0}], ids=str
)
def test_metrics_by_variable_against_a_numpy_transcription(replicas, options):
    """Every column, of every step and of the last, of both variables."""
    gradients = dyadic(5, replicas)
    threshold, parts = 0.75, {"a": slice(0, 4), "b": slice(4, 12)}
    residual = np.zeros((replicas, 12))
    steps = []
    for step in gradients:
        g = replicas * step
        norm = np.linalg.norm(g, axis=1, keepdims=True)
        clipped = g / np.maximum(norm, 1) if "local_clipnorm" in options else g
        p = clipped + residual
        kept = np.abs(p) >= threshold
        if "dense_below" in options:
            kept[:, :4] = True
        residual = np.where(kept, 0, p)
        steps.append((kept, residual, g, p))
    _, optimizer = train(
        replicas, gradients, tem_tf.HardThreshold(threshold), **options
    )
    summary = optimizer.communication_by_variable()
    assert set(summary) == set(parts)

    def mean(values):
        return np.mean(np.sum(np.square(values), axis=1))

    for name, part in parts.items():
        size = part.stop - part.start
        kept, m, g, p = (np.array([s[i][:, part] for s in steps]) for i in range(4))
        error, corrected = sum(map(mean, m)), sum(map(mean, p))
        expected = {
            "entries": size * replicas,
            "entries_sent": kept.sum(),
            "density": kept.mean(),
            "last_density": kept[-1].mean(),
            "total_error": error,
            "total_corrected": corrected,
            "compression_error": mean(m[-1]),
            "relative_error": mean(m[-1]) / mean(p[-1]),
            "mean_relative_error": error / corrected,
            "residual_norm": np.sqrt(mean(m[-1])),
            "mean_residual_norm": np.sqrt(error / 5),
            "residual_max": np.abs(m[-1]).max(),
            "greatest_residual": np.abs(m).max(),
            "gradient_norm": np.sqrt(mean(g[-1])),
            "mean_gradient_norm": np.sqrt(sum(map(mean, g)) / 5),
        }
        assert summary[name] == pytest.approx(expected, rel=1e-5)
    total = optimizer.communication_summary()
    for name in ("entries_sent", "total_error", "compression_error"):
        sums = sum(values[name] for values in summary.values())
        assert total[name] == pytest.approx(sums, rel=1e-5)


def test_metrics_by_variable_without_compression_are_of_all_entries():
    _, optimizer = train(2, dyadic(3, 2), tem_tf.Identity())
    for name, size in (("a", 4), ("b", 8)):
        summary = optimizer.communication_by_variable()[name]
        assert summary["entries_sent"] == 3 * 2 * size
        assert summary["density"] == summary["last_density"] == 1


def test_metrics_of_a_variable_that_is_not_trained_stand_still():
    def step(gradients):
        optimizer.apply_gradients(gradients)
        return optimizer.communication_by_variable()

    weights = [tf.Variable([0.0, 0.0], name=name) for name in "ab"]
    optimizer = tem_tf.SparsifiedOptimizer("sgd", tem_tf.HardThreshold(1.0))
    ones = tf.constant([0.5, 1.0])
    step([(ones, weights[0]), (ones, weights[1])])
    summary = step([(ones, weights[1])])
    rows = {name.split(":")[0]: row for name, row in summary.items()}
    assert rows["a"]["entries_sent"] == 1
    assert rows["b"]["entries_sent"] == 3
    assert rows["a"]["last_density"] == 0


def test_memory_is_made_one_variable_at_a_time():
    sizes = []

    class Recording(tem_tf.ErrorFeedback):
        def init(self, segments):
            sizes.append(sum(segment.size for segment in segments))
            return super().init(segments)

    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.HardThreshold(0.5), memory=Recording()
    )
    optimizer.build([keras.Variable(tf.zeros([n]), name=f"v{n}") for n in (3, 4)])
    assert [size for size in sizes if size] == [3, 4]
