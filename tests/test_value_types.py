"""Laws of the values on the wire: the nearest, ties to even, and no overflow."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_tf.wire import value_types
from tests.wire_messages import bits, normal_floats

LARGEST = np.finfo(np.float32).max


def rounded(values, value_dtype):
    return value_types.round_values(
        tf.constant(values, tf.float32), value_dtype
    ).numpy()


def test_bfloat16_is_the_nearest_with_ties_to_even():
    """Against its definition in whole numbers, for all upper halves of a float."""
    upper = np.arange(0x0080, 0x7F7F, dtype=np.uint32)
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        up = (lower > 0x8000) | ((lower == 0x8000) & (upper % 2 == 1))
        expected = ((upper + up) << 16).view(np.float32)
        values = (upper << 16 | lower).view(np.float32)
        np.testing.assert_array_equal(rounded(values, "bfloat16"), expected)
        np.testing.assert_array_equal(rounded(-values, "bfloat16"), -expected)


@pytest.mark.parametrize("scale", [-101, -20, 0, 13, 113])
def test_float16_is_the_nearest_with_ties_to_even(scale):
    """Against numpy's, for all halves below 2^15, and the middles between them."""
    halves = np.arange(0x7800, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves[1:] + halves[:-1]) / 2
    values = np.concatenate([halves, middles, middles * (1 + 2.0**-20), [2.0**14]])
    expected = values.astype(np.float16).astype(np.float64) * 2.0**scale
    values = (values * 2.0**scale).astype(np.float32)
    normal = (values == 0) | (np.abs(values) >= 2.0**-126)
    got = rounded(values[normal], "float16")
    np.testing.assert_array_equal(got, expected[normal])


@pytest.mark.parametrize(("value_dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(1, 20))
def test_rounding_is_relative_and_twice_is_once(value_dtype, digits, data, count):
    exponents = st.integers(-100, 126)
    if value_dtype == "float16":  # All its digits where values are of similar size.
        middle = data.draw(st.integers(-80, 100))
        exponents = st.integers(middle - 14, middle + 14)
    values = data.draw(normal_floats(count, exponents))
    once = rounded(values, value_dtype)
    assert np.all(np.abs(once - values) <= np.abs(values) * 2.0**-digits)
    np.testing.assert_array_equal(bits(rounded(once, value_dtype)), bits(once))


@pytest.mark.parametrize("value_dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("magnitude", [1e-6, 1e-30, 1e-6 / 1024, 1e4, 1e30])
def test_neither_small_nor_large_gradients_are_lost(value_dtype, magnitude):
    values = np.float32(magnitude) * np.linspace(1, 50, 100, dtype=np.float32)
    np.testing.assert_allclose(rounded(values, value_dtype), values, rtol=2.0**-8)


@pytest.mark.parametrize("value_dtype", ["bfloat16", "float16"])
def test_the_largest_float_does_not_become_infinite(value_dtype):
    got = rounded([LARGEST, -LARGEST, 1.0], value_dtype)
    assert np.all(np.isfinite(got))
    np.testing.assert_allclose(got[:2], [LARGEST, -LARGEST], rtol=2.0**-8)


@pytest.mark.parametrize("value_dtype", ["bfloat16", "float16"])
def test_nan_and_infinity_stay_what_they_are(value_dtype):
    np.testing.assert_array_equal(
        rounded([np.nan, np.inf, -np.inf], value_dtype), [np.nan, np.inf, -np.inf]
    )


def test_float16_takes_from_the_smallest_beside_the_largest():
    got = rounded([1.0, 2.0**-24, 2.0**-38, 2.0**-40], "float16")
    np.testing.assert_array_equal(got, [1.0, 2.0**-24, 2.0**-38, 0.0])


@pytest.mark.parametrize("value_dtype", value_types.VALUE_DTYPES)
def test_no_values_take_no_words(value_dtype):
    words, _ = value_types.encode_values(tf.zeros([0]), value_dtype)
    assert words.shape == (0,)
