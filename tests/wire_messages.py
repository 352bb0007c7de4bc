"""Messages that the laws of the wire format are tried on."""

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tem_tf.sparse_gradient import SparseGradient

LARGEST_SIZE = 2**31 - 1
EXPONENTS = st.integers(-126, 127)
NOTHING = np.zeros([0], np.float32)


def message(size, indices, values):
    return SparseGradient(
        tf.constant(values, tf.float32, [len(values)]),
        tf.constant(indices, tf.int32, [len(indices)]),
        size,
    )


@st.composite
def index_sets(draw):
    """(n, ascending indices): none, all, runs, the last one, a few of very many."""
    size = draw(st.integers(1, 200) | st.just(LARGEST_SIZE))
    if size == LARGEST_SIZE:
        chosen = draw(st.sets(st.integers(0, size - 1), max_size=12))
    elif draw(st.booleans()):
        # Each entry by itself: mostly of middle density.
        mask = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        chosen = set(np.flatnonzero(mask).tolist())
    else:
        chosen = draw(st.sets(st.integers(0, size - 1), max_size=8))
        first = draw(st.integers(0, size - 1))
        chosen |= set(range(first, draw(st.integers(first, size))))
    if draw(st.booleans()):
        chosen.add(size - 1)
    return size, np.array(sorted(chosen), np.int32)


def normal_floats(count, exponents=EXPONENTS):
    """float32 (count,), finite, none subnormal: TensorFlow takes those for zero."""
    one = st.builds(
        lambda bits, exponent: np.ldexp(np.float32(bits / 2**23), exponent),
        st.integers(-(2**24) + 1, -(2**23)) | st.integers(2**23, 2**24 - 1),
        exponents,
    )
    numbers = st.lists(one | st.just(np.float32(0)), min_size=count, max_size=count)
    return numbers.map(lambda values: np.array(values, np.float32))


def bits(tensor):
    return np.asarray(tensor, np.float32).view(np.int32)
