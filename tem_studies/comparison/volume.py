"""What a budget is in bytes, and how long a dense start of Top-k is.

A budget is a density ρ of the whole run: the bytes that k = max(1, ⌊ρn⌋) entries at
random places take on the wire in each of T steps, per worker, padding apart. A message
is encoded to find out; nothing here knows the format.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_tf import wire
from tem_tf.compressors import TopK
from tem_tf.layout import make_segments

# Share of the budget that a dense start takes, the rest being left for a constant k.
# Our choice, as in the convex laboratory.
_WARM_UP_SHARE = 0.5
_DENSE_BYTES = 4  # of one entry, by an all-reduce


@functools.lru_cache(maxsize=64)
def budget_bytes(density: float, size: int, steps: int) -> int:
    """What one worker may send in a run.

    Args:
        density: The budget, in (0, 1).
        size: Number of entries of the gradient.
        steps: Of the run.
    """
    vector = tf.random.stateless_normal([size], [0, 0])
    segments = make_segments(["all"], [(size,)])
    asked = TopK(density=density).compress((), [vector], np.int64(0), segments)
    payload = wire.encode(asked.message.to_sparse(), tf.zeros([0]), tf.constant(0))
    return steps * 4 * int(tf.size(payload))


def warm_up_steps(density: float, size: int, steps: int) -> int:
    """Dense steps at the start: half of the budget, or one where half is less.

    Raises:
        Refusal: the budget is less than one dense step.
    """
    budget, dense = budget_bytes(density, size, steps), _DENSE_BYTES * size
    if budget < dense:
        raise Refusal(
            f"`budgets` {density:g} cannot be met by topk_warmup: over {steps} steps "
            f"it is {budget:,} bytes, and one dense step {dense:,}. Pass a larger "
            "budget, more --train_iterations, or leave topk_warmup out."
        )
    return max(1, int(_WARM_UP_SHARE * budget / dense))


def as_counts(entries: Iterable[float]) -> list[int]:
    """Integers with the sums of `entries`; fractions are carried over to later steps.

    Example:
        >>> as_counts([1.5, 1.5, 0.25])
        [1, 2, 0]
    """
    # A sum of means over workers may fall short of its integer by rounding.
    sums = np.floor(np.cumsum(list(entries)) + 1e-6).astype(int)
    return np.diff(sums, prepend=0).tolist()
