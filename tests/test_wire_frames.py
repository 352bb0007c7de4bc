"""Laws of messages with a body of their own: whole, told apart, and never garbage."""

import numpy as np
import pytest
import tensorflow as tf

from tem_tf import wire
from tests.wire_messages import bits, message

BODY = tf.constant([7, -1, 2**31 - 1])
BLOCK = tf.constant([2.0, -0.5])


def written(kind=5, size=100, count=3, body=BODY, block=BLOCK, flags=wire.NONFINITE):
    return wire.frame(kind, size, count, body, block, flags)


def refused(payload, says, kind=5, size=100, block_size=2):
    with pytest.raises(tf.errors.InvalidArgumentError, match=says):
        wire.open_frame(tf.constant(payload, tf.int32), kind, size, block_size)


@pytest.mark.parametrize("kind", [1, wire.GREATEST_KIND])
@pytest.mark.parametrize("flags", range(4))
@pytest.mark.parametrize("body", [[], [0], list(range(-3, 4))])
@pytest.mark.parametrize("block", [[], [1.5, -0.0, np.nan]])
def test_open_frame_undoes_frame_to_the_bit(kind, flags, body, block):
    body, block = tf.constant(body, tf.int32), tf.constant(block, tf.float32)
    payload = wire.frame(kind, 100, tf.constant(4), body, block, tf.constant(flags))
    length = wire.HEADER_WORDS + len(body) + len(block)
    assert payload.shape == (length,)
    padded = tf.concat([payload, [5, 6]], axis=0)
    got = wire.open_frame(padded, kind, 100, len(block))
    np.testing.assert_array_equal(got.body, body)
    np.testing.assert_array_equal(bits(got.block), bits(block))
    assert (got.count, got.words, got.flags) == (4, length, flags)


def test_the_bytes_of_a_frame_are_those_of_the_documentation():
    assert written(flags=wire.EMPTY).numpy().astype("<i4").tobytes() == (
        b"\x03MET"
        + bytes([11, 0, 0, 0, 100, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0])
        + bytes([0, 0, 0x52, 0])  # Kind 5, and the flag of an empty batch.
        + np.array([7, -1, 2**31 - 1], "<i4").tobytes()
        + np.array([2.0, -0.5], "<f4").tobytes()
    )


def test_a_frame_in_a_graph_has_the_shapes_that_are_known():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([2], tf.float32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def there_and_back(body, block, count):
        got = wire.open_frame(written(5, 100, count, body, block, 0), 5, 100, 2)
        assert got.body.shape.rank == 1
        assert got.block.shape == [2]
        assert got.count.shape == got.words.shape == got.flags.shape == []
        return got

    got = there_and_back(BODY, BLOCK, tf.constant(100))
    np.testing.assert_array_equal(got.body, BODY)
    assert got.count == 100


def test_a_frame_of_another_kind_names_both():
    refused(written(5), "message of kind 5 where one of kind 6 is read: do all", kind=6)


def test_entries_and_frames_are_not_taken_for_one_another():
    sent = message(100, [3], [1.0])
    entries = wire.encode(sent, BLOCK, tf.constant(0))
    refused(entries, "message of kind 0 where one of kind 5 is read")
    with pytest.raises(tf.errors.InvalidArgumentError, match="kind 5 where one of ki"):
        wire.decode(written(), 100, 2)


@pytest.mark.parametrize(
    ("word", "value", "says"),
    [
        (0, 0x54454D02, "is of wire format 2; this tem_tf reads 3: do all workers run"),
        (0, 0, "not of the wire format of tem_tf"),
        (1, 7, "lengths in the header of a payload"),  # Header and block: 8.
        (1, -1, "lengths in the header of a payload"),
        (1, 12, "lengths in the header of a payload"),
        (2, 99, "for a gradient of another size"),
        (3, -1, "lengths in the header of a payload"),
        (3, 101, "lengths in the header of a payload"),
        (4, 3, "for a gradient of another size"),
        (5, 5 << 20 | 1, "codes that do not exist"),
        (5, 5 << 20 | 1 << 4, "codes that do not exist"),
        (5, 5 << 20 | 1 << 8, "codes that do not exist"),
        (5, 5 << 20 | 4 << 16, "codes that do not exist"),
        (5, 5 << 20 | 1 << 24, "codes that do not exist"),
        (5, 0x80500000 - (1 << 32), "codes that do not exist"),
    ],
)
def test_open_frame_refuses_garbage(word, value, says):
    payload = written().numpy()
    payload[word] = value
    refused(payload, says)


@pytest.mark.parametrize("words", range(11))
def test_open_frame_refuses_a_frame_that_is_cut_short(words):
    says = "shorter than its header" if words < 6 else "lengths in the header"
    refused(written()[:words], says)


def test_open_frame_refuses_another_block():
    refused(written(), "for a gradient of another size", block_size=1)


@pytest.mark.parametrize("kind", [0, -1, 16])
def test_a_frame_needs_a_kind_of_its_own(kind):
    says = rf"`kind` must be in \[1, 15\]. Received: kind={kind}. Kind 0 is entries"
    with pytest.raises(ValueError, match=says):
        written(kind)
    with pytest.raises(ValueError, match=says):
        wire.open_frame(written(), kind, 100, 2)


@pytest.mark.parametrize(
    ("count", "flags", "says"),
    [
        (-1, 0, "cannot write the wire: a message has fewer entries than none"),
        (101, 0, "cannot write the wire: a message has fewer entries than none"),
        (3, 4, "cannot write the wire: a message has flags that do not exist"),
    ],
)
def test_frame_refuses_what_could_not_be_read(count, flags, says):
    with pytest.raises(tf.errors.InvalidArgumentError, match=says):
        written(count=count, flags=flags)
