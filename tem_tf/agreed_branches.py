"""Branches that all replicas take alike, in which their variables may be updated.

An update cannot stand inside `tf.cond` in replica context, as it calls `merge_call`. So
what is conditional is left to the cross-replica context: one `merge_call`, the
condition in it, and in its branch all replicas again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tem_tf import _internals
from tem_tf.layout import Gradient


def where_agreed(
    predicate: tf.Tensor | None,
    function: Callable,
    tensors: Sequence[Gradient],
    around: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> None:
    """Calls a function of tensors on every replica if a predicate holds.

    Args:
        predicate: Bool scalar, equal on all replicas. None: it holds.
        function: Runs in replica context, and may call `merge_call`.
        tensors: Its arguments, this replica's.
        around: Entered while the function is traced, once for all replicas.
    """

    def of_all(strategy: tf.distribute.Strategy, predicate: Any, tensors: Any) -> None:
        def run() -> tf.Tensor:
            with around():
                strategy.extended.call_for_each_replica(function, args=tuple(tensors))
            return tf.constant(True)

        if predicate is None:  # Here too: `around` is entered once for all replicas.
            run()
            return
        agreed = strategy.experimental_local_results(predicate)[0]
        tf.cond(agreed, run, lambda: tf.constant(False))

    context = tf.distribute.get_replica_context()
    context.merge_call(of_all, args=(predicate, list(tensors)))


def one_agreed(
    index: tf.Tensor,
    functions: Sequence[Callable[..., Sequence[tf.Tensor]]],
    tensors: Sequence[tf.Tensor] = (),
) -> list[tf.Tensor]:
    """Calls one of several functions of tensors on every replica.

    Args:
        index: int32 scalar, equal on all replicas. Of the function.
        functions: Each runs in replica context, may call `merge_call`, and returns as
            many tensors as the others, of the same dtypes.
        tensors: Their arguments, this replica's.

    Returns:
        What the function returned on this replica.
    """

    def of_all(strategy: tf.distribute.Strategy, index: Any, tensors: Any) -> Any:
        def branch(function: Callable) -> Callable[[], Any]:
            def run() -> list[Any]:
                each = strategy.extended.call_for_each_replica(
                    function, args=tuple(tensors)
                )
                return [strategy.experimental_local_results(one) for one in each]

            return run

        agreed, *others = strategy.experimental_local_results(index)
        # An op is on one device, and cannot see the variables of another.
        as_one = contextlib.nullcontext if others else _internals.conditions_as_one_op
        with as_one():
            return tf.switch_case(agreed, [branch(one) for one in functions])

    context = tf.distribute.get_replica_context()
    results = context.merge_call(of_all, args=(index, list(tensors)))
    replica = int(tf.get_static_value(context.replica_id_in_sync_group))
    return [of_each[replica % len(of_each)] for of_each in results]
