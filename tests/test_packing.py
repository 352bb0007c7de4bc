"""Laws of tem_tf.packing and tem_tf.sparse_gradient."""

import numpy as np
import tensorflow as tf

from tem_tf.packing import Segment, make_segments, pack, total_size, unpack
from tem_tf.sparse_gradient import SparseGradient


def test_make_segments_lays_variables_end_to_end():
    segments = make_segments(["a", "b", "c"], [6, 0, 2])
    assert segments == (Segment("a", 0, 6), Segment("b", 6, 0), Segment("c", 6, 2))
    assert total_size(segments) == 8
    assert total_size(()) == 0


def test_unpack_undoes_pack_for_every_shape_and_dtype():
    gradients = [
        tf.constant([[1.0, 2.0], [3.0, 4.0]]),
        tf.constant(5.0),
        tf.zeros([0, 3]),
        tf.constant([6.0], tf.bfloat16),
        tf.constant([7.0], tf.float64),
    ]
    segments = make_segments("abcde", [4, 1, 0, 1, 1])
    vector = pack(gradients)
    np.testing.assert_array_equal(vector, [1, 2, 3, 4, 5, 6, 7])
    assert vector.dtype == tf.float32
    for got, expected in zip(
        unpack(vector, segments, gradients), gradients, strict=True
    ):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_pack_of_nothing_is_empty():
    assert pack([]).shape == (0,)


def test_pack_sums_repeated_rows_of_an_embedding():
    slices = tf.IndexedSlices(
        tf.constant([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]]),
        tf.constant([2, 0, 2], tf.int64),
        tf.constant([3, 2], tf.int64),
    )
    np.testing.assert_array_equal(pack([slices]), [3, 4, 0, 0, 11, 22])


def test_sparse_gradient_keeps_the_masked_entries_in_order():
    vector = tf.constant([1.0, 2.0, 3.0, 4.0])
    message = SparseGradient.from_mask(vector, tf.constant([False, True, False, True]))
    np.testing.assert_array_equal(message.indices, [1, 3])
    np.testing.assert_array_equal(message.values, [2, 4])
    np.testing.assert_array_equal(message.to_dense(), [0, 2, 0, 4])
    np.testing.assert_array_equal(message.add_to(vector), [1, 4, 3, 8])


def test_sparse_gradient_without_entries_is_zero():
    vector = tf.constant([1.0, 2.0])
    message = SparseGradient.from_mask(vector, tf.zeros([2], tf.bool))
    np.testing.assert_array_equal(message.to_dense(), [0, 0])
    np.testing.assert_array_equal(message.add_to(vector), [1, 2])
