"""Gradients of dtypes that a cast to float32 would harm: summed whole, in their own.

Kernels, which take none of them, stand aside; that is in test_native_path.py.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tests.training import make_strategy, thresholded

COMPRESSORS = {
    "none": tem_tf.Identity(),
    "hard_threshold": tem_tf.HardThreshold(0.5),
    "random_k": tem_tf.RandomK(0.5),
}
every_compressor = pytest.mark.parametrize(
    "compressor", COMPRESSORS.values(), ids=COMPRESSORS
)
REPLICAS = [1, 2]
# As in test_aggregation.py.
eager_and_graph = pytest.mark.parametrize(
    "graph",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["eager", "graph"],
)
# Of each dtype what float32, or its real part, could not hold.
NUMBERS = {
    "float64": [1 + 2.0**-40, 1e300, -3e-200],
    "complex64": [1 + 2j, -0.5 + 0.25j, 3j],
    "complex128": [1 + 2.0**-40 * 1j, 1e300j, 5],
    "int32": [2**30 - 1, -7, 0],
    "int64": [2**61 + 1, -(2**53) - 1, 3],
}


def aggregate(replicas, gradients, compressor, graph=True, **options):
    """What each replica gets of gradients, in numpy; and the aggregator.

    Args:
        replicas: Int.
        gradients: From a replica's number, of Python, to its gradients.
        compressor: What is sent.
        graph: Whether in `tf.function`.
        **options: Of `Aggregator`.
    """
    strategy = make_strategy(replicas)
    options = {"gradients_divided_by_replicas": False, **options}
    aggregator = tem_tf.Aggregator(compressor, **options)
    given = [gradients(number) for number in range(replicas)]
    with strategy.scope():
        aggregator.build([tf.Variable(tf.zeros_like(g)) for g in given[0]])

    def step():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = [tf.stack(same)[number] for same in zip(*given, strict=True)]
        return aggregator.aggregate(own, step=0)

    outcome = strategy.run(tf.function(step) if graph else step)
    each = zip(*map(strategy.experimental_local_results, outcome), strict=True)
    return [[value.numpy() for value in values] for values in each], aggregator


@eager_and_graph
@pytest.mark.parametrize("replicas", REPLICAS)
@every_compressor
def test_they_are_summed_exactly_in_their_own_dtype(compressor, replicas, graph):
    factors = [1, 2]

    def gradients(number):
        whole = [
            tf.constant(factors[number] * np.array(NUMBERS[name], name))
            for name in NUMBERS
        ]
        return [*whole[:2], tf.constant([0.25, 2.0]), *whole[2:]]

    results, aggregator = aggregate(replicas, gradients, compressor, graph)
    total = sum(factors[:replicas])
    expected = {n: total * np.array(values, n) for n, values in NUMBERS.items()}
    for result in results:
        compressed = result.pop(2)
        assert compressed.dtype == np.float32
        for got, (name, wanted) in zip(result, expected.items(), strict=True):
            assert got.dtype == name
            np.testing.assert_array_equal(got, wanted)
    summary = aggregator.summary()
    # In words: two float32; three of 2, 2, 4, 1 and 2 each.
    assert summary["dense_bytes"] == replicas * 4 * (2 + 3 * (2 + 2 + 4 + 1 + 2))
    sent = {"none": 2, "hard_threshold": 1, "random_k": 1}
    (name,) = (name for name, kind in COMPRESSORS.items() if kind == compressor)
    assert summary["entries_sent"] == replicas * (sent[name] + 15)
    by_variable = aggregator.summaries()[1].values()
    entries = [row["entries_sent"] for row in by_variable]
    # What is compressed comes first.
    assert entries == [replicas * sent[name], *[3 * replicas] * 5]


@eager_and_graph
@every_compressor
@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        ("complex64", complex(1, np.nan)),
        ("complex128", complex(np.inf, 1)),
        ("float64", np.nan),
    ],
)
def test_one_that_is_not_finite_is_seen(dtype, bad, compressor, graph):
    """In the imaginary part alone, too; and nothing of that replica's counts then."""

    def gradients(number):
        other = np.array([1, bad if number else 2], dtype)
        return [tf.constant(other), tf.constant([1.0, 1.0])]

    with pytest.raises(tf.errors.InvalidArgumentError, match="has NaN or Inf"):
        aggregate(2, gradients, compressor, graph)
    results, aggregator = aggregate(2, gradients, compressor, graph, nonfinite="zero")
    for other, compressed in results:
        np.testing.assert_array_equal(other, np.array([1, 2], dtype))
        assert compressed.max() == 1
    assert aggregator.summary()["nonfinite_gradients"] == 1


def test_they_are_clipped_together_with_all_others():
    def gradients(number):
        return [tf.constant([3 + 0j, 0], tf.complex64), tf.constant([0.0, 4.0])]

    (result,), _ = aggregate(1, gradients, tem_tf.TopK(k=1), local_clipnorm=0.5)
    np.testing.assert_allclose(result[0], [0.3, 0], rtol=1e-6)
    np.testing.assert_allclose(result[1], [0, 0.4], rtol=1e-6)


@pytest.mark.parametrize("replicas", REPLICAS)
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16], ids=lambda d: d.name)
def test_narrow_floats_are_compressed_and_come_back_as_such(dtype, replicas):
    def gradients(number):
        return [tf.constant([0.25, 2.0, -1.0], dtype)]

    results, _ = aggregate(replicas, gradients, tem_tf.HardThreshold(0.5))
    for (got,) in results:
        assert got.dtype == dtype.as_numpy_dtype
        expected = replicas * np.array([0, 2, -1])
        np.testing.assert_array_equal(got.astype(np.float32), expected)


def test_a_narrow_floats_residual_is_not_rounded():
    """Three times 2⁻⁹ beside 1 would be lost in bfloat16, which has 8 bits."""
    small, weights = (
        2.0**-9,
        keras.Variable(tf.zeros([1], "bfloat16"), dtype="bfloat16"),
    )
    optimizer = thresholded(threshold=1 + 3 * small)
    optimizer.apply([tf.constant([1.0], tf.bfloat16)], [weights])
    for _ in range(2):
        optimizer.apply([tf.constant([small], tf.bfloat16)], [weights])
        np.testing.assert_array_equal(tf.cast(weights, tf.float32), [0.0])
    optimizer.apply([tf.constant([small], tf.bfloat16)], [weights])
    assert float(tf.cast(weights, tf.float32)[0]) < -0.9


def test_rows_of_an_embedding_in_double_precision():
    table = keras.Variable(tf.zeros([3, 1], tf.float64), dtype="float64")
    rows = tf.IndexedSlices(
        tf.constant([[1e300], [1.0], [2.0**-60]], tf.float64),
        tf.constant([2, 0, 0]),
        tf.constant([3, 1]),
    )
    thresholded().apply([rows], [table])
    np.testing.assert_array_equal(table, [[-1.0], [0.0], [-1e300]])


@pytest.mark.parametrize("replicas", REPLICAS)
def test_a_model_in_double_precision_is_trained_as_by_plain_keras(replicas):
    """Σ over two replicas commutes, so the bits are Keras's own."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
    trained = []
    for wrap in (lambda inner: inner, wrapped):
        with make_strategy(replicas).scope():
            keras.utils.set_random_seed(0)
            layers = [keras.Input((3,)), keras.layers.Dense(1, dtype="float64")]
            model = keras.Sequential(layers)
            model.compile(wrap(keras.optimizers.SGD(0.1, momentum=0.9)), "mse")
        model.fit(inputs, targets, batch_size=4, epochs=2, shuffle=False, verbose=0)
        trained.append(model.get_weights())
    for own, plain in zip(*trained, strict=True):
        assert own.dtype == np.float64
        np.testing.assert_array_equal(own, plain)
    kernel, bias = (v.path for v in model.trainable_variables)
    named = f"in dtypes of their own: {kernel} (float64), {bias} (float64)"
    assert model.optimizer.path.endswith(named)


def wrapped(inner):
    return tem_tf.SparsifiedOptimizer(inner, tem_tf.HardThreshold(0.5))


def test_what_collectives_do_not_carry_is_refused():
    def gradients(number):
        return [tf.constant([1], tf.uint8), tf.constant([1.0])]

    with pytest.raises(ValueError) as error:
        aggregate(1, gradients, tem_tf.TopK(k=1), graph=False)
    assert str(error.value) == (
        "Gradients must be of a floating or complex dtype, int32 or int64: others "
        "cannot be summed over workers. Received: uint8"
    )
