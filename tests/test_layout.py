"""Laws of tem_tf.layout and tem_tf.sparse_gradient."""

import numpy as np
import pytest
import tensorflow as tf

from tem_tf.layout import (
    Layout,
    Parts,
    Segment,
    as_dense,
    each,
    make_segments,
    pack,
    total_size,
    unpack,
)
from tem_tf.sparse_gradient import SparseGradient


def repeated_rows(dtype=tf.float32):
    """Of a table of 3 rows, of which row 2 is named twice."""
    return tf.IndexedSlices(
        tf.constant([[1, 2], [3, 4], [10, 20]], dtype),
        tf.constant([2, 0, 2], tf.int64),
        tf.constant([3, 2], tf.int64),
    )


SUMMED_ROWS = [[3, 4], [0, 0], [11, 22]]


def test_make_segments_lays_variables_end_to_end():
    segments = make_segments("abcd", [(3, 2), (0, 5), (), tf.TensorShape([2])])
    assert segments == (
        Segment("a", 0, (3, 2)),
        Segment("b", 6, (0, 5)),
        Segment("c", 6, ()),
        Segment("d", 7, (2,)),
    )
    assert [segment.size for segment in segments] == [6, 0, 1, 2]
    assert segments[3].slice == slice(7, 9)
    assert total_size(segments) == 9
    assert total_size(()) == 0
    with pytest.raises(ValueError):
        make_segments(["a", "b"], [(1,)])


def test_unpack_undoes_pack():
    tensors = [
        tf.constant([[1, 2], [3, 4]]),
        tf.constant(5),
        tf.zeros([0, 3], tf.int32),
        tf.constant([6]),
    ]
    vector = pack(tensors)
    assert vector.dtype == tf.int32
    np.testing.assert_array_equal(vector, [1, 2, 3, 4, 5, 6])
    for count in range(5):
        some = tensors[:count]
        segments = make_segments("abcd"[:count], [t.shape for t in some])
        for got, tensor in zip(unpack(pack(some), segments), some, strict=True):
            np.testing.assert_array_equal(got, np.ravel(tensor))


def test_pack_of_nothing_is_empty():
    assert pack([]).shape == (0,)


def test_each_refuses_lists_of_unequal_length():
    assert each(lambda a, b: a + b, [1, 2], [3, 4]) == [4, 6]
    with pytest.raises(ValueError):
        each(lambda a, b: a + b, [1, 2], [3])


@pytest.mark.parametrize(
    "dtype", [tf.float32, tf.bfloat16, tf.float64, tf.complex64, tf.int32]
)
def test_repeated_rows_of_an_embedding_are_summed(dtype):
    dense = as_dense(repeated_rows(dtype), [3, 2])
    assert (dense.dtype, dense.shape) == (dtype, (3, 2))
    np.testing.assert_array_equal(dense, np.array(SUMMED_ROWS, dtype.as_numpy_dtype))


# Of each: dtype and number of entries, and the part it goes to at `dense_below=4`.
GRADIENTS = {
    "large": (tf.float32, 4, 0),
    "small": (tf.float32, 3, 1),
    "bfloat16": (tf.bfloat16, 6, 0),
    "small bfloat16": (tf.bfloat16, 1, 1),
    "float16": (tf.float16, 5, 0),
    "float64": (tf.float64, 9, 2),
    "small float64": (tf.float64, 1, 2),
    "complex64": (tf.complex64, 9, 2),
    "complex128": (tf.complex128, 2, 2),
    "int32": (tf.int32, 7, 2),
    "int64": (tf.int64, 2, 2),
    "empty": (tf.float32, 0, 1),
}


def layout_of(gradients, dense_below=4):
    dtypes, sizes, _ = zip(*gradients.values(), strict=True)
    return Layout.of(list(gradients), [(n,) for n in sizes], dtypes, dense_below)


def test_what_a_cast_to_float32_would_harm_is_kept_apart():
    layout = layout_of(GRADIENTS)
    for part, table in enumerate((layout.segments, layout.small, layout.other)):
        expected = {name: g[1] for name, g in GRADIENTS.items() if g[2] == part}
        assert {segment.name: segment.size for segment in table} == expected
        assert [list(GRADIENTS)[i] for i in layout.places[part]] == list(expected)
        assert total_size(table) == sum(expected.values())
    assert layout.variables == layout.segments + layout.small + layout.other


@pytest.mark.parametrize(
    ("dense_below", "small"), [(0, set()), (1, {"empty"}), (100, {"a", "b", "empty"})]
)
def test_variables_with_fewer_entries_are_small(dense_below, small):
    gradients = {
        "a": (tf.float32, 1, None),
        "b": (tf.bfloat16, 99, None),
        "c": (tf.float32, 100, None),
        "d": (tf.complex64, 1, None),
        "empty": (tf.float32, 0, None),
    }
    layout = layout_of(gradients, dense_below)
    assert {segment.name for segment in layout.small} == small
    assert {segment.name for segment in layout.other} == {"d"}


def test_split_widens_what_is_compressed_and_leaves_the_rest():
    layout = layout_of(GRADIENTS)
    gradients = [tf.ones([size], dtype) for dtype, size, _ in GRADIENTS.values()]
    large, small, other = layout.split(gradients)
    assert {g.dtype for g in (*large, *small)} == {tf.float32}
    kept = [GRADIENTS[segment.name][0] for segment in layout.other]
    assert [g.dtype for g in other] == kept
    for part, table in ((large, layout.segments), (small, layout.small)):
        assert [g.shape for g in part] == [segment.shape for segment in table]


def test_join_undoes_split_with_shapes_and_dtypes():
    rng = np.random.default_rng(0)
    gradients = [
        tf.constant(rng.normal(size=(2, 3)), tf.float32),
        tf.constant(rng.normal(size=()), tf.float32),
        tf.constant(rng.normal(size=(3, 2)), tf.bfloat16),
        tf.complex(*tf.unstack(tf.constant(rng.normal(size=(2, 2, 2)), tf.float32))),
        tf.constant(rng.normal(size=(4, 1)) * 1e300, tf.float64),
        tf.constant([[2**62 + 1, 5]], tf.int64),
        repeated_rows(),
        tf.zeros([0, 7]),
    ]
    shapes, dtypes = [g.shape for g in gradients], [g.dtype for g in gradients]
    layout = Layout.of(list("abcdefgh"), shapes, dtypes, 2)
    parts = layout.split(gradients)
    flat = Parts(*([tf.reshape(g, [-1]) for g in part] for part in parts))
    for joined in (layout.join(parts, gradients), layout.join(flat, gradients)):
        for got, wanted in zip(joined, gradients, strict=True):
            assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
            np.testing.assert_array_equal(got, as_dense(wanted, wanted.shape))


def test_sparse_gradient_keeps_the_masked_entries_in_order():
    vector = tf.constant([1.0, 2.0, 3.0, 4.0])
    message = SparseGradient.from_mask(vector, tf.constant([False, True, False, True]))
    np.testing.assert_array_equal(message.indices, [1, 3])
    np.testing.assert_array_equal(message.values, [2, 4])
    assert (message.size, message.known, int(message.entries())) == (4, False, 2)
    np.testing.assert_array_equal(message.to_dense(), [0, 2, 0, 4])
    np.testing.assert_array_equal(message.add_to(vector), [1, 4, 3, 8])


def test_sparse_gradient_without_entries_is_zero():
    vector = tf.constant([1.0, 2.0])
    message = SparseGradient.from_mask(vector, tf.zeros([2], tf.bool))
    np.testing.assert_array_equal(message.to_dense(), [0, 0])
    np.testing.assert_array_equal(message.add_to(vector), [1, 2])
