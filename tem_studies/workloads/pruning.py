"""Pruning at initialisation by connection sensitivity (SNIP), as in the DPS study.

With a mask c of ones that multiplies the weights w, the sensitivity of one weight is

    s = | Σ_b ∂L_b/∂c |  =  | w · Σ_b ∂L_b/∂w |,

where L_b is the mean loss of batch b and the sum runs over one shuffled epoch *with its
sign*. The κ largest of all weights and biases together are kept, κ = round(N(1 - s)).
As w does not change during the epoch, one pass of ordinary gradients is enough, and it
need not go batch by batch: an example of batch b weighs 1/|b|.

References:
    Lee et al., ICLR 2019, arXiv 1810.02340 (SNIP); the summation over an epoch and the
    inclusion of biases as in the code of Lee et al., ICLR 2021, arXiv 2003.11316.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_studies.workloads.batches import DeviceSplit, cross_entropy
from tem_studies.workloads.chunks import CHUNK, sum_over_chunks

PRUNING_BATCH = 100  # the DPS authors' (edps/prune.py)


def kept_entries(total: int, target_sparsity: float) -> int:
    """κ = round(N(1 - s)), the number of entries that pruning keeps.

    Raises:
        Refusal: nothing would be left.
    """
    kept = round(total * (1.0 - target_sparsity))
    if kept < 1:
        raise Refusal(
            f"`target_sparsity` must leave at least one of {total} entries. "
            f"Received: target_sparsity={target_sparsity}."
        )
    return kept


def sensitivities(
    model: keras.Model, train: DeviceSplit, order: np.ndarray
) -> list[np.ndarray]:
    """Sensitivity of every trainable entry, summed over one epoch.

    Args:
        model: From images to logits. Its weights are not changed.
        train: The training split.
        order: int (n,), a permutation of its rows: the epoch's order.

    Returns:
        |w · Σ_b ∂L_b/∂w| per trainable variable, float32, of the variables' shapes.
    """
    weights = [variable.value for variable in model.trainable_variables]
    shares = np.full(len(order), 1 / PRUNING_BATCH, np.float32)
    incomplete = len(order) % PRUNING_BATCH
    if incomplete:  # the last batch
        shares[-incomplete:] = 1 / incomplete

    @tf.function
    def summed_gradients(order: tf.Tensor, shares: tf.Tensor) -> list[tf.Tensor]:
        def of_chunk(start: tf.Tensor, stop: tf.Tensor) -> list[tf.Tensor]:
            images, labels = train.take(order[start:stop])
            with tf.GradientTape() as tape:
                losses = cross_entropy(labels, model(images, training=False))
                loss = tf.reduce_sum(losses * shares[start:stop])
            return tape.gradient(loss, weights)

        shapes = [weight.shape for weight in weights]
        return sum_over_chunks(of_chunk, shapes, 0, tf.size(order), CHUNK)

    sums = summed_gradients(tf.constant(order, tf.int32), tf.constant(shares))
    return [
        np.abs(weight.numpy() * total.numpy())
        for weight, total in zip(weights, sums, strict=True)
    ]


def keep_largest(scores: list[np.ndarray], kept: int) -> list[np.ndarray]:
    """Marks the largest scores of all tensors together.

    Ties go to the lower index, where the tensors stand one after the other, weights
    (two or more dimensions) before biases, as in the authors' code.

    Args:
        scores: Non-negative arrays.
        kept: How many to keep, exactly.

    Returns:
        float32 arrays of zeros and ones, of the shapes of `scores`.

    Raises:
        Refusal: a score is not finite.
    """
    order = sorted(range(len(scores)), key=lambda i: scores[i].ndim < 2)
    flat = np.concatenate([scores[i].ravel() for i in order])
    if not np.isfinite(flat).all():
        raise Refusal(
            "Pruning needs finite sensitivities: the loss of the network at its "
            "initial weights is not finite."
        )
    mask = np.zeros(len(flat), np.float32)
    mask[np.argsort(-flat, kind="stable")[:kept]] = 1.0
    masks: list[np.ndarray] = [np.empty(0)] * len(scores)
    start = 0
    for i in order:
        masks[i] = mask[start : start + scores[i].size].reshape(scores[i].shape)
        start += scores[i].size
    return masks


def snip(
    model: keras.Model, train: DeviceSplit, order: np.ndarray, target_sparsity: float
) -> list[np.ndarray]:
    """Prunes a network at its initial weights.

    Args:
        model: From images to logits, freshly initialised.
        train: The training split.
        order: int (n,), the order of the epoch over which sensitivities are summed.
        target_sparsity: Float in [0, 1). The share of all entries to prune. Higher =>
            fewer are kept.

    Returns:
        A mask for each trainable variable: float32 zeros and ones of its shape.
    """
    shapes = [tuple(variable.shape) for variable in model.trainable_variables]
    total = sum(int(np.prod(shape)) for shape in shapes)
    kept = kept_entries(total, target_sparsity)
    if kept == total:
        return [np.ones(shape, np.float32) for shape in shapes]
    return keep_largest(sensitivities(model, train, order), kept)
