"""How long a message would be is known without writing it."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_tf import wire
from tem_tf.sparse_gradient import SparseGradient
from tem_tf.wire import VALUE_DTYPES
from tests.wire_messages import LARGEST_SIZE, index_sets, message


def check(sparse, block_size, value_dtype):
    payload = wire.encode(
        sparse, tf.zeros([block_size]), tf.constant(0), value_dtype, sparse.known
    )
    words = wire.words_of(sparse.to_masked(), block_size, value_dtype)
    assert words.dtype == tf.int32
    assert words == tf.size(payload)


@settings(max_examples=60, deadline=None)
@given(
    chosen=index_sets().filter(lambda drawn: drawn[0] < LARGEST_SIZE),
    block_size=st.integers(0, 5),
    value_dtype=st.sampled_from(VALUE_DTYPES),
    known=st.booleans(),
)
def test_words_are_those_that_encode_writes(chosen, block_size, value_dtype, known):
    size, indices = chosen
    sparse = message(size, indices, np.ones(len(indices)))._replace(known=known)
    check(sparse, block_size, value_dtype)


@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
@pytest.mark.parametrize("density", [0, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.6, 1])
@pytest.mark.parametrize("clustered", [False, True])
def test_words_of_large_messages(density, clustered, value_dtype):
    size = 30_000
    rng = np.random.default_rng(0)
    shares = density * (np.linspace(0, 2, size) ** 3 / 2 if clustered else 1)
    indices = np.flatnonzero(rng.random(size) < shares)
    check(message(size, indices, rng.normal(size=len(indices))), 3, value_dtype)


@pytest.mark.parametrize("value_dtype", VALUE_DTYPES)
def test_values_round_as_those_of_entries_do(value_dtype):
    values = tf.constant([1e-6, -3.3, 1e4, 0.1, 7e-3])
    sparse = SparseGradient(values, tf.constant([1, 4, 5, 8, 9]), 11)
    masked = wire.rounded(sparse.to_masked(), value_dtype)
    expected = wire.rounded(sparse, value_dtype).to_dense()
    np.testing.assert_array_equal(masked.vector, expected)
    np.testing.assert_array_equal(masked.mask, sparse.to_masked().mask)
