"""Laws of values in few bits: the least error, few bits, nothing odd at the ends."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tem_tf
from tem_tf import native, wire
from tem_tf.sparse_gradient import MaskedGradient, SparseGradient
from tem_tf.wire import few_bits
from tests.wire_messages import bits, normal_floats

NONE, NO_BLOCK = tf.constant(0), tf.zeros([0])
DTYPES = tuple(few_bits.BITS)


def rounded(values, value_dtype):
    values = tf.constant(values, tf.float32)
    grid = few_bits.grid_of(values)
    return few_bits.round_to(values, grid, value_dtype).numpy(), grid


def relative_error(values, value_dtype):
    got, _ = rounded(values, value_dtype)
    return np.sum((got - values) ** 2.0) / np.sum(values**2.0)


@pytest.mark.parametrize("value_dtype", DTYPES)
def test_levels_are_those_of_least_error_for_the_exponential_distribution(value_dtype):
    """Each is the mean of its cell, and cells end in the middle between two."""
    levels = 1 + np.array(few_bits.levels(value_dtype))
    ends = np.concatenate([[0], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    below, above = ends[:-1], ends[1:]
    top = np.where(np.isinf(above), 1e3, above)
    last = (top + 1) * np.exp(-top)
    means = ((below + 1) * np.exp(-below) - last) / (np.exp(-below) - np.exp(-top))
    np.testing.assert_allclose(levels, means, atol=2.0**-11)
    assert len(levels) == 2 ** (few_bits.BITS[value_dtype] - 1)


@pytest.mark.parametrize("spread", [0.1, 0.5, 0.9])
def test_the_spread_is_found(spread):
    random = np.random.default_rng(0)
    magnitudes = 1 - spread + spread * random.exponential(size=100_000)
    _, grid = rounded(magnitudes * random.choice([-1, 1], 100_000), "int2")
    assert float(grid.spread) / 128 == pytest.approx(spread, abs=0.02)


@pytest.mark.parametrize(("value_dtype", "most"), [("sign", 1.01), ("int2", 1.15)])
@pytest.mark.parametrize("kind", ["normal", "laplace"])
@pytest.mark.parametrize("density", [1.0, 0.0156])
def test_the_error_is_near_the_least_of_so_many_levels(
    value_dtype, most, kind, density
):
    """Beside levels that are fitted to these very numbers (Lloyd's algorithm)."""
    random = np.random.default_rng(1)
    values = getattr(random, kind)(size=400_000).astype(np.float32)
    limit = np.quantile(np.abs(values), 1 - density)
    values = values[np.abs(values) >= limit]
    values = values[: len(values) // 64 * 64]
    groups = np.abs(values.reshape(-1, 64))
    scales = groups.mean(axis=1, keepdims=True)
    relative = (groups / scales).ravel()
    weights = np.broadcast_to(scales**2, groups.shape).ravel()
    number = 2 ** (few_bits.BITS[value_dtype] - 1)
    levels = np.quantile(relative, (np.arange(number) + 0.5) / number)
    for _ in range(50):
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, relative)
        levels = np.array(
            [
                np.average(relative[nearest == i], weights=weights[nearest == i])
                for i in range(number)
            ]
        )
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, relative)
    least = np.sum((levels[nearest] - relative) ** 2 * weights) / np.sum(groups**2)
    assert relative_error(values, value_dtype) <= most * least


@pytest.mark.parametrize("value_dtype", DTYPES)
@settings(max_examples=30, deadline=None)
@given(data=st.data(), count=st.integers(0, 200))
def test_what_is_rounded_stays(value_dtype, data, count):
    values = data.draw(normal_floats(count))
    once, grid = rounded(values, value_dtype)
    twice = few_bits.round_to(tf.constant(once), grid, value_dtype)
    np.testing.assert_array_equal(bits(twice), bits(once))
    words = few_bits.encode_values(tf.constant(values), grid, value_dtype)
    again = few_bits.encode_values(tf.constant(once), grid, value_dtype)
    np.testing.assert_array_equal(again, words)
    decoded = few_bits.decode_values(
        words, tf.constant(count), grid.spread, value_dtype
    )
    np.testing.assert_array_equal(bits(decoded), bits(once))
    # Normal numbers or 0, whatever comes, so that no processor takes them for another.
    assert np.all(np.isfinite(once))
    assert np.all((once == 0) | (np.abs(once) >= 2.0**-126))


DRAWS = {
    "normal": lambda random, size: random.normal(size=size),
    "beyond a threshold": lambda random, size: (
        random.choice([-1, 1], size) * (0.5 + random.exponential(size=size))
    ),
    "equal": lambda random, size: np.full(size, -0.25),
    "zero": lambda random, size: np.zeros(size),
    "subnormal": lambda random, size: random.normal(size=size) * 1e-38,
    "greatest": lambda random, size: random.normal(size=size) * 1e38,
    "of all sizes": lambda random, size: (
        random.normal(size=size) * 10.0 ** random.integers(-45, 38, size)
    ),
}


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000, 40_000])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("value_dtype", DTYPES)
def test_kernels_round_to_the_same_bits(value_dtype, draw, size):
    library = native.library()
    if library is None:
        pytest.skip(f"native kernels: {native.status().reason}")
    values = np.clip(draw(np.random.default_rng(3), size), -3e38, 3e38)
    values = tf.constant(values, tf.float32)
    message = SparseGradient(values, tf.range(size), size)
    one = wire.rounded(message, value_dtype)
    other = wire.rounded(message, value_dtype, library)
    np.testing.assert_array_equal(bits(one.values), bits(other.values))
    np.testing.assert_array_equal(bits(one.grid.scales), bits(other.grid.scales))
    assert one.grid.spread == other.grid.spread


@pytest.mark.parametrize("value_dtype", DTYPES)
def test_a_graph_and_other_shapes_round_alike(value_dtype):
    random = np.random.default_rng(2)
    vector = random.laplace(size=1000).astype(np.float32)
    mask = random.random(1000) < 0.3
    sparse = wire.rounded(
        SparseGradient.from_mask(tf.constant(vector), tf.constant(mask)), value_dtype
    )
    kept = tf.constant(np.where(mask, vector, 0))
    for compiled in (False, True):
        round_it = tf.function(
            lambda vector, mask: (
                wire.rounded(MaskedGradient(vector, mask), value_dtype).vector
            ),
            jit_compile=compiled,
        )
        masked = round_it(kept, tf.constant(mask))
        np.testing.assert_array_equal(bits(masked), bits(sparse.to_dense()))


@pytest.mark.parametrize(
    ("value_dtype", "most"), [("int4", 11.9), ("int2", 9.9), ("sign", 8.9)]
)
def test_bits_of_an_entry_of_a_sparse_gradient(value_dtype, most):
    """Of random places, which take the most."""
    size, count = 11_173_962, 174_593
    random = np.random.default_rng(3)
    indices = np.sort(random.choice(size, count, replace=False)).astype(np.int32)
    values = tf.constant(random.laplace(size=count), tf.float32)
    message = SparseGradient(values, tf.constant(indices), size)
    payload = wire.encode(message, NO_BLOCK, NONE, value_dtype, False, native.library())
    assert 32 * len(payload) / count <= most


@pytest.mark.parametrize(
    ("value_dtype", "most"),
    [("int8", 8.3), ("int4", 4.3), ("int2", 2.3), ("sign", 1.3)],
)
def test_bits_of_an_entry_where_all_are_sent(value_dtype, most):
    size = 100_001
    values = tf.constant(np.random.default_rng(4).normal(size=size), tf.float32)
    message = SparseGradient(values, tf.range(size), size)
    payload = wire.encode(message, NO_BLOCK, NONE, value_dtype)
    assert payload[5] & 15 == wire.ALL
    assert 32 * len(payload) / size <= most


@pytest.mark.parametrize("value_dtype", ["int8", "int4", "int2"])
def test_rounding_by_chance_keeps_means(value_dtype):
    random = np.random.default_rng(0)
    values = tf.constant(random.laplace(size=640), tf.float32)
    message = SparseGradient(values, tf.range(640), 640)
    draws = np.stack(
        [
            wire.rounded(message, value_dtype, seed=tf.constant([3, i])).values.numpy()
            for i in range(400)
        ]
    )
    levels = few_bits._magnitudes(few_bits.grid_of(values).spread, value_dtype).numpy()
    scales = np.repeat(few_bits.grid_of(values).scales.numpy(), 64)
    relative = np.abs(values.numpy()) / scales
    inner = (relative > levels[0]) & (relative < levels[-1])
    error = np.abs(draws.mean(0) - values.numpy())[inner]
    deviation = draws.std(0)[inner] / np.sqrt(400)
    assert error.mean() < 1.2 * deviation.mean()  # 0.8 for a normal distribution.
    # The nearest has another mean.
    nearest = wire.rounded(message, value_dtype).values.numpy()
    assert np.abs(nearest - values.numpy())[inner].mean() > 5 * error.mean()


@pytest.mark.parametrize("value_dtype", ["int8", "int4", "int2"])
def test_what_is_rounded_by_chance_travels_as_it_is(value_dtype):
    values = tf.random.stateless_normal([1000], [0, 1])
    message = SparseGradient(values, tf.range(0, 2000, 2), 2000)
    rounded = wire.rounded(message, value_dtype, seed=tf.constant([3, 4]))
    for library in (None, native.library()):
        words = wire.encode(rounded, NO_BLOCK, NONE, value_dtype, library=library)
        decoded = wire.decode(words, 2000, 0, value_dtype).message
        np.testing.assert_array_equal(decoded.values, rounded.values)


def test_rounding_by_chance_hangs_on_seed_and_step_and_keeps_the_rest():
    gradient = tf.random.stateless_normal([256], [0, 1])

    def sums(seed):
        aggregator = tem_tf.Aggregator(
            tem_tf.AllEntries(), value_dtype="int2", rounding_seed=seed
        )
        aggregator.build([tf.Variable(tf.zeros([256]))])
        found = [aggregator.aggregate([gradient], step)[0] for step in range(3)]
        (kept,) = aggregator.state.values()
        residual = kept["memory/residual/Variable:0"]
        np.testing.assert_allclose(sum(found) + residual, 3 * gradient, atol=1e-5)
        return np.stack(found)

    first = sums(1)
    np.testing.assert_array_equal(first, sums(1))
    assert (first != sums(2)).any()
    assert (first[1] != first[0]).any()


def test_the_mean_of_a_group_may_be_beyond_any_scale():
    largest = float(np.finfo(np.float32).max)
    for value_dtype in DTYPES:
        got, _ = rounded([largest, -largest, 1.0], value_dtype)
        assert np.all(np.isfinite(got))
        got, grid = rounded([2.0**-126, -(2.0**-120)], value_dtype)
        np.testing.assert_array_equal(grid.scales, [0.0])
        np.testing.assert_array_equal(bits(got), bits([0.0, 0.0]))


def test_signs_send_the_mean_of_each_group():
    values = np.repeat([1.0, 3.0], 64) * np.tile([1, -1], 64)
    got, _ = rounded(values, "sign")
    np.testing.assert_array_equal(got, values)
    assert math.isclose(relative_error(np.array([1.0, 3.0]), "sign"), 2 / 10)
