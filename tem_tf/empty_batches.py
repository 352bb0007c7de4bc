"""Which replicas' batches are empty.

A worker gets no rows where a last batch is too small to be shared out, or its dataset
ends before another's. Its loss is 0 in Keras and its gradient zeros, with one
exception: batch normalisation takes the mean of no rows, 0 / 0. The gradient of `gamma`
is NaN then, and so are the moving statistics, at any learning rate.

`strategy.run` alone sees every batch, `train_step` of Keras or not. What it sees goes
through a variable: a tensor could not be read in a `tf.function` inside the step, which
is traced once and called from many graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tem_tf import _internals


class EmptyBatches:
    """What a strategy's `run` notes of the batches of this process's replicas.

    Args:
        replicas: Int >= 1. Replicas in this process.
    """

    def __init__(self, replicas: int):
        # Outside the strategy's scope, so that no worker waits for another.
        with tf.init_scope(), tf.device("CPU:0"):
            self._empty = [
                tf.Variable(False, trainable=False, name=f"batch_is_empty_{index}")
                for index in range(replicas)
            ]

    @tf.autograph.experimental.do_not_convert
    def note(self, strategy: tf.distribute.Strategy, arguments: Any) -> None:
        """Notes for each replica whether a tensor of its arguments has no rows.

        Args:
            strategy: That of the replicas; in cross-replica context.
            arguments: A nest of what `strategy.run` is called with.
        """
        leaves = tf.nest.flatten(arguments)
        values = [strategy.experimental_local_results(leaf) for leaf in leaves]
        for index, variable in enumerate(self._empty):
            # What is no per-replica value is the same for all.
            own = [value[index % len(value)] for value in values]
            rows = [count for count in map(_rows, own) if count is not None]
            variable.assign(tf.reduce_min(rows) == 0 if rows else False)

    def sparing(self, fn: Callable, variables: Sequence[Any]) -> Callable:
        """What a step does, less what an empty batch did to some variables.

        Args:
            fn: The step, in replica context.
            variables: Of Keras, such as moving statistics: NaN after no rows.
        """

        def spared(*args: Any, **kwargs: Any) -> Any:
            before = [tf.convert_to_tensor(variable) for variable in variables]
            outputs = fn(*args, **kwargs)
            is_empty = batch_is_empty()
            for variable, value in zip(variables, before, strict=True):
                variable.assign(tf.where(is_empty, value, variable))
            return outputs

        return spared

    def read(self, replica: int) -> tf.Tensor:
        """What was noted for a replica, by its number in the whole cluster."""
        return self._empty[replica % len(self._empty)].read_value()


def batch_is_empty() -> tf.Tensor | None:
    """Whether the batch that this replica computes its step with has no rows.

    Call it in what `strategy.run` runs, at any depth: eagerly, in `tf.function`, in
    loops and branches. It is empty if any tensor among the arguments of `strategy.run`
    has rank 1 or more and no rows; of a ragged or sparse tensor the rows count.

    Returns:
        Bool scalar; False where the step has its batch from elsewhere than its
        arguments. None where nobody notes it: outside `strategy.run`, under other
        strategies than `tem_tf.MultiWorkerMirroredStrategy`, and where XLA compiles the
        step, whose device may not reach the note.
    """
    if _internals.in_xla():
        return None
    context = tf.distribute.get_replica_context()
    noted = getattr(getattr(context, "strategy", None), "empty_batches", None)
    if noted is None:
        return None
    return noted.read(int(tf.get_static_value(context.replica_id_in_sync_group)))


def _rows(value: Any) -> Any:
    """The length of axis 0: an int or an int32 scalar; None if there is none."""
    if isinstance(value, tf.RaggedTensor):
        return value.nrows(tf.int32)
    if isinstance(value, tf.SparseTensor):
        return tf.cast(value.dense_shape[0], tf.int32)
    if not isinstance(value, tf.Tensor | np.ndarray):
        return None
    shape = tf.TensorShape(value.shape)
    if not shape.rank:  # A scalar, or nobody knows.
        return None
    return tf.shape(value)[0] if shape[0] is None else shape[0]
