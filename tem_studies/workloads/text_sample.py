"""A text that a network writes, character by character.

c(t+1) ~ softmax(logits(c(t-n+1), …, c(t))),  n the context
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tem_studies.workloads.transformer import Transformer


def sample(
    model: Transformer, start: Sequence[int], count: int, seed: int
) -> list[int]:
    """Goes on with a text.

    Args:
        model: The network, trained.
        start: Numbers of the first characters, at least one.
        count: How many follow.
        seed: Integer >= 0. The same one draws the same text.

    Returns:
        The numbers of all characters, those of `start` first.
    """
    generator = np.random.default_rng(seed)

    @tf.function
    def logits_after(window: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        return model(window)[0, place]

    numbers = list(start)
    for _ in range(count):
        known = numbers[-model.context :]
        # No place sees what comes after it.
        window = np.zeros((1, model.context), np.int32)
        window[0, : len(known)] = known
        logits = logits_after(tf.constant(window), tf.constant(len(known) - 1))
        logits = logits.numpy().astype(np.float64)
        odds = np.exp(logits - logits.max())
        numbers.append(int(generator.choice(len(odds), p=odds / odds.sum())))
    return numbers
