"""Smoothness along training: the local Lipschitz constant of the gradient.

With weights w before and w' after one step, and ∇f the gradient over the training
split in the weights that are not pruned,

    L = max over γ in {0.1, …, 0.9} of ‖∇f(w + γ(w' - w)) - ∇f(w)‖ / ‖γ(w' - w)‖

References:
    Lee et al., ICLR 2021, arXiv 2003.11316, and its code (the nine γ).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from tem_studies.workloads.batches import DeviceSplit, cross_entropy
from tem_studies.workloads.chunks import CHUNK, sum_over_chunks

GAMMAS = tuple(i / 10 for i in range(1, 10))

Arrays = list[np.ndarray]


def smoothness(
    gradient: Callable[[Arrays], Arrays], before: Arrays, after: Arrays
) -> float | None:
    """Largest change of the gradient per distance, on the way of one step.

    Args:
        gradient: ∇f at given weights.
        before: The weights w, of any shapes.
        after: The weights w', of the same shapes.

    Returns:
        L, or None if the step did not move: there is no quotient then.

    Example:
        >>> L = smoothness(lambda w: [3.0 * w[0]], [np.ones(2)], [np.zeros(2)])
        >>> round(L, 6)
        3.0
    """
    origin, target = _flat(before), _flat(after)
    if np.array_equal(origin, target):
        return None
    start = _flat(gradient(before))
    quotients = []
    for gamma in GAMMAS:
        between = [
            (b + gamma * (a.astype(np.float64) - b)).astype(b.dtype)
            for b, a in zip(before, after, strict=True)
        ]
        # The way as it was rounded to the weights' dtype: a small step is few of them.
        length = np.linalg.norm(_flat(between) - origin)
        if length > 0:
            change = np.linalg.norm(_flat(gradient(between)) - start)
            quotients.append(float(change / length))
    return max(quotients, default=None)


class SplitGradient:
    """∇f of a model's mean loss over fixed examples, at any weights.

    Args:
        model: From images to logits; its own weights play no part.
        split: The training split.
        examples: The first of its rows are taken; None takes all. The order of the
            split is random already.
    """

    def __init__(
        self, model: keras.Model, split: DeviceSplit, examples: int | None = None
    ) -> None:
        self.examples = min(examples or split.examples, split.examples)
        self._masks: Sequence[np.ndarray] = []
        shapes = [variable.shape for variable in model.trainable_variables]

        def summed(*weights: tf.Tensor) -> list[tf.Tensor]:
            def of_chunk(start: tf.Tensor, stop: tf.Tensor) -> list[tf.Tensor]:
                images, labels = split.take(tf.range(start, stop))
                with tf.GradientTape() as tape:
                    tape.watch(weights)
                    logits, _ = model.stateless_call(
                        list(weights), model.non_trainable_variables, images
                    )
                    loss = tf.reduce_sum(cross_entropy(labels, logits))
                return tape.gradient(loss, weights)

            # float64: the quotient is one of small differences.
            sums = sum_over_chunks(
                of_chunk, shapes, 0, self.examples, CHUNK, tf.float64
            )
            return [total / self.examples for total in sums]

        signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
        self._summed = tf.function(summed, input_signature=signature)

    def prune(self, masks: Sequence[np.ndarray]) -> None:
        """Entries where a mask is 0 have no gradient from now on."""
        self._masks = masks

    def __call__(self, weights: Arrays) -> Arrays:
        """∇f at `weights`: float64 arrays of their shapes."""
        sums = self._summed(*(tf.constant(w, tf.float32) for w in weights))
        gradients = [total.numpy() for total in sums]
        if not len(self._masks):
            return gradients
        return [g * mask for g, mask in zip(gradients, self._masks, strict=True)]


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)
