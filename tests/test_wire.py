"""Laws of the wire format: exact, never empty, small, and it refuses garbage."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_tf import wire
from tem_tf.sparse_gradient import SparseGradient
from tem_tf.wire import VALUE_DTYPES
from tests.wire_messages import (
    LARGEST_SIZE,
    NOTHING,
    bits,
    index_sets,
    message,
    normal_floats,
)

NONE = tf.constant(0)
BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "int4": 4, "int2": 2}
BITS |= {"sign": 1}


def value_words(count, value_dtype):
    width = BITS[value_dtype]
    scales = math.ceil(math.ceil(count / 64) / 2) if width < 16 else 0
    return scales + math.ceil(count * width / 32)


def index_code(payload):
    return payload[5].numpy() & 15


def refused(payload, says, *expected):
    with pytest.raises(tf.errors.InvalidArgumentError, match=says):
        wire.decode(tf.constant(payload, tf.int32), *expected)


# --------------------------------------------------------------------------- exactness


@settings(max_examples=25, deadline=None)
@given(data=st.data(), chosen=index_sets(), block_size=st.integers(0, 5))
def test_decode_undoes_encode_to_the_bit(data, chosen, block_size):
    size, indices = chosen
    words = st.integers(-(2**31), 2**31 - 1)  # Any bits, NaNs included.
    length = len(indices) + block_size
    drawn = data.draw(st.lists(words, min_size=length, max_size=length))
    floats = np.array(drawn, np.int32).view(np.float32)
    values, block = floats[: len(indices)], floats[len(indices) :]
    padding = data.draw(st.lists(words, max_size=4))
    flags = data.draw(st.integers(0, 3))

    sent = message(size, indices, values)
    payload = wire.encode(sent, tf.constant(block, tf.float32), tf.constant(flags))
    got = wire.decode(
        tf.concat([payload, tf.constant(padding, tf.int32)], axis=0), size, block_size
    )
    assert got.entries == len(indices)
    if index_code(payload) == wire.ALL:
        everything = np.zeros(size, np.float32)
        everything[indices] = values
        indices, values = np.arange(size), everything
    np.testing.assert_array_equal(got.message.indices, indices)
    np.testing.assert_array_equal(bits(got.message.values), bits(values))
    np.testing.assert_array_equal(bits(got.block), bits(block))
    assert got.words == payload.shape[0]
    assert got.flags == flags
    assert (got.nonfinite, got.empty) == (flags % 2, flags // 2)


@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
@settings(max_examples=12, deadline=None)
@given(data=st.data(), chosen=index_sets(), block_size=st.integers(0, 3))
def test_what_is_rounded_first_is_decoded_to_the_bit(
    value_dtype, data, chosen, block_size
):
    """Law 1: corrected - decoded is corrected - rounded, and that is the residual."""
    size, indices = chosen
    values = data.draw(normal_floats(len(indices)))
    block = data.draw(normal_floats(block_size))
    sent = wire.rounded(message(size, indices, values), value_dtype)
    payload = wire.encode(sent, tf.constant(block), NONE, value_dtype)
    got = wire.decode(payload, size, block_size, value_dtype)
    got_indices, got_values = got.message.indices.numpy(), bits(got.message.values)
    decoded = dict(zip(got_indices, got_values, strict=True))
    for index, value in zip(indices, bits(sent.values), strict=True):
        assert decoded.pop(index) == value
    assert not any(decoded.values())  # What was not sent and is there is zero.
    np.testing.assert_array_equal(bits(got.block), bits(block))


@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
@settings(max_examples=10, deadline=None)
@given(data=st.data(), count=st.integers(0, 9))
def test_shared_indices_do_not_travel(value_dtype, data, count):
    size = 50
    indices = data.draw(st.permutations(range(size)))[:count]
    values = data.draw(normal_floats(count))
    sent = wire.rounded(message(size, indices, values), value_dtype)
    payload = wire.encode(sent, tf.constant([7.0]), NONE, value_dtype, shared=True)
    words = value_words(count, value_dtype)
    assert payload.shape[0] == wire.HEADER_WORDS + words + 1
    got = wire.decode(payload, size, 1, value_dtype, sent.indices)
    np.testing.assert_array_equal(bits(got.message.values), bits(sent.values))
    np.testing.assert_array_equal(got.message.indices, indices)


@pytest.mark.parametrize(
    "value_dtype",
    ["int2", *(pytest.param(x, marks=pytest.mark.slow) for x in VALUE_DTYPES[:3])],
)
def test_the_same_words_in_a_graph_for_every_index_code(value_dtype):
    size = 300
    rng = np.random.default_rng(0)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def there_and_back(values, indices):
        sent = SparseGradient(values, indices, size)
        payload = wire.encode(sent, tf.constant([1.0]), NONE, value_dtype)
        got = wire.decode(payload, size, 1, value_dtype)
        return payload, got.message.to_dense(), got.block

    codes = set()
    for count in (0, 10, 120, size):
        indices = np.sort(rng.choice(size, count, replace=False))
        sent = message(size, indices, rng.normal(size=count))
        payload, dense, block = there_and_back(sent.values, sent.indices)
        eager = wire.encode(sent, tf.constant([1.0]), NONE, value_dtype)
        np.testing.assert_array_equal(payload, eager)
        expected = wire.rounded(sent, value_dtype).to_dense()
        np.testing.assert_array_equal(dense, expected)
        assert block == 1.0
        codes.add(index_code(payload))
    assert codes == {wire.GAPS, wire.BITMAP, wire.ALL}


@pytest.mark.parametrize("size", [1, 5, LARGEST_SIZE])
def test_an_empty_message_has_a_header(size):
    payload = wire.encode(message(size, [], []), tf.zeros([0]), NONE)
    assert payload.shape[0] == wire.HEADER_WORDS
    assert wire.decode(payload, size, 0).message.values.shape == (0,)


def test_an_empty_vector_has_a_header():
    payload = wire.encode(message(0, [], []), tf.constant([1.0]), NONE)
    assert wire.decode(payload, 0, 1).block == [1.0]


def test_the_last_index_of_the_largest_vector_survives():
    sent = message(LARGEST_SIZE, [0, LARGEST_SIZE - 1], [1.0, 2.0])
    payload = wire.encode(sent, tf.zeros([0]), NONE)
    got = wire.decode(payload, LARGEST_SIZE, 0)
    np.testing.assert_array_equal(got.message.indices, [0, LARGEST_SIZE - 1])
    assert payload.shape[0] == wire.HEADER_WORDS + 2 + 2  # 32 bits for either index.


# --------------------------------------------------------------------- byte by byte


def test_the_bytes_of_gaps_are_those_of_the_documentation():
    sent = message(100, [3, 40, 41], [1.0, -2.0, 0.5])
    payload = wire.encode(sent, tf.constant([2.0]), tf.constant(1))
    # Gaps 3, 36, 0 with l = 3: low bits 3, 4, 0; quotients 0, 4, 0: 1, 00001, 1.
    stream = 0b1_10000_1 << 9 | 0 << 6 | 4 << 3 | 3
    assert payload.numpy().astype("<i4").tobytes() == (
        b"\x03MET"
        + bytes([11, 0, 0, 0, 100, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0])
        + bytes([0, 3, 1, 0])  # Gaps and float32, l, flags, scale.
        + stream.to_bytes(4, "little")
        + np.array([1.0, -2.0, 0.5, 2.0], "<f4").tobytes()
    )


def test_the_bytes_of_a_bitmap_are_those_of_the_documentation():
    sent = message(40, [1, 3, *range(5, 28), 39], np.ones(26))
    payload = wire.encode(sent, tf.zeros([0]), NONE, "bfloat16")
    bitmap = sum(1 << i for i in [1, 3, *range(5, 28), 39])
    assert payload.numpy().astype("<i4").tobytes() == (
        b"\x03MET"
        + bytes([21, 0, 0, 0, 40, 0, 0, 0, 26, 0, 0, 0, 0, 0, 0, 0])
        + bytes([0x11, 0, 0, 0])
        + bitmap.to_bytes(8, "little")
        + b"\x80\x3f" * 26
    )


def test_the_bytes_of_everything_are_those_of_the_documentation():
    sent = message(3, [0, 2], [1.0, -(2.0**-20)])
    payload = wire.encode(sent, tf.zeros([0]), NONE, "float16")
    # The scale is 2^-14: 1 travels as 2^14, and 2^-20 as 2^-6.
    assert payload.numpy().astype("<i4").tobytes() == (
        b"\x03MET"
        + bytes([8, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
        + bytes([0x22, 0, 0, 256 - 14])
        + np.array([2.0**14, 0.0, -(2.0**-6), 0.0], "<f2").tobytes()
    )


# -------------------------------------------------------------------------- the length


@settings(max_examples=20, deadline=None)
@given(chosen=index_sets(), value_dtype=st.sampled_from(VALUE_DTYPES))
def test_no_payload_is_longer_than_a_simpler_one(chosen, value_dtype):
    """Never more than 32 bits to an index, a bitmap, or values for everything."""
    size, indices = chosen
    k = len(indices)
    sent = message(size, indices, np.ones(k))
    payload = wire.encode(sent, tf.zeros([0]), NONE, value_dtype)
    values = value_words(k, value_dtype)
    simpler = values + min(k, math.ceil(size / 32))
    if BITS[value_dtype] >= 16 or k == size:  # Few bits have no zero.
        simpler = min(simpler, value_words(size, value_dtype))
    assert payload.shape[0] <= wire.HEADER_WORDS + simpler


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.3])
def test_random_indices_take_little_more_than_they_must(density):
    size = 300_000
    k = int(density * size)
    rng = np.random.default_rng(0)
    indices = np.sort(rng.choice(size, k, replace=False))
    payload = wire.encode(message(size, indices, np.ones(k)), tf.zeros([0]), NONE)
    least = math.lgamma(size + 1) - math.lgamma(k + 1) - math.lgamma(size - k + 1)
    taken = 32 * (payload.shape[0] - wire.HEADER_WORDS - k)
    assert least / math.log(2) <= taken <= 1.04 * least / math.log(2)


# -------------------------------------------------------------------------- refusals

SENT = message(100, [3, 40, 41], [1.0, -2.0, 0.5])  # 6 + 1 + 3 + 1 words.
BITMAP = message(40, range(0, 40, 2), np.ones(20))  # 6 + 2 + 20 words.
EVERYTHING = message(3, [0, 2], [1.0, 2.0])  # 6 + 3 words.


@pytest.mark.parametrize(
    ("sent", "word", "value", "says"),
    [
        (SENT, 0, b"\x02MET", "is of wire format 2; this tem_tf reads 3: do all work"),
        (SENT, 0, b"\x01MET", "is of wire format 1; this tem_tf reads 3: do all work"),
        (SENT, 0, b"\xc8MET", "is of wire format 200; this tem_tf reads 3: do all w"),
        (SENT, 0, b"METX", "not of the wire format of tem_tf: do all workers run the"),
        (SENT, 2, 101, "for a gradient of another size"),
        (SENT, 4, 0, "for a gradient of another size"),
        (SENT, 5, 3 << 8 | 0x10, "values of a payload are of another type"),
        (SENT, 5, 3 << 8 | 4, "codes that do not exist"),
        (SENT, 5, 31 << 8, "codes that do not exist"),
        (SENT, 5, 3 << 8 | 4 << 16, "codes that do not exist"),
        (SENT, 5, 3 << 8 | 9 << 20, "message of kind 9 where one of kind 0 is read"),
        (SENT, 5, 3 << 8 | 1 << 24, "codes that do not exist"),
        (SENT, 5, 3, "codes that do not exist"),  # Shared, and it was not expected.
        (SENT, 1, 9, "lengths in the header of a payload"),
        (SENT, 1, 10, "not ascending numbers"),  # No word of indices.
        (SENT, 1, 12, "lengths in the header of a payload"),
        (SENT, 1, -1, "lengths in the header of a payload"),
        (SENT, 3, -1, "lengths in the header of a payload"),
        (SENT, 3, 4, "not ascending numbers"),
        (SENT, 3, 101, "lengths in the header of a payload"),
        (SENT, 6, 0, "not ascending numbers"),  # No one bit.
        (SENT, 6, 0b1_10000_1 << 9 | 1 << 30, "not ascending numbers"),  # One more.
        (SENT, 6, 0b111 << 27, "not ascending numbers"),  # Beyond the vector.
        (BITMAP, 1, 27, "lengths in the header of a payload"),
        (BITMAP, 6, 0, "not ascending numbers"),
        (BITMAP, 7, 0x54 | 1 << 8, "not ascending numbers"),
        (EVERYTHING, 3, 4, "lengths in the header of a payload"),
    ],
)
def test_decode_refuses_garbage(sent, word, value, says):
    block = tf.constant([2.0] if sent is SENT else [], tf.float32)
    payload = wire.encode(sent, block, NONE).numpy()
    value = int.from_bytes(value, "little") if isinstance(value, bytes) else value
    payload[word] = value
    refused(payload, says, sent.size, len(block))


@pytest.mark.parametrize("words", range(11))
def test_decode_refuses_a_payload_that_is_cut_short(words):
    payload = wire.encode(SENT, tf.constant([2.0]), NONE)
    says = (
        "shorter than its header" if words < 6 else "lengths in the header of a payload"
    )
    refused(payload[:words], says, 100, 1)


@pytest.mark.parametrize(("scale", "value_dtype"), [(114, "float16"), (1, "bfloat16")])
def test_decode_refuses_a_scale_that_does_not_exist(scale, value_dtype):
    payload = wire.encode(SENT, tf.zeros([0]), NONE, value_dtype).numpy()
    payload[5] = payload[5] & 0xFFFFFF | scale << 24
    refused(payload, "codes that do not exist", 100, 0, value_dtype)


def test_decode_refuses_unused_bits_that_are_not_zero():
    payload = wire.encode(SENT, tf.zeros([0]), NONE, "float16").numpy()
    payload[-1] |= 1 << 16
    refused(payload, "unused bits of the values of a payload", 100, 0, "float16")


def test_decode_refuses_another_number_of_shared_indices():
    payload = wire.encode(SENT, tf.zeros([0]), NONE, shared=True)
    says = "lengths in the header of a payload"
    refused(payload, says, 100, 0, "float32", SENT.indices[:2])
    own = wire.encode(SENT, tf.zeros([0]), NONE)
    refused(own, "codes that do not exist", 100, 0, "float32", SENT.indices)


@pytest.mark.parametrize("indices", [[2, 1], [1, 1], [-1, 3], [3, 100]])
def test_encode_refuses_indices_that_do_not_ascend_in_the_vector(indices):
    with pytest.raises(tf.errors.InvalidArgumentError, match="cannot write the wire"):
        wire.encode(message(100, indices, [1.0, 2.0]), tf.constant(NOTHING), NONE)


@pytest.mark.parametrize("flags", [-1, 4, 1 << 16])
def test_encode_refuses_flags_that_do_not_exist(flags):
    with pytest.raises(tf.errors.InvalidArgumentError, match="flags that do not exist"):
        wire.encode(SENT, tf.constant(NOTHING), tf.constant(flags))
