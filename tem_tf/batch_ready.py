"""What can be done in a step before its gradients are there, but not before its batch.

`fit` finds the end of a dataset of unknown length by a step that fails for want of a
batch. An exchange that had begun by then would be broken off, on some workers perhaps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# Beginnings of kinds of ops. These yield batches,
_YIELDS_A_BATCH = ("Iterator", "MultiDeviceIterator", "Optional")
# and these take handles of anything: what they yield may be one.
_MAY_YIELD_A_BATCH = (
    *_YIELDS_A_BATCH,
    *("If", "StatelessIf", "Case", "StatelessCase", "While", "StatelessWhile"),
    *("PartitionedCall", "StatefulPartitionedCall", "PyFunc", "EagerPyFunc"),
)


def when_batch_is_ready(gradients: Sequence[Any]) -> contextlib.AbstractContextManager:
    """In a graph, keeps what is made within waiting for the batch alone.

    That is for all iterators, and for all that gradients are computed from and that
    comes before any variable: examples, targets, draws. What calls functions or has
    branches of its own in a step may be waited for, too. Eagerly all is there.

    Args:
        gradients: Tensors, slices, or None.
    """
    parts = tf.nest.flatten(list(gradients), expand_composites=True)
    tensors = [part for part in parts if tf.is_tensor(part)]
    if tf.executing_eagerly() or not tensors:
        return contextlib.nullcontext()
    return tf.control_dependencies([tf.group(*_before_variables(tensors))])


def _before_variables(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Of all that tensors come from, what itself comes from no variable."""
    from_variables = _from_variables([tensor.op for tensor in tensors])
    found = {id(t): t for t in tensors if not from_variables[t.op]}
    for op, comes in from_variables.items():
        if op.type.startswith(_YIELDS_A_BATCH):  # Whatever it stands behind.
            found.update((id(t), t) for t in op.outputs)
        if comes:
            found.update((id(t), t) for t in op.inputs if not from_variables[t.op])
    return [t for t in found.values() if t.dtype not in (tf.resource, tf.variant)]


def _from_variables(ops: Sequence[tf.Operation]) -> dict[tf.Operation, bool]:
    """Of each op and all before it, whether it has read a variable or is after such."""
    comes: dict[tf.Operation, bool] = {}
    waiting = list(ops)
    while waiting:  # Each op once more after all before it.
        op = waiting[-1]
        # A constant of a gradient may stand behind the arithmetic by control alone.
        before = [*(tensor.op for tensor in op.inputs), *op.control_inputs]
        unknown = [one for one in before if one not in comes]
        if op in comes or not unknown:
            waiting.pop()
            comes[op] = _reads(op) or any(comes[one] for one in before)
        else:
            waiting += unknown
    return comes


def _reads(op: tf.Operation) -> bool:
    has_handle = any(tensor.dtype == tf.resource for tensor in op.inputs)
    return has_handle and not op.type.startswith(_MAY_YIELD_A_BATCH)
