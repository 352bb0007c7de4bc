"""What a step of aggregation yields: before anything is written, and to who asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tem_tf.kept_state import Kept
from tem_tf.layout import Gradient
from tem_tf.transport import Beside


class Outcome(NamedTuple):
    """What a step yields on a replica before anything is written.

    Attributes:
        direction: float32 vectors, one for each large variable.
        kept: The new states.
        beside: What the exchange yields beside.
        table: float64 (S, 6). What this replica sent and held back of each variable.
        clipped: float32 scalar. What clipping multiplied with.
        other: This replica's gradients of other dtypes, zeros if one is not finite.
        before: The states before, of what was updated in place.
    """

    direction: Sequence[tf.Tensor]
    kept: Kept
    beside: Beside
    table: tf.Tensor
    clipped: tf.Tensor
    other: list[tf.Tensor]
    before: dict[str, Any]


class Summed(NamedTuple):
    """Gradients that have been summed over replicas.

    Attributes:
        gradients: Equal on all replicas.
        nonfinite: int32 scalar. Replicas whose gradient was not finite, equal on all.
        empty: int32 scalar. Those of them whose batch was empty.
    """

    gradients: Sequence[Gradient]
    nonfinite: tf.Tensor
    empty: tf.Tensor
