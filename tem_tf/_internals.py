"""Private parts of TensorFlow and Keras; others are in the files named *_internals.py.

Each function checks that the part is there and says which version it was seen in.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import (
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


def graphs_around() -> Iterator[Any]:
    """The graph that is being built, and those in whose functions and branches it is.

    Nothing eagerly.
    """
    if tf.executing_eagerly():
        return
    graph: Any = ops.get_default_graph()
    while graph is not None and getattr(graph, "building_function", False):
        yield graph
        graph = getattr(graph, "outer_graph", None)


def in_xla() -> bool:
    """Whether the graph being traced is compiled by XLA."""
    graph = ops.get_default_graph()
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        graph
    )


def slots(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """What a built optimizer keeps of each variable: momenta and the like."""
    first = part(optimizer, "_iterations"), part(optimizer, "_learning_rate")
    others = {id(variable) for variable in first}
    return [v for v in optimizer.variables if id(v) not in others]


def moving_statistics(model: keras.Model) -> list[keras.Variable]:
    """What layers keep of the batches that they saw, such as batch normalisation's.

    Not the weights of layers that are not to be trained.
    """
    return [
        variable
        for layer in part(model, "_flatten_layers")()
        for variable in part(layer, "_non_trainable_variables")
        if "float" in variable.dtype
    ]
