"""Batches are a function of the epoch and the step, whatever the global seed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tem_tf.checkpoint.epoch_data import EpochData


def make_dataset(epoch):
    return tf.data.Dataset.range(12).shuffle(12, seed=epoch).batch(3)


def make_unseeded(epoch):
    return tf.data.Dataset.range(12).shuffle(12).batch(3)


def batches(data, epoch, taken=0):
    data.set(epoch, taken)
    return [batch.tolist() for batch in data.dataset.as_numpy_iterator()]


@pytest.fixture(params=[0, 1])
def seed(request):
    keras.utils.set_random_seed(request.param)
    yield request.param
    keras.utils.set_random_seed(1)


def test_an_epoch_gives_the_same_batches_each_time(seed):
    data, other = EpochData(make_dataset, None), EpochData(make_dataset, None)
    first = batches(data, 1)
    assert np.sort(np.concatenate(first)).tolist() == list(range(12))
    assert batches(data, 2) != first
    assert batches(data, 1) == batches(other, 1) == first


def test_batches_that_were_taken_are_left_out(seed):
    data = EpochData(make_dataset, None)
    assert batches(data, 1, taken=3) == batches(data, 1)[3:]


def test_a_shuffle_without_a_seed_follows_the_global_one(seed):
    first = batches(EpochData(make_unseeded, None), 0)
    keras.utils.set_random_seed(seed)
    assert batches(EpochData(make_unseeded, None), 0) == first


def test_the_number_of_batches_must_be_known():
    def unknown(epoch):
        return make_dataset(epoch).filter(lambda batch: True)

    with pytest.raises(ValueError, match="`steps` must be the number of batches"):
        EpochData(unknown, None)
    assert EpochData(unknown, 4).steps == 4


@pytest.mark.parametrize(
    "make", [None, lambda epoch: [1, 2], tf.data.Dataset.range(3).batch(1)]
)
def test_a_dataset_must_be_made(make):
    with pytest.raises(ValueError, match="`make_dataset` must be a function of the"):
        EpochData(make, None)


@pytest.mark.parametrize("steps", [0, -1, 2.0])
def test_an_epoch_has_batches(steps):
    with pytest.raises(ValueError, match="must be an integer >= 1"):
        EpochData(make_dataset, steps)
    with pytest.raises(ValueError, match="must be an integer >= 1"):
        EpochData(lambda epoch: make_dataset(epoch).take(0), None)
