"""Where an optimizer may be made and asked: refusals of what cannot work there.

Under a strategy a variable lives where it was made: within a strategy's scope, on every
replica, or outside, once. What belongs together must have been made together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals


def check_made_together(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[Any],
    role: str = "inner_optimizer",
) -> None:
    """Refuses an optimizer that was made under another strategy than what it trains.

    Keras trains with some of these and fails on most in words of TensorFlow's. Where it
    trains on several devices of a process, all of them advance one step counter.

    Args:
        optimizer: One that updates them.
        variables: Keras or TensorFlow variables.
        role: The optimizer's, as an argument.

    Raises:
        ValueError: one of the variables was made under another strategy.
    """
    strategy = _internals.strategy_of(optimizer)
    for variable in variables:
        inside = variable.value if isinstance(variable, keras.Variable) else variable
        if not strategy.extended.variable_created_in_scope(inside):
            raise ValueError(
                f"`{role}` must be made under the strategy of the variables "
                f"that it trains. Received: {role}={optimizer.name!r} with "
                f"{variable.name!r}, made under another. Make the model and its "
                "optimizer in one `with strategy.scope():`."
            )


def check_between_steps(method: str) -> None:
    """Refuses a call of what asks all replicas from within one, or from a graph."""
    inside = (
        tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
    )
    if inside or not tf.executing_eagerly():
        raise ValueError(
            f"`{method}` must be called between steps, outside `strategy.run` and "
            "`tf.function`. Received: a call inside. Within a step, "
            "`running_totals` has this replica's own."
        )


def check_in_replica(method: str) -> None:
    """Refuses a call of what is a replica's own from outside all replicas."""
    if tf.distribute.in_cross_replica_context():
        raise ValueError(
            f"`{method}` must be called in replica context, inside `strategy.run`: "
            "each replica has its own. Received: a call outside. "
            "`communication_summary` has the sums over all of them."
        )
