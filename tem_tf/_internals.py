"""The files that name private parts of TensorFlow and Keras: this, _fit_internals.py.

Each function checks that the part is there and says which version it was seen in.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import ops
from tensorflow.python.ops import (
    collective_ops,
    control_flow_util,
    control_flow_util_v2,
)

SEEN = "TensorFlow 2.16 to 2.22, Keras 3.11 to 3.16"
_ALL_REDUCE = "_all_reduce_sum_gradients"
_CLIP = "_clip_gradients"


def part(owner: Any, name: str) -> Any:
    """An attribute of TensorFlow's or Keras's that another version may not have.

    Raises:
        RuntimeError: it is not there.
    """
    if not hasattr(owner, name):
        raise RuntimeError(
            f"{type(owner).__name__} has no `{name}` in TensorFlow {tf.__version__}, "
            f"Keras {keras.__version__}; tem_tf was written against {SEEN}. Install "
            "a version named in the README."
        )
    return getattr(owner, name)


def replace_all_reduce(optimizer: keras.optimizers.Optimizer, function: Any) -> Any:
    """Puts `function` in the place of the optimizer's own gradient all-reduce.

    Both take and return a list of (gradient, tf.Variable) in replica context. Keras
    calls it after clipping and before the update, once per step.

    Returns:
        The optimizer's own.
    """
    original = part(optimizer, _ALL_REDUCE)
    object.__setattr__(optimizer, _ALL_REDUCE, function)
    return original


def clip(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Any]
) -> Sequence[Any]:
    """Gradients as the optimizer's `clipnorm` and the like have them."""
    return part(optimizer, _CLIP)(gradients)


@contextlib.contextmanager
def without_clipping(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Keeps `apply` from clipping what has been clipped before."""
    part(optimizer, _CLIP)
    object.__setattr__(optimizer, _CLIP, lambda gradients: gradients)
    try:
        yield
    finally:
        object.__delattr__(optimizer, _CLIP)


def with_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    variables: Sequence[Any] | None,
) -> list[tuple[Any, Any]]:
    """Pairs of gradients and variables, less those that have none, as Keras has them.

    Args:
        optimizer: Built.
        gradients: Tensors or None.
        variables: Theirs. None: all that the optimizer was built for.

    Raises:
        ValueError: there is no gradient at all, or another number than of variables, or
            the optimizer was not built for one of them.
    """
    if variables is None:
        variables = trained_variables(optimizer)
    if len(gradients) != len(variables):
        raise ValueError(
            "`apply` needs a gradient, or None, for each variable. Received: "
            f"{len(gradients)} gradients for {len(variables)} variables."
        )
    part(optimizer, "_check_variables_are_known")(variables)
    filtered = part(optimizer, "_filter_empty_gradients")(
        list(gradients), list(variables)
    )
    return list(zip(*filtered, strict=True))


def loss_scale_optimizer_around() -> keras.optimizers.LossScaleOptimizer | None:
    """The LossScaleOptimizer that calls, through a MultiOptimizer or not.

    When it is made it sets `loss_scale_factor` of what is inside, and when it is
    applied it applies that, unless somebody has stepped into its place.
    """
    frame = sys._getframe(1)
    for _ in range(8):
        if frame is None:
            break
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.optimizers.LossScaleOptimizer):
            return owner
        frame = frame.f_back
    return None


def has_replaced_all_reduce(optimizer: keras.optimizers.Optimizer) -> bool:
    return _ALL_REDUCE in vars(optimizer)


def variable_key(optimizer: keras.optimizers.Optimizer, variable: Any) -> Any:
    """A key that is equal for a Keras variable, its tf.Variable and its replicas."""
    return part(optimizer, "_var_key")(variable)


def raw_iterations(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """The number of calls of `apply` so far, gradient accumulation or not."""
    return part(optimizer, "_iterations")


def trained_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables that the optimizer was built for."""
    return part(optimizer, "_trainable_variables")


def strategy_of(optimizer: keras.optimizers.Optimizer) -> tf.distribute.Strategy:
    """The strategy in whose scope the optimizer was made."""
    return part(optimizer, "_distribution_strategy")


def optimizer_attributes() -> set[str]:
    """Names of all that Keras's optimizer base classes define (not of object's)."""
    names = set()
    for base in keras.optimizers.Optimizer.__mro__:
        if "optimizer" in base.__module__:
            names.update(vars(base))
    return {name for name in names if not name.startswith("__")}


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


def wrap_cross_device_ops(strategy: tf.distribute.Strategy, wrap: Callable) -> None:
    """Replaces the strategy's cross-device ops by `wrap(them)`."""
    extended = strategy.extended
    extended._cross_device_ops = wrap(part(extended, "_cross_device_ops"))


def cross_device_ops(strategy: tf.distribute.Strategy) -> Any:
    return getattr(strategy.extended, "_cross_device_ops", None)


# What Keras's trainer wants of `strategy.reduce`, by the function that calls it, and
# which function runs a step of training or evaluation: the same in Keras 3.11 to 3.16.
_TRAINER = "keras.src.backend.tensorflow.trainer"
_ASKED_BY = {"_maybe_symbolic_build": "batch", "_reduce": "log"}
_STEP = "one_step_on_data"


def asked_by_keras() -> str | None:
    """What Keras's trainer asks `strategy.reduce` for, if it is the caller.

    Call it in `reduce` itself. A user may call that with values of the same form, who
    means something else.

    Returns:
        "batch" for the shapes of a batch, "log" for a logged value, or None.
    """
    function, _ = _caller_in_trainer()
    return _ASKED_BY.get(function)


def model_of_step() -> keras.Model | None:
    """The model whose step Keras's trainer runs and will log, if it is the caller.

    Call it in `strategy.run` itself. What `predict` runs is not logged.
    """
    function, variables = _caller_in_trainer()
    return variables.get("self") if function == _STEP else None


def _caller_in_trainer() -> tuple[str, dict[str, Any]]:
    """The function of Keras's trainer that called whoever asks, and its variables.

    Returns:
        Its name and its variables, those of functions around it included; "" and none
        if somebody else calls.
    """
    frame = sys._getframe(3)
    # AutoGraph puts frames of TensorFlow's between a caller and what it calls.
    while frame is not None and frame.f_globals.get("__name__", "").startswith(
        "tensorflow."
    ):
        frame = frame.f_back
    if frame is None or frame.f_globals.get("__name__") != _TRAINER:
        return "", {}
    return frame.f_code.co_name.removeprefix("tf__"), frame.f_locals


@contextlib.contextmanager
def conditions_as_one_op() -> Iterator[None]:
    """Keeps `tf.cond`s that are made within as one op each.

    TensorFlow takes a condition apart into two ops for each tensor that its branches
    see, which run at every step. As one op, a branch that is not taken costs nothing.
    """
    name = "_DISABLE_LOWER_USING_SWITCH_MERGE"
    before = part(control_flow_util_v2, name)
    setattr(control_flow_util_v2, name, True)
    try:
        yield
    finally:
        setattr(control_flow_util_v2, name, before)


def in_xla() -> bool:
    """Whether the graph being traced is compiled by XLA."""
    graph = ops.get_default_graph()
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        graph
    )


def server_runs() -> bool:
    """Whether this process's TensorFlow has its server for a cluster, for life."""
    return part(context.context(), "_collective_ops_server_def") is not None


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
