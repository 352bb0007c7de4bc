"""Sums over chunks cover every example once; a batch is cut as its size asks for."""

import numpy as np
import pytest
import tensorflow as tf

from tem_studies.workloads import chunks
from tem_studies.workloads.chunks import chunk_size, sum_over_chunks


@pytest.mark.parametrize(("first", "last"), [(0, 12), (3, 14), (5, 6), (4, 4)])
def test_every_example_is_counted_once(first, last):
    values = tf.reshape(tf.range(40.0), (20, 2))

    @tf.function
    def sums():
        return sum_over_chunks(
            lambda i, j: [
                tf.reduce_sum(values[i:j], axis=0),
                tf.cast(j - i, tf.float32),
            ],
            [(2,), ()],
            first,
            last,
            4,
        )

    total, count = sums()
    np.testing.assert_array_equal(total, tf.reduce_sum(values[first:last], axis=0))
    assert count == last - first


def test_sums_are_taken_in_the_dtype_asked_for():
    """2**24 + 1 is no float32."""
    parts = tf.constant([2.0**24, 1.0])
    (total,) = sum_over_chunks(lambda i, j: [parts[i]], [()], 0, 2, 1, tf.float64)
    assert total.dtype == tf.float64
    assert total == 2**24 + 1


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
@pytest.mark.parametrize("examples", [1, 15, 16, 32, 100, 512, 2048])
def test_chunks_share_the_threads_and_fit_the_cache(threads, examples, monkeypatch):
    monkeypatch.setattr(chunks, "_side_by_side", lambda: threads)
    size = chunk_size(examples)
    if examples < 16:
        assert size == examples
        return
    assert 8 <= size <= chunks.CHUNK
    assert -(-examples // size) >= min(threads, examples // 8)


@pytest.mark.parametrize(("variable", "threads"), [("3", 3), ("", None), ("0", None)])
def test_threads_given_by_the_environment_count(variable, threads, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", variable)
    monkeypatch.setattr(chunks.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4})
    given = tf.config.threading.get_inter_op_parallelism_threads()
    assert chunks._side_by_side() == (given or threads or 5)
