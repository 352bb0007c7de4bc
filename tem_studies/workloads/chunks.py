"""Sums over examples, in chunks of them that are computed side by side.

What training, pruning and evaluation need are sums over examples,

    Σ_i f(i)  =  Σ_chunks Σ_{i in chunk} f(i),

of losses, gradients and correct answers. TensorFlow spreads each operation over all
threads and waits for the last of them, hundreds of times a step, and what a large batch
leaves behind fits no cache. With one thread per operation and chunks side by side
threads meet once per sum, and a chunk stays in the cache. Networks that look at a batch
as a whole (batch norm) or draw random numbers (dropout) cannot be cut so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

import tensorflow as tf

# Examples of a chunk, at most. Our choice: with Simple-CNN and ResNet-8 on two cores 32
# to 128 are equally fast; larger ones leave the cache, smaller ones cost more calls.
CHUNK = 64

# Smaller batches are not cut: the gain would not pay for the loop. Our choice: at 8
# examples it did not, at 32 it did.
_LEAST_TO_CUT = 16


def use_one_thread_per_operation(threads: int) -> None:
    """Makes chunks, not operations, share the processor. Before TensorFlow starts.

    Args:
        threads: Of this process; 0 leaves their number to TensorFlow, which takes that
            of the cores.

    Raises:
        RuntimeError: TensorFlow has started with another number than `threads`.
    """
    # Where it has started already only speed is lost.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
    if threads:
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def chunk_size(examples: int) -> int:
    """Examples of one chunk of a batch: at most `CHUNK`, a share for every thread."""
    if examples < _LEAST_TO_CUT:
        return examples
    threads = _side_by_side()
    rounds = -(-examples // (CHUNK * threads))
    return max(_LEAST_TO_CUT // 2, -(-examples // (rounds * threads)))


def sum_over_chunks(
    function: Callable[[tf.Tensor, tf.Tensor], Sequence[tf.Tensor]],
    shapes: Sequence[Sequence[int]],
    first: tf.Tensor | int,
    last: tf.Tensor | int,
    size: int,
    dtype: tf.DType = tf.float32,
) -> list[tf.Tensor]:
    """Σ function(start, stop) over the chunks [start, stop) of [first, last).

    The sums are taken in the order of the chunks, so that they repeat bit for bit.

    Args:
        function: From int32 scalars to tensors of `shapes` and `dtype`.
        shapes: Static shapes of what it returns.
        first: int32 scalar, the first of all examples.
        last: int32 scalar, one past the last of them.
        size: Examples of a chunk; the last chunk may be shorter.
        dtype: In which sums are taken.
    """

    def add_chunk(start: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parts = function(start, tf.minimum(start + size, last))
        added = [s + tf.cast(p, dtype) for s, p in zip(sums, parts, strict=True)]
        return (start + size, *added)

    _, *sums = tf.while_loop(
        lambda start, *_: start < last,
        add_chunk,
        (tf.convert_to_tensor(first), *(tf.zeros(shape, dtype) for shape in shapes)),
        parallel_iterations=_side_by_side(),
    )
    return sums


def _side_by_side() -> int:
    """Threads that can compute chunks."""
    threads = tf.config.threading.get_inter_op_parallelism_threads()
    threads = threads or int(os.environ.get("TF_NUM_INTEROP_THREADS", "0") or "0")
    return threads or len(os.sched_getaffinity(0))
