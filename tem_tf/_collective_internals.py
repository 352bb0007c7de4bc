"""Private parts of TensorFlow's strategies and collectives.

As in _internals.py, each function checks that the part is there.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute.mirrored_strategy import MirroredExtended
from tensorflow.python.eager import context
from tensorflow.python.framework import ops
from tensorflow.python.ops import collective_ops

from tem_tf._internals import part


def collective_all_gather(
    strategy: tf.distribute.Strategy,
) -> Callable[[tf.Tensor, int | tf.Tensor], tf.Tensor] | None:
    """One bare all-gather along axis 0, for multi-worker strategies.

    `ReplicaContext.all_gather` costs two collectives and a `merge_call`, which cannot
    stand inside `tf.cond`. The launcher beneath it can, if the predicate is equal on
    all workers, but takes a new instance key for each call of a function, so that a
    size can never change within a call. This one has its key from the caller.

    Returns:
        A function of a tensor and an int32 scalar: the instance key, equal on all
        workers and always of the same shape and dtype. None where the strategy has no
        launcher, or where it cannot be used: eagerly with several devices per worker,
        whose replicas run one after the other.
    """
    return _bare_collective(strategy, collective_ops.all_gather_v2)


def collective_all_reduce(
    strategy: tf.distribute.Strategy,
) -> Callable[[tf.Tensor, int | tf.Tensor], tf.Tensor] | None:
    """One bare all-reduce (sum); as `collective_all_gather`."""
    all_reduce = functools.partial(
        collective_ops.all_reduce_v2, merge_op="Add", final_op="Id"
    )
    return _bare_collective(strategy, all_reduce)


def collective_all_to_all(
    strategy: tf.distribute.Strategy,
) -> Callable[[tf.Tensor, int | tf.Tensor], tf.Tensor] | None:
    """One bare exchange of rows: the i-th goes to the i-th replica.

    As `collective_all_gather`; None on GPUs, too, where it was never seen to run.
    """
    launcher = _launcher(strategy)
    if launcher is None or "CPU" not in part(launcher, "_device"):
        return None
    return _bare_collective(strategy, collective_ops.all_to_all_v2)


def _bare_collective(strategy: tf.distribute.Strategy, operation: Callable) -> Any:
    """A function of a tensor and an instance key; None without a launcher."""
    launcher = _launcher(strategy)
    if launcher is None:
        return None
    size, group = part(launcher, "_group_size"), part(launcher, "_group_key")
    options, device = part(launcher, "_options"), part(launcher, "_device")

    def collective(tensor: tf.Tensor, instance_key: int | tf.Tensor) -> tf.Tensor:
        with tf.device(device):
            return operation(
                tensor,
                group_size=size,
                group_key=group,
                instance_key=instance_key,
                communication_hint=options.implementation.value,
                timeout=options.timeout_seconds or 0,
                # Puts it in one order with all other collectives of this replica.
                ordering_token=part(launcher, "_get_ordering_token")(),
            )

    return collective


def next_instance_key(strategy: tf.distribute.Strategy) -> int | tf.Tensor:
    """The key that TensorFlow's own next collective of this replica would take."""
    return part(_launcher(strategy), "_next_instance_key")()


def _launcher(strategy: tf.distribute.Strategy) -> Any:
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return None
    if not part(strategy.extended, "_in_multi_worker_mode")():
        return None
    launchers = part(part(strategy.extended, "_cross_device_ops"), "_launchers")
    if tf.executing_eagerly() and len(launchers) > 1:
        return None
    replica = part(tf.distribute.get_replica_context(), "_replica_id")
    return launchers[replica if isinstance(replica, int) else 0]


def take_instance_keys_at_the_call(strategy: tf.distribute.Strategy) -> None:
    """Makes the strategy's own collectives work in functions called from graph loops.

    TensorFlow numbers a collective when the function that holds it is called, through
    a placeholder of that function's graph. A function that is called inside a loop or
    a branch of another's graph hands its placeholder on to the loop's body, where
    nobody feeds it ("You must feed a value for placeholder"): Keras's fit with
    `steps_per_execution` does that. Here the placeholder stands in the outermost
    function's graph in such a case, and is captured from there. Seen in TensorFlow
    2.21; every repetition of the loop uses the same number, as in TensorFlow's own
    loops.
    """
    extended = strategy.extended
    if not part(extended, "_in_multi_worker_mode")():
        return
    for name in ("_cross_device_ops", "_host_cross_device_ops"):
        for launcher in part(part(extended, name), "_launchers"):
            original = part(launcher, "_next_instance_key")
            launcher._next_instance_key = functools.partial(
                _next_instance_key, original
            )


def _next_instance_key(original: Callable) -> Any:
    graph: Any = ops.get_default_graph()
    in_control_flow = False
    while not tf.executing_eagerly() and getattr(graph, "outer_graph", None):
        in_control_flow |= getattr(graph, "is_control_flow_graph", False)
        if not getattr(graph.outer_graph, "building_function", False):
            break
        graph = graph.outer_graph
    if not in_control_flow:
        return original()
    with graph.as_default():
        return original()


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether the strategy spans several processes."""
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and part(strategy.extended, "_in_multi_worker_mode")()
    )


@contextlib.contextmanager
def without_broadcasts() -> Iterator[None]:
    """Variables of the current strategy that are made within are made by each worker.

    The chief sends every other variable's initial value to all workers, one collective
    after another. Here it must be the same on all by what it is, as zeros are.
    """
    strategy = tf.distribute.get_strategy()
    if not is_multi_worker(strategy):
        yield
        return
    name, extended = "_get_variable_creator_initial_value", strategy.extended
    part(extended, name)
    # Of one worker's replicas the first has its own value, the others the first's.
    own = part(MirroredExtended, name)
    setattr(extended, name, functools.partial(own, extended))
    try:
        yield
    finally:
        delattr(extended, name)


def wrap_cross_device_ops(strategy: tf.distribute.Strategy, wrap: Callable) -> None:
    """Replaces the strategy's cross-device ops by `wrap(them)`."""
    extended = strategy.extended
    extended._cross_device_ops = wrap(part(extended, "_cross_device_ops"))


def cross_device_ops(strategy: tf.distribute.Strategy) -> Any:
    return getattr(strategy.extended, "_cross_device_ops", None)


def server_runs() -> bool:
    """Whether this process's TensorFlow has its server for a cluster, for life."""
    return part(context.context(), "_collective_ops_server_def") is not None


@contextlib.contextmanager
def server_kept() -> Iterator[None]:
    """Has a further strategy of this process take the collectives that there are.

    TensorFlow enables them anew for each. What other workers have asked of this one
    until then is forgotten: a worker that is ahead, in its first collective, waits for
    ever.
    """
    if not server_runs():
        yield
        return
    process = context.context()
    part(process, "enable_collective_ops")
    process.enable_collective_ops = lambda server_def: None
    try:
        yield
    finally:
        del process.enable_collective_ops


class DelegatingCrossDeviceOps(tf.distribute.CrossDeviceOps):
    """Cross-device ops that leave everything to others.

    Two of the hooks below are private, and TensorFlow's base class would answer them
    for itself.

    Args:
        dense: `tf.distribute.CrossDeviceOps`.
    """

    def __init__(self, dense: tf.distribute.CrossDeviceOps):
        super().__init__()
        self._dense = dense

    def reduce_implementation(
        self, reduce_op, per_replica_value, destinations, options
    ):
        return self._dense.reduce_implementation(
            reduce_op, per_replica_value, destinations, options
        )

    def batch_reduce_implementation(self, reduce_op, value_destination_pairs, options):
        return self._dense.batch_reduce_implementation(
            reduce_op, value_destination_pairs, options
        )

    def broadcast_implementation(self, tensor, destinations):
        return self._dense.broadcast_implementation(tensor, destinations)

    @property
    def _num_between_graph_workers(self):
        return self._dense._num_between_graph_workers

    def _gather_implementation(self, per_replica_value, destinations, axis, options):
        return self._dense._gather_implementation(
            per_replica_value, destinations, axis, options
        )

    def __getattr__(self, name: str) -> Any:
        if name == "_dense":  # Not yet set: unpickling, copying.
            raise AttributeError(name)
        return getattr(self._dense, name)
