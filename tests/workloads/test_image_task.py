"""Augmented training is the same on any number of replicas, and a function of step."""

import numpy as np
import tensorflow as tf

from tem_studies.workloads import data_sources
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.data_sources import Split
from tem_studies.workloads.examples import Share
from tem_studies.workloads.image_task import ImageTask
from tests.workloads.files import examples


def make_task(**settings):
    split = Split(*examples(100, (16, 16, 3)))
    data = data_sources.split(split, split, "here", classes=10)
    settings = {"datasource": "cifar-10", "batch_size": 12} | settings
    return ImageTask(Configuration(**settings), data)


class Recorder:
    """Stands for the network; keeps what it is given."""

    def __init__(self):
        self.images = []

    def __call__(self, images, training):
        assert training
        self.images.append(images.numpy())
        return tf.zeros((len(images), 10))


def seen(task, replicas, step):
    """The images of one step over all replicas."""
    model, rows = Recorder(), tf.range(12)
    for replica in range(replicas):
        share = Share(tf.constant(replica), replicas, tf.constant(step, tf.int64))
        task.train.learn(model, rows, share)
    return np.concatenate(model.images)


def test_augmentation_does_not_depend_on_the_number_of_replicas():
    task = make_task(augmentation="crop-flip-rotate")
    one, three = (seen(task, replicas, step=7) for replicas in (1, 3))
    np.testing.assert_array_equal(one, three)
    assert (seen(task, 1, step=8) != one).any()


def test_without_augmentation_every_step_is_the_same():
    task = make_task()
    np.testing.assert_array_equal(seen(task, 2, step=7), seen(task, 2, step=8))


def test_steps_per_epoch_are_full_batches():
    assert make_task().steps_per_epoch == 90 // 12
