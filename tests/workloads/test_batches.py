"""Batches hold the examples they should, in the order they should."""

import numpy as np
import pytest
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_studies.workloads.batches import (
    DeviceSplit,
    EpochOrder,
    count_correct,
    cross_entropy,
)
from tem_studies.workloads.data_sources import Split
from tests.workloads.files import examples


def test_batch_is_standardised_per_channel():
    images, labels = examples(10, (4, 4, 3))
    mean, deviation = np.float32([1, 2, 3]), np.float32([4, 5, 6])
    split = DeviceSplit(Split(images, labels), mean, deviation)
    got_images, got_labels = split.take(tf.constant([7, 2]))
    want = (images[[7, 2]].astype(np.float32) - mean) / deviation
    np.testing.assert_array_equal(got_images, want)
    np.testing.assert_array_equal(got_labels, labels[[7, 2]])


def test_epochs_are_full_batches_of_the_generators_permutations():
    order = EpochOrder(np.random.RandomState(3), examples=10, batch_size=4)
    generator = np.random.RandomState(3)
    want = [generator.permutation(10)[:8].reshape(2, 4) for _ in range(4)]
    taken = [order.take(steps) for steps in (1, 3, 0, 4)]
    assert [len(rows) for rows in taken] == [1, 3, 0, 4]
    np.testing.assert_array_equal(np.concatenate(taken), np.concatenate(want))
    assert taken[0].dtype == np.int32


def test_batch_of_the_whole_split_is_allowed_and_a_larger_one_is_not():
    order = EpochOrder(np.random.RandomState(0), examples=10, batch_size=10)
    assert sorted(order.take(2)[1]) == list(range(10))
    with pytest.raises(Refusal, match="at most the 10 examples.*batch_size=11"):
        EpochOrder(np.random.RandomState(0), examples=10, batch_size=11)


def test_cross_entropy_and_correct_answers_by_hand():
    logits = tf.constant([[0.0, 0.0], [0.0, np.log(3)]], tf.float32)
    labels = tf.constant([1, 1])
    want = [np.log(2), np.log(4 / 3)]
    np.testing.assert_allclose(cross_entropy(labels, logits), want, rtol=1e-6)
    assert count_correct(labels, logits) == 1  # of equals the first is the answer
