"""The native kernels select, correct and leave what TensorFlow's operations do."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tem_tf
from tem_tf import native
from tem_tf.local_step import clip_factor
from tem_tf.native import ops
from tests.native_cases import (
    assert_same,
    bits,
    by_kernels,
    by_operations,
    needs_native,
)

pytestmark = needs_native

THREADS = [1, 2]
FLT_MIN = np.finfo(np.float32).tiny

# Few magnitudes, so that there are ties; no subnormals, which TensorFlow flushes.
ENTRIES = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0]),
    st.floats(-100, 100, width=32, allow_subnormal=False),
)
# Around the widths of vector registers and of the loop over four of them.
SIZES = st.lists(
    st.sampled_from([0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130, 300]),
    min_size=1,
    max_size=6,
).filter(lambda sizes: sum(sizes) > 0)


@st.composite
def gradients_and_residuals(draw):
    sizes = draw(SIZES)
    pool = draw(st.lists(ENTRIES, min_size=1, max_size=40))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    runs = draw(st.booleans())

    def vector(size):
        chosen = rng.integers(len(pool), size=size)
        return np.float32(pool)[np.sort(chosen) if runs else chosen]

    start = draw(st.booleans())  # The first step, with residuals of zero.
    residuals = [np.zeros(n, np.float32) if start else vector(n) for n in sizes]
    return [vector(n) for n in sizes], residuals


compressors = st.one_of(
    st.builds(
        tem_tf.HardThreshold,
        st.one_of(st.sampled_from([0.5, 1.0, 1e-30, 1e30]), st.floats(1e-3, 200)),
    ),
    st.builds(
        tem_tf.TopK,
        density=st.sampled_from([1e-3, 0.01, 0.1, 0.3, 0.5, 0.99, 1.0]),
        scope=st.sampled_from(["layer", "model"]),
    ),
    st.builds(
        tem_tf.TopK, k=st.integers(1, 400), scope=st.sampled_from(["layer", "model"])
    ),
    st.builds(tem_tf.RandomK, st.sampled_from([0.01, 0.3, 1.0]), st.integers(0, 99)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    compressors,
    gradients_and_residuals(),
    st.sampled_from(THREADS),
    st.sampled_from([None, 0.9]),
)
def test_selection_is_that_of_the_operations(compressor, data, threads, decay):
    """Law: the same values, indices and residuals, bit for bit."""
    assert_same(compressor, *data, step=3, threads=threads, decay=decay)


# Several tasks of 65,536 entries in one variable, and variables of less than one.
LARGE = [200_001, 1, 0, 65_536, 70_000, 10]


def large(seed, of=LARGE):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=n).astype(np.float32) for n in of]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(
    "compressor",
    [
        tem_tf.HardThreshold(3.0),
        tem_tf.HardThreshold(1e-30),
        tem_tf.HardThreshold(1e30),
        tem_tf.TopK(density=0.001),
        tem_tf.TopK(density=0.4),
        tem_tf.TopK(density=0.001, scope="model"),
        tem_tf.TopK(density=1.0, scope="model"),
        tem_tf.RandomK(0.01),
    ],
    ids=repr,
)
def test_large_variables(compressor, threads):
    assert_same(compressor, large(0), large(1), threads=threads)


@pytest.mark.parametrize(
    "compressor",
    [tem_tf.HardThreshold(3.0), tem_tf.TopK(density=0.01), tem_tf.RandomK(0.1)],
    ids=repr,
)
def test_threads_change_nothing_not_even_sums(compressor):
    one, left_by_one = by_kernels(compressor, large(0), large(1), threads=1)
    two, left_by_two = by_kernels(compressor, large(0), large(1), threads=2)
    for a, b in zip((*one, left_by_one), (*two, left_by_two), strict=True):
        np.testing.assert_array_equal(a, b)


def splitmix64(x):
    """As in topk.cc."""
    mask = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


@pytest.mark.parametrize("lines", [1, 4, 40, 600])
def test_topk_where_the_sample_sees_the_large_entries_alone(lines):
    """The guessed threshold is too high then, and is made again."""
    size = 65_536
    gradient = np.random.default_rng(0).normal(size=size).astype(np.float32)
    for line in range(lines):
        begin = splitmix64(line) % (size - 15)
        gradient[begin : begin + 16] += 100
    for density in (0.001, 0.003, 0.05):
        assert_same(tem_tf.TopK(density=density), [gradient], [0 * gradient])


@pytest.mark.parametrize("nonzero", [0, 1, 50, 5000])
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_topk_of_mostly_zeros_takes_none_of_them(nonzero, scope):
    rng = np.random.default_rng(0)
    gradients = [np.zeros(n, np.float32) for n in (100_000, 70_000)]
    for gradient in gradients:
        gradient[rng.choice(gradient.size, nonzero, replace=False)] = 1.5
    residuals = [-0.0 * gradient for gradient in gradients]
    assert_same(tem_tf.TopK(density=0.01, scope=scope), gradients, residuals)


def test_topk_of_equal_entries_takes_the_first():
    gradients = [np.full(n, 0.25, np.float32) for n in (100_000, 70_000)]
    compressor = tem_tf.TopK(density=0.01, scope="model")
    found = assert_same(compressor, gradients, [0 * g for g in gradients])
    np.testing.assert_array_equal(found.indices, np.arange(1700))


def test_subnormal_sums_are_flushed():
    gradient = np.float32([1.5, -1.5, 3.0] * 40) * FLT_MIN
    residual = np.float32([-1.0, 1.0, 0.0] * 40) * FLT_MIN  # Sums of ±0.5·FLT_MIN.
    for compressor in (tem_tf.HardThreshold(float(2 * FLT_MIN)), tem_tf.TopK(k=60)):
        assert_same(compressor, [gradient], [residual])


def test_statistics():
    compressor = tem_tf.HardThreshold(2.0)
    gradients, residuals = large(0), large(1)
    found, left = by_kernels(compressor, gradients, residuals)
    start = 0
    for row, gradient, residual in zip(found.stats, gradients, residuals, strict=True):
        end = start + gradient.size
        kept = left[start:end].astype(np.float64)
        p = (gradient + residual).astype(np.float64)
        expected = [
            np.count_nonzero(np.abs(p) >= 2),
            kept @ kept,
            kept @ kept,
            np.abs(kept).max(initial=0),
            gradient.astype(np.float64) @ gradient,
            p @ p,
        ]
        # Sums of 64 float32 squares in each lane.
        np.testing.assert_allclose(row, expected, rtol=1e-5)
        start = end
    assert found.stats[:, 0].sum() == found.values.size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["first", "last", "small"])
@pytest.mark.parametrize(
    "compressor",
    [tem_tf.HardThreshold(1.0), tem_tf.TopK(density=0.1), tem_tf.RandomK(0.1)],
    ids=repr,
)
def test_a_gradient_that_is_not_finite_changes_nothing(compressor, place, bad):
    sizes = [70_000, 3]
    gradients, residuals, small = large(0, sizes), large(1, sizes), large(2, [5])
    where = {"first": gradients[0][:1], "last": gradients[1][-1:], "small": small[0]}
    where[place][-1] = bad
    found, left = by_kernels(compressor, gradients, residuals, small=small)
    assert found.nonfinite == 1
    np.testing.assert_array_equal(bits(left), bits(np.concatenate(residuals)))
    np.testing.assert_array_equal(found.block, np.zeros(5))
    assert not found.values.any()
    assert found.indices.size == found.values.size
    if not isinstance(compressor, tem_tf.RandomK):  # All send equally many values.
        assert found.values.size == 0

    zeros = [np.zeros_like(gradient) for gradient in gradients]
    values, indices, residual = by_operations(compressor, zeros, residuals)
    found, left = by_kernels(compressor, gradients, residuals, small=small, zero=True)
    assert found.nonfinite == 1
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(bits(found.values), bits(values))
    np.testing.assert_array_equal(bits(left), bits(residual))
    np.testing.assert_array_equal(found.block, np.zeros(5))
    assert not found.stats[:, 4].any()


def test_entries_whose_squares_overflow_are_finite():
    gradients = [np.float32([1e30, -2e30] * 50)]
    found = assert_same(tem_tf.TopK(k=3), gradients, [np.zeros(100, np.float32)])
    assert found.nonfinite == 0


def test_small_gradients_end_to_end():
    small = [np.float32([[1, 2], [3, 4]]), np.float32([]), np.float32(5)]
    found, _ = by_kernels(
        tem_tf.HardThreshold(1.0), large(0, [9]), large(1, [9]), small=small
    )
    np.testing.assert_array_equal(found.block, [1, 2, 3, 4, 5])


def test_a_tensor_that_shares_the_residuals_buffer_keeps_its_value():
    start = tf.constant(large(0, [1000])[0])
    variable = tf.Variable(start)
    before = variable.read_value()
    expected = before.numpy()
    for _ in range(2):
        ops.select_threshold(
            native.library(),
            [tf.ones([1000])],
            [],
            ops.Kept([variable.handle]),
            1.0,
            zero_nonfinite=False,
        )
    np.testing.assert_array_equal(before, expected)
    np.testing.assert_array_equal(start, expected)
    assert not np.array_equal(variable.numpy(), expected)


def select(rule="threshold", **changes):
    variables = changes.pop("variables", [tf.Variable(tf.zeros([4]))])
    kept = changes.pop("kept", {})
    arguments = {
        "library": native.library(),
        "gradients": [tf.ones([4])] * len(variables),
        "small": [],
        "kept": ops.Kept([variable.handle for variable in variables], **kept),
        "zero_nonfinite": False,
        **changes,
    }
    return getattr(ops, f"select_{rule}")(**arguments)


SAME = tf.Variable(tf.zeros([4])) if native.library() else None
OF_OTHER_SIZES = [tf.Variable(tf.zeros([5])) for _ in range(2)]
VELOCITIES = [variable.handle for variable in OF_OTHER_SIZES]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`threshold` must be one number >= 0", {"threshold": -1.0}),
        ("`threshold` must be one number >= 0", {"threshold": np.nan}),
        ("`counts` must be integers >= 0", {"rule": "topk", "counts": [1, 2]}),
        ("`counts` must be integers >= 0", {"rule": "topk", "counts": [-1]}),
        (r"positions in \[0, 4\). Received: 4", {"rule": "given", "given": [0, 4]}),
        (r"positions in \[0, 4\). Received: -1", {"rule": "given", "given": [-1]}),
        (
            "What is kept of gradient 0 must have its 4 entries",
            {"threshold": 1.0, "variables": [tf.Variable(tf.zeros([5]))]},
        ),
        (
            "What is kept must be in distinct variables",
            {"threshold": 1.0, "variables": [SAME, SAME]},
        ),
        (
            "What is kept must be in float32 variables",
            {"threshold": 1.0, "variables": [tf.Variable(tf.zeros([4], tf.float64))]},
        ),
        (
            "`velocity` must be as many as `kept` under momentum",
            {"threshold": 1.0, "kept": {"memory": "momentum"}},
        ),
        (
            "`velocity` must be as many as `kept` under momentum",
            {"threshold": 1.0, "kept": {"velocity": VELOCITIES[:1]}},
        ),
        ("`largest_norm` must be one number > 0", {"threshold": 1, "largest_norm": 0}),
    ],
)
def test_what_a_selection_refuses(message, arguments):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        select(**arguments)


def settle(positions, count=2, **kept):
    variable = tf.Variable(tf.zeros([4]))
    return ops.settle(
        native.library(),
        ops.Kept([variable.handle], **kept),
        tf.ones([count]),
        tf.ones([2]),
        tf.constant(positions),
    )


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"positions in \[0, 4\). Received: 4", {"positions": [0, 4]}),
        (r"positions in \[0, 4\). Received: -1", {"positions": [-1, 2]}),
        ("must be as many", {"positions": [0, 1], "count": 3}),
        ("`velocity` must be none", {"positions": [0, 1], "velocity": VELOCITIES}),
        ("Velocities must have", {"positions": [0, 1], "velocity": VELOCITIES[:1]}),
    ],
)
def test_what_settling_refuses(message, arguments):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        settle(**arguments)


@pytest.mark.parametrize("limit", [1e-3, 1.0, 30.0, 1e30])
@pytest.mark.parametrize("sizes", [[5], [200_001, 0, 65_536, 7], [1024, 1025, 1]])
def test_clipping_is_that_of_the_operations(sizes, limit):
    """The same factor, bit for bit, of large and small gradients together."""
    gradients, residuals, small = large(0, sizes), large(1, sizes), large(2, [5, 2000])
    parts = [tf.constant(gradient) for gradient in [*gradients, *small]]
    factor = clip_factor(parts, limit).numpy()
    clipped = [gradient * factor for gradient in gradients]
    options = {"small": small, "largest_norm": limit}
    compressor = tem_tf.TopK(density=0.01)
    values, indices, residual = by_operations(compressor, clipped, residuals)
    found, left = by_kernels(compressor, gradients, residuals, **options)
    np.testing.assert_array_equal(bits(found.clip), bits(factor))
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(bits(found.values), bits(values))
    np.testing.assert_array_equal(bits(left), bits(residual))
    block = np.concatenate(small) * factor
    np.testing.assert_array_equal(bits(found.block), bits(block))
    squares = [float(np.sum(np.square(part, dtype=np.float64))) for part in clipped]
    np.testing.assert_allclose(found.stats[:, 4], squares, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 4), st.integers(0, 2**31), st.sampled_from(THREADS))
def test_messages_are_summed_in_order(sizes, replicas, seed, threads):
    """Law: the same floating-point sums as `SparseGradient.add_to`, bit for bit."""
    rng = np.random.default_rng(seed)
    size = sum(sizes)
    messages = []
    for _ in range(replicas):
        count = rng.integers(size + 1)
        indices = rng.choice(size, count, replace=False)  # Not ascending.
        values = rng.normal(size=count) * 10.0 ** rng.integers(-8, 8, size=count)
        values[rng.random(count) < 0.2] = -0.0
        messages.append((np.float32(values), np.int32(indices)))
    expected = tf.zeros([size])
    for values, indices in messages:
        sparse = tem_tf.SparseGradient(tf.constant(values), tf.constant(indices), size)
        expected = sparse.add_to(expected)
    values, indices = zip(*messages, strict=True)
    like = [tf.ones([n]) for n in sizes]
    sums = ops.sum_messages(native.library(), values, indices, like, threads=threads)
    np.testing.assert_array_equal(bits(tf.concat(sums, axis=0)), bits(expected))
    assert [s.shape for s in sums] == [like_one.shape for like_one in like]
    for tensor in like:  # Somebody else, this test, still needs their buffers.
        np.testing.assert_array_equal(tensor, np.ones(tensor.shape))


@pytest.mark.parametrize(
    ("message", "values", "indices"),
    [
        ("names the entry 4 of a gradient of 4", [1.0], [4]),
        ("names the entry -1 of a gradient of 4", [1.0], [-1]),
        ("has 2 values and 1 indices", [1.0, 2.0], [0]),
    ],
)
def test_what_a_sum_refuses(message, values, indices):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.sum_messages(native.library(), [values], [indices], [tf.zeros([4])])
