"""Laws of the sum of payloads: the same bits by any way, in order, or a refusal."""

import numpy as np
import pytest
import tensorflow as tf

from tem_tf import native, wire
from tem_tf.wire import VALUE_DTYPES
from tests.native_cases import bits, needs_native
from tests.wire_messages import message

SIZES = [5, 1, 290, 0, 104]  # One variable is empty.
SIZE = 400
BLOCK_SIZE = 3
# Few entries, none, all, a third, half: gaps, gaps, all, all, bitmap with float32.
COUNTS = [10, 0, 399, 400, 130, 1, 120, 7]
WAYS = ["operations", pytest.param("kernels", marks=needs_native)]


def library_of(way):
    return native.library() if way == "kernels" else None


def sent_messages(counts=COUNTS, size=SIZE, same=False, seed=0):
    """Messages with values of many magnitudes, so that their order shows in the sum."""
    rng = np.random.default_rng(seed)
    indices = [np.sort(rng.choice(size, count, replace=False)) for count in counts]
    sent = []
    for chosen in indices:
        chosen = rng.permutation(indices[0]) if same and not sent else chosen
        chosen = sent[0].indices if same and sent else chosen
        exponents = rng.integers(-8, 8, size=len(chosen))
        values = rng.normal(size=len(chosen)) * 10.0**exponents
        values[rng.random(len(chosen)) < 0.2] = -0.0
        sent.append(message(size, chosen, np.float32(values)))
    return sent


def rows_of(sent, blocks, value_dtype="float32", shared=False):
    """Payloads one below the other, padded with garbage up to the longest."""
    flags = [i % 4 for i in range(len(sent))]  # No flag, either, both.
    payloads = [
        wire.encode(one, tf.constant(block), tf.constant(flag), value_dtype, shared)
        for one, block, flag in zip(sent, blocks, flags, strict=True)
    ]
    rows = np.full([len(sent), max(map(len, payloads)) + 2], -7, np.int32)
    for row, payload in zip(rows, payloads, strict=True):
        row[: len(payload)] = payload
    return tf.constant(rows), flags


def blocks_for(sent, seed=1):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=[len(sent), BLOCK_SIZE])
    return np.float32(numbers * 10.0 ** rng.integers(-8, 8, size=numbers.shape))


def one_by_one(rows, value_dtype, shared_indices=None):
    """Decoding each and adding up, written out: what any way has to give."""
    got = [
        wire.decode(row, SIZE, BLOCK_SIZE, value_dtype, shared_indices) for row in rows
    ]
    block = tf.zeros([BLOCK_SIZE])
    for one in got:
        block += one.block
    return _in_order([one.message for one in got]), block


def _in_order(messages):
    """Their sum as one vector, the first scattered and every other one added."""
    total = messages[0].to_dense()
    for following in messages[1:]:
        total = following.add_to(total)
    return total


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
def test_the_sum_is_that_of_one_message_after_the_other(way, in_graph, value_dtype):
    sent = sent_messages()
    blocks = blocks_for(sent)
    rows, flags = rows_of(sent, blocks, value_dtype)
    assert {row[5].numpy() & 15 for row in rows} == {wire.GAPS, wire.BITMAP, wire.ALL}

    def add_up(rows):
        return wire.sum_payloads(
            rows, SIZES, BLOCK_SIZE, value_dtype, library=library_of(way)
        )

    if in_graph:
        unknown = [tf.TensorSpec([None, None], tf.int32)]
        add_up = tf.function(add_up, input_signature=unknown)
    got = add_up(rows)
    total, block = one_by_one(rows, value_dtype)
    assert [part.shape for part in got.totals] == [(size,) for size in SIZES]
    np.testing.assert_array_equal(bits(tf.concat(got.totals, 0)), bits(total))
    np.testing.assert_array_equal(bits(got.block), bits(block))
    assert got.nonfinite == sum(flag & wire.NONFINITE for flag in flags)
    assert got.empty == sum(flag & wire.EMPTY for flag in flags) // wire.EMPTY
    assert got.entries == sum(COUNTS)
    assert got.entries.dtype == tf.int64


@pytest.mark.parametrize("way", WAYS)
def test_the_sum_is_numpys(way):
    """Independent of the plugin's own sums: the order of additions written out."""
    sent = sent_messages()
    blocks = blocks_for(sent)
    rows, _ = rows_of(sent, blocks)
    expected, block = np.zeros(SIZE, np.float32), np.zeros(3, np.float32)
    for one, own in zip(sent, blocks, strict=True):
        expected[one.indices.numpy()] += one.values.numpy()
        block += own
    got = wire.sum_payloads(rows, SIZES, BLOCK_SIZE, library=library_of(way))
    np.testing.assert_array_equal(bits(tf.concat(got.totals, 0)), bits(expected))
    np.testing.assert_array_equal(bits(got.block), bits(block))


@pytest.mark.parametrize("way", WAYS)
def test_another_order_of_rows_gives_other_bits(way):
    """So that the tests of the order above can fail."""
    sent = sent_messages()
    rows, _ = rows_of(sent, blocks_for(sent))
    library = library_of(way)
    forth, back = (
        bits(tf.concat(wire.sum_payloads(x, SIZES, 3, library=library).totals, 0))
        for x in (rows, rows[::-1])
    )
    assert np.any(forth != back)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
@pytest.mark.parametrize("count", [0, 9, 400])
def test_shared_indices_may_be_in_any_order(way, value_dtype, count):
    sent = sent_messages([count] * 3, same=True)
    rows, _ = rows_of(sent, blocks_for(sent), value_dtype, shared=True)
    indices = sent[0].indices
    assert count < 2 or np.any(np.diff(indices) < 0)
    got = wire.sum_payloads(
        rows, SIZES, BLOCK_SIZE, value_dtype, indices, library=library_of(way)
    )
    total, block = one_by_one(rows, value_dtype, indices)
    np.testing.assert_array_equal(bits(tf.concat(got.totals, 0)), bits(total))
    np.testing.assert_array_equal(bits(got.block), bits(block))
    assert got.entries == 3 * count


@pytest.mark.parametrize("way", WAYS)
def test_totals_have_the_shapes_of_like_which_keeps_its_numbers(way):
    sent = sent_messages()
    rows, _ = rows_of(sent, blocks_for(sent))
    like = [tf.ones(shape) for shape in ([5], [], [29, 10], [0, 4], [2, 52])]
    got = wire.sum_payloads(rows, SIZES, BLOCK_SIZE, like=like, library=library_of(way))
    assert [part.shape for part in got.totals] == [one.shape for one in like]
    flat = np.concatenate([np.reshape(part, -1) for part in got.totals])
    np.testing.assert_array_equal(bits(flat), bits(one_by_one(rows, "float32")[0]))
    for tensor in like:  # Somebody else, this test, still needs them.
        np.testing.assert_array_equal(tensor, np.ones(tensor.shape))


@pytest.mark.parametrize("way", WAYS)
def test_totals_in_the_buffers_of_like_have_the_same_bits(way):
    sent = sent_messages()
    rows, _ = rows_of(sent, blocks_for(sent))

    @tf.function
    def step(rows, scale):
        like = [tf.fill([size], scale) for size in SIZES]  # Nobody else needs them.
        return wire.sum_payloads(
            rows, SIZES, BLOCK_SIZE, like=like, library=library_of(way)
        ).totals

    got = bits(tf.concat(step(rows, tf.constant(np.nan)), 0))
    np.testing.assert_array_equal(got, bits(one_by_one(rows, "float32")[0]))


@pytest.mark.parametrize("way", WAYS)
def test_shapes_are_known_as_far_as_they_can_be(way):
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, 2], tf.float32),
        ]
    )
    def add_up(rows, like):
        got = wire.sum_payloads(rows, [4, 2], 3, library=library_of(way))
        assert [part.shape for part in got.totals] == [[4], [2]]
        assert got.block.shape == [3]
        assert got.nonfinite.shape == got.empty.shape == got.entries.shape == []
        got = wire.sum_payloads(rows, [4], 3, like=[like], library=library_of(way))
        assert got.totals[0].shape.as_list() in ([None, 2], [2, 2])
        return tf.constant(0)

    add_up.get_concrete_function()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [[1], [0, 1, 0], [], [0]])
@pytest.mark.parametrize("replicas", [0, 1, 3])
def test_the_smallest_sums(way, sizes, replicas):
    sent = [message(sum(sizes), [0] * sum(sizes), [2.5] * sum(sizes))] * replicas
    blocks = np.float32([[1, 2, 3]] * replicas)
    rows = tf.zeros([0, 6], tf.int32)
    if replicas:
        rows, _ = rows_of(sent, blocks)
    got = wire.sum_payloads(rows, sizes, BLOCK_SIZE, library=library_of(way))
    assert [part.shape for part in got.totals] == [(size,) for size in sizes]
    for part in got.totals:
        np.testing.assert_array_equal(part, [2.5 * replicas] * len(part))
    np.testing.assert_array_equal(got.block, [replicas, 2 * replicas, 3 * replicas])
    assert got.entries == sum(sizes) * replicas


@needs_native
@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_several_threads_give_the_same_bits_for_large_variables(value_dtype, threads):
    """Pieces of variables end at odd places, within a word of 16-bit values."""
    sizes = [3, 150_001, 7, 70_000]
    sent = sent_messages([1_000, sum(sizes), 200_000, 5], sum(sizes))
    blocks = np.zeros([4, 0], np.float32)
    rows, _ = rows_of(sent, blocks, value_dtype)
    pure = wire.sum_payloads(rows, sizes, 0, value_dtype)
    got = wire.sum_payloads(
        rows, sizes, 0, value_dtype, library=native.library(), threads=threads
    )
    for ours, theirs in zip(got.totals, pure.totals, strict=True):
        np.testing.assert_array_equal(bits(ours), bits(theirs))


@needs_native
def test_subnormal_numbers_are_zero_by_either_way():
    subnormal = np.float32([1e-40, -1e-42, 1.0])
    sent = [message(3, range(3), subnormal)] * 2
    rows, _ = rows_of(sent, np.tile(subnormal, [2, 1]))

    @tf.function
    def both(rows):
        ways = [library_of("operations"), library_of("kernels")]
        return [wire.sum_payloads(rows, [3], 3, library=way)[:2] for way in ways]

    (pure, pure_block), (got, block) = both(rows)
    np.testing.assert_array_equal(bits(got[0]), bits(pure[0]))
    np.testing.assert_array_equal(bits(block), bits(pure_block))
    np.testing.assert_array_equal(got[0], [0, 0, 2])


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("broken", [0, 2])
@pytest.mark.parametrize(
    ("word", "value", "says"),
    [
        (0, 0x54454D02, "is of wire format 2; this tem_tf reads 3: do all workers run"),
        (0, 7, "not of the wire format of tem_tf"),
        (1, 10**6, "lengths in the header"),
        (2, 399, "for a gradient of another size"),
        (3, 401, "lengths in the header"),
        (4, 2, "for a gradient of another size"),
        (5, 1 << 4, "values of a payload are of another type"),
        (5, 3 << 20, "message of kind 3 where one of kind 0 is read"),
        (5, 4 << 16, "codes that do not exist"),
        (5, wire.SHARED, "codes that do not exist"),
        (6, 0, "not ascending numbers within the gradient"),
    ],
)
def test_a_payload_that_decode_refuses_is_refused(way, broken, word, value, says):
    sent = sent_messages([3, 3, 3])
    rows = rows_of(sent, blocks_for(sent))[0].numpy()
    rows[broken, word] = value
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"read the wire: .*{says}"
    ):
        wire.sum_payloads(rows, SIZES, BLOCK_SIZE, library=library_of(way))


@pytest.mark.parametrize("way", WAYS)
def test_unused_bits_are_refused(way):
    sent = sent_messages([3, 3])
    rows = rows_of(sent, np.zeros([2, 0], np.float32), "bfloat16")[0].numpy()
    rows[1, rows[1, 1] - 1] |= 1 << 16
    with pytest.raises(tf.errors.InvalidArgumentError, match="unused bits of the val"):
        wire.sum_payloads(rows, SIZES, 0, "bfloat16", library=library_of(way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("words", [0, 5])
def test_rows_without_a_header_are_refused(way, words):
    rows = tf.zeros([2, words], tf.int32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shorter than its header"):
        wire.sum_payloads(rows, SIZES, BLOCK_SIZE, library=library_of(way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrong", [-1, 400])
def test_shared_indices_beyond_the_vector_are_refused(way, wrong):
    sent = sent_messages([2, 2], same=True)
    rows, _ = rows_of(sent, blocks_for(sent), shared=True)
    indices = tf.constant([0, wrong])
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="shared indices are not num"
    ):
        wire.sum_payloads(
            rows, SIZES, 3, shared_indices=indices, library=library_of(way)
        )


@pytest.mark.parametrize("way", WAYS)
def test_another_number_of_shared_indices_is_refused(way):
    sent = sent_messages([2, 2], same=True)
    rows, _ = rows_of(sent, blocks_for(sent), shared=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="lengths in the header"):
        wire.sum_payloads(
            rows, SIZES, 3, shared_indices=tf.constant([0]), library=library_of(way)
        )


@needs_native
@pytest.mark.parametrize(
    ("sizes", "shapes", "says"),
    [
        ([2, 3], [[2]], "2 sizes for 2 totals like 1 tensors"),
        ([2, 3], [[2], [4]], "total of 3 entries is to be like 4"),
    ],
)
def test_like_must_be_as_large_as_the_sizes_say(sizes, shapes, says):
    like = [tf.zeros(shape) for shape in shapes]
    rows = wire.encode(message(5, [1], [1.0]), tf.zeros([0]), tf.constant(0))[None]

    @tf.function
    def add_up():
        library = native.library()
        return wire.sum_payloads(rows, sizes, 0, like=like, library=library).totals

    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=says):
        add_up()


# --------------------------------------------------------------------------- the graph


@pytest.mark.parametrize("way", WAYS)
def test_the_graph_does_not_grow_with_replicas(way):
    def nodes(replicas):
        @tf.function(input_signature=[tf.TensorSpec([replicas, None], tf.int32)])
        def add_up(rows):
            return wire.sum_payloads(rows, SIZES, BLOCK_SIZE, library=library_of(way))

        definition = add_up.get_concrete_function().graph.as_graph_def()
        library = definition.library.function
        return len(definition.node) + sum(len(one.node_def) for one in library)

    assert nodes(256) == nodes(2) == nodes(None)
