"""SNIP against an oracle with explicit mask variables, and exact counts."""

import numpy as np
import pytest
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_studies.workloads import architectures, pruning
from tem_studies.workloads.batches import DeviceSplit
from tem_studies.workloads.data_sources import Split
from tests.workloads.files import examples

MEAN, DEVIATION = np.float32([120.0]), np.float32([70.0])


def on_device(count, shape):
    """Random examples as the functions under test take them, and as arrays."""
    images, labels = examples(count, shape)
    channels = shape[-1]
    mean, deviation = np.repeat(MEAN, channels), np.repeat(DEVIATION, channels)
    split = DeviceSplit(Split(images, labels.astype(np.int32)), mean, deviation)
    return split, (images - mean) / deviation, labels


def oracle(model, images, labels, order):
    """The authors' definition: gradients with respect to masks, batch by batch."""
    weights = [tf.constant(weight) for weight in model.get_weights()]
    masks = [tf.Variable(tf.ones_like(weight)) for weight in weights]
    sums = [np.zeros(weight.shape) for weight in weights]
    for start in range(0, len(order), 100):
        rows = order[start : start + 100]
        with tf.GradientTape() as tape:
            w1, b1, w2, b2, w3, b3 = (
                w * m for w, m in zip(weights, masks, strict=True)
            )
            x = tf.constant(images[rows], tf.float32)
            x = tf.nn.relu(tf.nn.conv2d(x, w1, 1, "VALID") + b1)
            x = tf.nn.max_pool(x, 2, 2, "VALID")
            x = tf.nn.relu(tf.nn.conv2d(x, w2, 1, "VALID") + b2)
            x = tf.nn.max_pool(x, 2, 2, "VALID")
            logits = tf.reshape(x, [len(rows), -1]) @ w3 + b3
            targets = tf.one_hot(labels[rows], 10)
            loss = tf.reduce_mean(
                tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            )
        for total, gradient in zip(sums, tape.gradient(loss, masks), strict=True):
            total += gradient.numpy()
    return [np.abs(total) for total in sums]


def test_masks_are_those_of_explicit_mask_variables():
    split, images, labels = on_device(230, (16, 16, 1))  # the last batch is incomplete
    model = architectures.build("simple-cnn", (16, 16, 1), seed=0)
    for variable in model.trainable_variables:  # biases that have a sensitivity
        variable.assign(variable + 0.02)
    order = np.random.default_rng(0).permutation(230)

    want = oracle(model, images, labels, order)
    got = pruning.sensitivities(model, split, order)
    largest = max(score.max() for score in want)
    for a, b in zip(got, want, strict=True):
        # Signed sums cancel: the error is relative to the summands, not to the sum.
        np.testing.assert_allclose(a, b, atol=1e-5 * largest)

    kept = pruning.kept_entries(model.count_params(), 0.9)
    masks = pruning.snip(model, split, order, 0.9)
    assert sum(mask.sum() for mask in masks) == kept
    flat = np.concatenate([score.ravel() for score in want])
    threshold = np.sort(flat)[-kept]
    for mask, score in zip(masks, want, strict=True):
        # Where rounding cannot decide, the mask is the oracle's.
        clear = np.abs(score - threshold) > 1e-5 * largest
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(mask[clear], score[clear] > threshold)


def test_weights_are_not_changed():
    split, *_ = on_device(100, (16, 16, 1))
    model = architectures.build("simple-cnn", (16, 16, 1), seed=0)
    before = model.get_weights()
    pruning.snip(model, split, np.arange(100), 0.5)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arch", "shape", "counts"),
    [
        ("simple-cnn", (28, 28, 1), {0.5: 31_173, 0.7: 18_704, 0.9: 6_235}),
        ("resnet-8", (32, 32, 3), {0.5: 37_525, 0.7: 22_515, 0.9: 7_505}),
    ],
)
def test_published_counts_are_kept_and_all_biases_pruned(arch, shape, counts):
    split, *_ = on_device(100, shape)
    model = architectures.build(arch, shape, seed=0)
    scores = pruning.sensitivities(model, split, np.arange(100))
    for sparsity, count in counts.items():
        assert pruning.kept_entries(model.count_params(), sparsity) == count
        masks = pruning.keep_largest(scores, count)
        assert sum(mask.sum() for mask in masks) == count
        assert not any(mask.any() for mask in masks if mask.ndim == 1)


def test_ties_go_to_the_lower_index_and_weights_come_before_biases():
    bias, weight = np.float32([1, 1]), np.float32([[1, 0, 1], [2, 1, 1]])
    masks = pruning.keep_largest([bias, weight], kept=4)
    np.testing.assert_array_equal(masks[1], [[1, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(masks[0], [0, 0])
    masks = pruning.keep_largest([bias, weight], kept=6)
    np.testing.assert_array_equal(masks[1], [[1, 0, 1], [1, 1, 1]])
    np.testing.assert_array_equal(masks[0], [1, 0])


def test_sparsity_0_keeps_everything():
    model = architectures.build("simple-cnn", (16, 16, 1), seed=0)
    masks = pruning.snip(model, None, np.arange(100), 0.0)
    assert [mask.shape for mask in masks] == [w.shape for w in model.get_weights()]
    assert all(mask.all() for mask in masks)


def test_sparsity_that_leaves_nothing_is_refused():
    with pytest.raises(Refusal, match="must leave at least one of 100 entries"):
        pruning.kept_entries(100, 0.999)


def test_sensitivities_that_are_not_finite_are_refused():
    with pytest.raises(Refusal, match="Pruning needs finite sensitivities"):
        pruning.keep_largest([np.float32([1, np.nan])], kept=1)
