"""Laws of the wire format: exact, never empty, and it refuses garbage."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_tf import wire
from tem_tf.sparse_gradient import SparseGradient

NONE = tf.constant(0)


def message(size, indices, values):
    return SparseGradient(
        tf.constant(values, tf.float32, [len(values)]),
        tf.constant(indices, tf.int32, [len(indices)]),
        size,
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(1, 40), block_size=st.integers(0, 5))
def test_decode_undoes_encode_to_the_bit(data, size, block_size):
    indices = sorted(data.draw(st.sets(st.integers(0, size - 1))))
    words = st.integers(-(2**31), 2**31 - 1)  # Any bits, NaNs included.
    length = len(indices) + block_size
    bits = data.draw(st.lists(words, min_size=length, max_size=length))
    floats = np.array(bits, np.int32).view(np.float32)
    values, block = floats[: len(indices)], floats[len(indices) :]
    padding = data.draw(st.integers(0, 4))
    flag = data.draw(st.integers(0, 1))

    sent = message(size, indices, values)
    payload = wire.encode(sent, tf.constant(block, tf.float32), tf.constant(flag))
    assert payload.shape[0] == wire.HEADER_WORDS + 2 * len(indices) + block_size
    got = wire.decode(tf.pad(payload, [[0, padding]]), size, block_size)
    np.testing.assert_array_equal(got.message.indices, indices)
    for ours, theirs in ((got.message.values, values), (got.block, block)):
        np.testing.assert_array_equal(
            ours.numpy().view(np.int32), np.asarray(theirs).view(np.int32)
        )
    assert got.words == payload.shape[0]
    assert got.nonfinite == flag


@pytest.mark.parametrize("size", [1, 5, 2**31 - 1])
def test_an_empty_message_has_a_header(size):
    payload = wire.encode(message(size, [], []), tf.zeros([0]), NONE)
    assert payload.shape[0] == wire.HEADER_WORDS
    assert wire.decode(payload, size, 0).message.values.shape == (0,)


def test_the_last_index_of_the_largest_vector_survives():
    sent = message(2**31 - 1, [0, 2**31 - 2], [1.0, 2.0])
    got = wire.decode(wire.encode(sent, tf.zeros([0]), NONE), 2**31 - 1, 0)
    np.testing.assert_array_equal(got.message.indices, [0, 2**31 - 2])


def test_the_bytes_are_those_of_the_documentation():
    payload = wire.encode(message(7, [3], [1.0]), tf.constant([2.0]), tf.constant(1))
    assert payload.numpy().astype("<i4").tobytes() == (
        b"\x01MET"
        + bytes([9, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
        + bytes([3, 0, 0, 0])
        + b"\x00\x00\x80\x3f"
        + b"\x00\x00\x00\x40"
    )


@pytest.mark.parametrize(
    ("word", "value", "says"),
    [
        (0, 17, "not of this wire format and version"),
        (2, 8, "not for a gradient of 7 \\+ 1 entries"),
        (4, 2, "not for a gradient of 7 \\+ 1 entries"),
        (1, 8, "lengths in a payload's header"),
        (1, 900, "lengths in a payload's header"),
        (3, -1, "lengths in a payload's header"),
        (3, 8, "lengths in a payload's header"),
        (6, 7, "names an entry outside"),
        (6, -1, "names an entry outside"),
    ],
)
def test_decode_refuses_garbage(word, value, says):
    payload = wire.encode(message(7, [3], [1.0]), tf.constant([2.0]), NONE).numpy()
    payload[word] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=says):
        wire.decode(tf.constant(payload), 7, 1)


@pytest.mark.parametrize("words", range(9))
def test_decode_refuses_a_payload_that_is_cut_short(words):
    payload = wire.encode(message(7, [3], [1.0]), tf.constant([2.0]), NONE)[:words]
    with pytest.raises(tf.errors.InvalidArgumentError, match="cannot read the wire"):
        wire.decode(payload, 7, 1)
