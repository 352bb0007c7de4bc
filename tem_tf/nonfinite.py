"""The error of a gradient that is not finite: what it says, and how it is known.

TensorFlow raises what is wrong inside a graph as an InvalidArgumentError, as it does
for many faults; only the message tells which. A graph's message holds the names of the
operations that failed, so the assertion has one that nothing else has. Without a graph
there is no operation, and the message begins with the words of the assertion.
"""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

# The name of the assertion's operation; `tf.name_scope` allows these letters.
OPERATION = "tem_tf_gradient_is_finite"
# How the errors begin. TensorFlow writes a backslash before quotation marks and
# apostrophes.
NOT_FINITE = "A gradient has NaN or Inf"
EMPTY_BATCH = "The batch of a worker was empty, so that its gradient has NaN"

_COUNT = "Replicas whose gradient is not finite:"
_ADVICE = (
    'Lower the learning rate, or pass to SparsifiedOptimizer nonfinite="skip" to leave '
    'such steps out, or "zero" to count such a gradient as zero.'
)
_EMPTY_ADVICE = (
    "Batch normalization has no mean of no rows. Give each worker rows at every step: "
    "pass drop_remainder=True to `dataset.batch`, or have a number of rows that the "
    "batch size divides, or call `dataset.repeat()` before `batch` and pass "
    "`steps_per_epoch` to `fit`."
)
_UNKNOWN_ADVICE = (
    "If the batch of a worker may have been empty (this strategy does not tell): "
    f"{_EMPTY_ADVICE} Else: {_ADVICE}"
)

_IN_GRAPH = re.compile(rf"\{{\{{node (?:[^\s}}]*/)?{OPERATION}(?:_\d+)?/")
_EAGER = re.compile(
    rf"Expected '.*' to be true\. Summarized data: b'({NOT_FINITE}|{EMPTY_BATCH})\."
)
_COUNTED = re.compile(rf"{NOT_FINITE}\. Steps since the start or `forget`: \d")


def require_finite(nonfinite: tf.Tensor, empty: tf.Tensor | None) -> tf.Operation:
    """Raises where a gradient is not finite: on all replicas at the same step.

    Args:
        nonfinite: int32 scalar. Number of replicas whose gradient is not finite.
        empty: int32 scalar. Those of them whose batch was empty. None: not known.
    """
    said = not_finite_error(nonfinite, empty)
    return tf.debugging.Assert(tf.equal(nonfinite, 0), said, name=OPERATION)


def require_none_counted(steps: int) -> None:
    """Raises, afterwards, what a step that XLA has compiled could not.

    Args:
        steps: Int. At so many a gradient was not finite, and was left out.

    Raises:
        tf.errors.InvalidArgumentError: there is one.
    """
    if steps:
        raise tf.errors.InvalidArgumentError(
            None,
            None,
            f"{NOT_FINITE}. Steps since the start or `forget`: {steps}, in which it "
            f"was left out: XLA cannot end a step. {_ADVICE}",
        )


def is_nonfinite_error(error: BaseException) -> bool:
    """Whether an error says that a gradient was not finite (`nonfinite="raise"`).

    Args:
        error: Whatever a training step raised.

    >>> is_nonfinite_error(ValueError("A gradient has NaN or Inf"))
    False
    """
    if not isinstance(error, tf.errors.InvalidArgumentError):
        return False
    words = str(error)
    return bool(_IN_GRAPH.search(words) or _EAGER.match(words) or _COUNTED.match(words))


def not_finite_error(nonfinite: tf.Tensor, empty: tf.Tensor | None) -> list[Any]:
    """What `tf.debugging.Assert` shall say of gradients that are not finite.

    Args:
        nonfinite: int32 scalar. Number of replicas whose gradient is not finite.
        empty: int32 scalar. Those of them whose batch was empty. None: not known.

    Returns:
        Texts and numbers for `data`, the same on all replicas if the arguments are.

    Example:

    >>> text, count, *_ = not_finite_error(tf.constant(2), tf.constant(1))
    >>> print(text.numpy().decode(), int(count))
    The batch of a worker was empty, so that its gradient has NaN. Replicas whose
    gradient is not finite: 2
    """
    if empty is None:
        return [f"{NOT_FINITE}. {_COUNT}", nonfinite, _UNKNOWN_ADVICE]
    had_rows = tf.equal(empty, 0)
    return [
        tf.where(had_rows, f"{NOT_FINITE}. {_COUNT}", f"{EMPTY_BATCH}. {_COUNT}"),
        nonfinite,
        "Of these with an empty batch:",
        empty,
        tf.where(had_rows, _ADVICE, _EMPTY_ADVICE),
    ]
