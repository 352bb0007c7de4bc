"""The native wire code: the words of the TensorFlow ops, and safe on any input."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_tf import native, wire
from tem_tf.wire import VALUE_DTYPES
from tests.faults import mutated_payloads
from tests.wire_messages import bits, index_sets, message, normal_floats

NONE = tf.constant(0)


# ------------------------------------------------------------------------ broken words


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    return mutated_payloads.build(tmp_path_factory.mktemp("fuzz") / "wire_fuzz")


@pytest.mark.parametrize(
    "payloads", [5_000, pytest.param(120_000, marks=pytest.mark.slow)]
)
def test_no_broken_payload_is_read_beyond_its_end_or_to_wrong_sizes(fuzzer, payloads):
    """AddressSanitizer and UndefinedBehaviorSanitizer end it at the first fault."""
    result = subprocess.run(
        [fuzzer, str(payloads), "0"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    numbers = [int(word) for word in re.findall(r"\d+", result.stdout)]
    total, refused, reasons = numbers
    assert total == payloads
    assert 0.5 * total < refused < total  # Most mutations break a payload, not all.
    assert reasons == 10  # Every reason there is has been met.


# --------------------------------------------------------------- equal to the pure ops


@pytest.fixture(scope="module")
def ops():
    library = native.library()
    if library is None:
        pytest.skip(f"native kernels: {native.status().reason}")
    return library


@pytest.mark.slow
@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
@settings(max_examples=100, deadline=None)
@given(data=st.data(), chosen=index_sets(), flags=st.integers(0, 3))
def test_native_and_pure_words_and_messages_are_equal(
    ops, value_dtype, data, chosen, flags
):
    size, indices = chosen
    sent = message(size, indices, data.draw(normal_floats(len(indices))))
    block = tf.constant(data.draw(normal_floats(2)))
    for shared in (False, True):
        arguments = sent, block, tf.constant(flags), value_dtype, shared
        payload = wire.encode(*arguments)
        native = wire.encode(*arguments, library=ops)
        np.testing.assert_array_equal(native, payload)
        padded = tf.concat([payload, [5, 6]], axis=0)
        arguments = padded, size, 2, value_dtype, indices if shared else None
        pure = wire.decode(*arguments)
        got = wire.decode(*arguments, library=ops)
        for ours, theirs in (
            (got.message.values, pure.message.values),
            (got.block, pure.block),
        ):
            np.testing.assert_array_equal(bits(ours), bits(theirs))
        np.testing.assert_array_equal(got.message.indices, pure.message.indices)
        assert got.entries == pure.entries == len(indices)
        assert (got.words, got.flags) == (pure.words, pure.flags)


@pytest.mark.slow
def test_native_rounding_is_the_pure_one_for_every_kind_of_float(ops):
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2**32, 20_000, dtype=np.uint32)
    special = [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7F7FFFFF, 0x80000000]
    for values in (
        patterns.view(np.float32),  # Any bits.
        (patterns & 0x807FFFFF | 100 << 23).view(np.float32),  # One size.
        (patterns & 0x87FFFFFF | 96 << 23).view(np.float32),  # Several sizes.
        np.array(special, np.uint32).view(np.float32),
        np.zeros(5, np.float32),
    ):
        normal = (values == 0) | ~(np.abs(values) < 2.0**-126)
        sent = message(10**9, np.arange(normal.sum()), values[normal])
        for value_dtype in VALUE_DTYPES:
            payload = wire.encode(sent, tf.zeros([0]), NONE, value_dtype)
            native = wire.encode(sent, tf.zeros([0]), NONE, value_dtype, library=ops)
            np.testing.assert_array_equal(native, payload)


@pytest.mark.slow
@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
def test_native_and_pure_refuse_the_same_payloads_for_the_same_reasons(
    ops, value_dtype
):
    refused, different = mutated_payloads.compare(ops, value_dtype, 1000, seed=0)
    assert different == []
    assert 300 < refused < 950


@pytest.mark.slow
def test_native_encode_refuses_indices_that_do_not_ascend(ops):
    for indices in ([2, 1], [-1, 3], [3, 100]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="cannot write"):
            sent = message(100, indices, [1.0, 2.0])
            wire.encode(sent, tf.zeros([0]), NONE, library=ops)
