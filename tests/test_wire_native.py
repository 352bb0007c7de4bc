"""The native wire code: the words of the TensorFlow ops, and safe on any input."""

import pathlib
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
from tests.wire_messages import bits, index_sets, message, normal_floats

SOURCES = pathlib.Path(native.__file__).parent / "src"
FUZZER = pathlib.Path(__file__).with_name("wire_fuzz.cc")
NONE = tf.constant(0)


def compile_cpp(source, output, *flags):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    command = ["g++", "-std=c++17", f"-I{SOURCES}", str(source), "-o", str(output)]
    result = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return output


# ------------------------------------------------------------------------ broken words


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    sanitizers = "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    output = tmp_path_factory.mktemp("fuzz") / "wire_fuzz"
    warnings = "-Wall", "-Wextra", "-Werror"
    return compile_cpp(FUZZER, output, "-O1", "-g", *sanitizers, *warnings)


@pytest.mark.parametrize(
    "payloads", [5_000, pytest.param(120_000, marks=pytest.mark.slow)]
)
def test_no_broken_payload_is_read_beyond_its_end_or_to_wrong_sizes(fuzzer, payloads):
    """AddressSanitizer and UndefinedBehaviorSanitizer end it at the first fault."""
    result = subprocess.run(
        [fuzzer, str(payloads)], capture_output=True, text=True, timeout=120
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


def mutate(payload, rng):
    """A payload with flipped bits, another length, or an edited header."""
    payload = payload.copy()
    kind = rng.integers(4)
    if kind == 0:
        for _ in range(rng.integers(1, 5)):
            payload[rng.integers(len(payload))] ^= np.int32(1) << rng.integers(31)
    elif kind == 1:
        payload = payload[: rng.integers(len(payload))]
    elif kind == 2:
        more = rng.integers(-(2**31), 2**31, rng.integers(1, 5), np.int32)
        payload = np.concatenate([payload, more])
        payload[1] += rng.integers(0, 2) * len(more)
    else:
        payload[rng.integers(6)] += rng.integers(-2, 3)
    return payload


@pytest.mark.slow
@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
def test_native_and_pure_refuse_the_same_payloads_for_the_same_reasons(
    ops, value_dtype
):
    size, block_size = 400, 2
    shape = [tf.TensorSpec([None], tf.int32)]

    def decoder(library):
        def decode(payload):
            got = wire.decode(payload, size, block_size, value_dtype, library=library)
            return got.message.values, got.message.indices, got.block

        return tf.function(decode, input_signature=shape)

    native, pure = decoder(ops), decoder(None)

    def outcome(decode, payload):
        try:
            return decode(tf.constant(payload))
        except tf.errors.InvalidArgumentError as error:
            return re.search(r"cannot read the wire: [^.?]*[.?]", error.message)[0]

    rng = np.random.default_rng(0)
    refused = 0
    for count in [0, 1, 10, 120, 399] * 200:
        indices = np.sort(rng.choice(size, count, replace=False))
        sent = message(size, indices, rng.normal(size=count))
        block = tf.constant(rng.normal(size=block_size), tf.float32)
        payload = wire.encode(sent, block, NONE, value_dtype, library=ops)
        payload = mutate(payload.numpy(), rng)
        ours, theirs = outcome(native, payload), outcome(pure, payload)
        if isinstance(theirs, str):
            refused += 1
            assert ours == theirs
        else:
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
    assert 300 < refused < 950


@pytest.mark.slow
def test_native_encode_refuses_indices_that_do_not_ascend(ops):
    for indices in ([2, 1], [-1, 3], [3, 100]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="cannot write"):
            sent = message(100, indices, [1.0, 2.0])
            wire.encode(sent, tf.zeros([0]), NONE, library=ops)
