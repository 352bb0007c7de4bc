"""What Keras's `fit` and `evaluate` log of a step, over all replicas in one collective.

Keras asks its strategy for the mean over replicas of every value that a step returns,
one after the other: a collective for each number and two for each vector. On a link
with latency, and where workers share processors, they cost more than the gradient's.
Here a step's numbers are reduced together as it ends, before Keras asks for them.

Numbers travel as int32 words, bit for bit, and every worker adds up the same rows in
the same order. So all of them have the same logs, for two workers those that Keras's
own collectives bring, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.instance_keys import Use, new_owner

MODES = ("global", "local", None)

# By dtype, the one in which it travels and is added up. Half precision has words of its
# own size, of which no collective is made; in float32 the sum of two is rounded as
# their own would be.
_CARRIED = {
    tf.float16: tf.float32,
    tf.bfloat16: tf.float32,
    tf.float32: tf.float32,
    tf.float64: tf.float64,
    tf.int32: tf.int32,
    tf.int64: tf.int64,
}


class ReadyLog:
    """A logged value that is reduced already, in the place of the value itself.

    Keras's trainer hands every leaf of a step's outputs to `strategy.reduce`, which
    gives `mean` back.

    Attributes:
        mean: Scalar. What Keras asks for.
    """

    def __init__(self, mean: tf.Tensor):
        self.mean = mean


class BatchLogs:
    """Reduces what Keras's trainer logs of a step.

    Args:
        mode: "global", "local" or None, as in `MultiWorkerMirroredStrategy`.

    Raises:
        ValueError: it is none of them.
    """

    def __init__(self, mode: str | None):
        if mode not in MODES:
            raise ValueError(
                '`batch_logs` must be "global", "local" or None. Received: '
                f"batch_logs={mode!r}. Callbacks see means over all workers with "
                '"global".'
            )
        self.mode = mode
        self._use = Use(new_owner())

    @tf.autograph.experimental.do_not_convert
    def reduced(
        self,
        strategy: tf.distribute.Strategy,
        run: Callable[[Callable], Any],
        model: keras.Model,
        outputs: Any,
    ) -> Any:
        """A step's outputs with a `ReadyLog` for each scalar and vector in them.

        Matrices, text and complex numbers stay as they are, for Keras to reduce. So
        does all where no collective of ours can run: with several devices in this
        process, and in XLA.

        Args:
            strategy: In cross-replica context.
            run: Its own `run`.
            model: Whose step it was.
            outputs: A nest of values of replicas.
        """
        leaves = keras.tree.flatten(outputs)
        rows = [strategy.experimental_local_results(leaf) for leaf in leaves]
        places = [index for index, row in enumerate(rows) if _is_carried(row[0])]
        if not places:
            return outputs
        mode = self.mode or ("local" if is_local(model) else "global")
        if mode == "local" and _gives_way_to_metrics(outputs, model, run):
            means = [_mean([_Part.of(value) for value in rows[i]]) for i in places]
        elif len(strategy.extended.worker_devices) > 1 or _internals.in_xla():
            return outputs
        else:
            parts = [_Part.of(rows[index][0]) for index in places]
            means = run(lambda: self._means_over_replicas(strategy, parts))
        for index, mean in zip(places, means, strict=True):
            leaves[index] = ReadyLog(mean)
        return keras.tree.pack_sequence_as(outputs, leaves)

    def _means_over_replicas(
        self, strategy: tf.distribute.Strategy, parts: Sequence[_Part]
    ) -> list[tf.Tensor]:
        """The mean of each value, in replica context."""
        numbers = [part.total for part in parts] + [part.count for part in parts]
        by_dtype: dict[tf.DType, list[int]] = {}
        for index, number in enumerate(numbers):
            by_dtype.setdefault(number.dtype, []).append(index)
        words = [
            tf.reshape(tf.bitcast(tf.stack([numbers[i] for i in own]), tf.int32), [-1])
            for own in by_dtype.values()
        ]
        exchange = SparsifiedCrossDeviceOps.of(strategy)
        payload = tf.concat(words, axis=0)
        gathered = exchange.gather_payloads(payload, self._use, fixed_length=True)
        sizes = [int(part.shape[0]) for part in words]
        sums: dict[int, tf.Tensor] = {}
        for (dtype, own), rows in zip(
            by_dtype.items(), tf.split(gathered.rows, sizes, axis=1), strict=True
        ):
            if dtype.size == 8:
                rows = tf.reshape(rows, [exchange.replicas(), -1, 2])
            totals = tf.reduce_sum(tf.bitcast(rows, dtype), axis=0)
            sums.update(zip(own, tf.unstack(totals), strict=True))
        return [
            _Part(sums[index], sums[len(parts) + index], part.dtype).mean()
            for index, part in enumerate(parts)
        ]


class _Part(NamedTuple):
    """What a replica, or all of them, have of a mean.

    Attributes:
        total: Scalar of the dtype in which it travels. A scalar; of a vector the sum.
        count: int64 scalar. How many numbers that is.
        dtype: Of the value.
    """

    total: tf.Tensor
    count: tf.Tensor
    dtype: tf.DType

    @classmethod
    def of(cls, value: Any) -> _Part:
        """That of one replica's scalar or vector."""
        value = tf.convert_to_tensor(value)
        count = tf.size(value, tf.int64)
        total = tf.reduce_sum(value, axis=0) if value.shape.rank else value
        return cls(tf.cast(total, _CARRIED[value.dtype]), count, value.dtype)

    def mean(self) -> tf.Tensor:
        """As TensorFlow's strategies have it: that of integers is a float64."""
        total = tf.cast(self.total, self.dtype)
        return tf.math.truediv(total, tf.cast(self.count, self.dtype))


def _mean(parts: Sequence[_Part]) -> tf.Tensor:
    """That of some replicas' values."""
    total = tf.reduce_sum(tf.stack([part.total for part in parts]))
    count = tf.reduce_sum(tf.stack([part.count for part in parts]))
    return _Part(total, count, parts[0].dtype).mean()


def is_local(model: keras.Model) -> bool:
    """Whether workers have weights of their own for some steps (`LocalUpdates`)."""
    return hasattr(getattr(model, "optimizer", None), "synchronise_in_step")


def _is_carried(value: Any) -> bool:
    """Whether a logged value is a number, or a vector of them, of a dtype that travels.

    By rank and dtype alone, which are the same on all workers whatever their batches'
    lengths are.
    """
    if not isinstance(value, tf.Tensor | tf.Variable | keras.Variable | int | float):
        return False
    tensor = tf.convert_to_tensor(value)
    return tensor.shape.rank in (0, 1) and tensor.dtype in _CARRIED


def _gives_way_to_metrics(
    outputs: Any, model: keras.Model, run: Callable[[Callable], Any]
) -> bool:
    """Whether Keras shows these logs for a step and the metrics' results at the end.

    At the end of an epoch and of `evaluate` it takes the metrics' own results, over all
    replicas, in the place of the last step's logs if they have the same names.
    """
    if not isinstance(outputs, dict):
        return False
    return set(outputs) == set(run(model.get_metrics_result))
