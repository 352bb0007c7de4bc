"""The gradient over a split, against the same written out."""

import numpy as np
import tensorflow as tf

from tem_studies.data_parallelism.lipschitz import SplitGradient
from tem_studies.workloads import architectures
from tem_studies.workloads.batches import DeviceSplit, cross_entropy
from tem_studies.workloads.data_sources import Split
from tests.workloads.files import examples

IMAGES, LABELS = examples(70, (16, 16, 1))
MEAN, DEVIATION = np.float32([120.0]), np.float32([70.0])


def test_gradient_is_that_of_the_mean_loss_in_the_kept_weights(monkeypatch):
    monkeypatch.setattr("tem_studies.data_parallelism.lipschitz.CHUNK", 30)
    split = DeviceSplit(Split(IMAGES, LABELS), MEAN, DEVIATION)
    model = architectures.build("simple-cnn", (16, 16, 1), seed=0)
    other = architectures.build("simple-cnn", (16, 16, 1), seed=1)
    generator = np.random.default_rng(0)
    masks = [generator.integers(0, 2, w.shape) for w in model.get_weights()]
    for count, given in ((70, None), (45, 45)):
        gradient = SplitGradient(other, split, given)
        gradient.prune(masks)
        assert gradient.examples == count
        images = (IMAGES[:count].astype(np.float32) - MEAN) / DEVIATION
        with tf.GradientTape() as tape:
            losses = cross_entropy(LABELS[:count].astype(np.int32), model(images))
            loss = tf.reduce_mean(losses)
        wanted = tape.gradient(loss, [v.value for v in model.trainable_variables])
        got = gradient(model.get_weights())
        for g, w, mask in zip(got, wanted, masks, strict=True):
            # float32 sums in another order.
            np.testing.assert_allclose(g, w.numpy() * mask, rtol=1e-3, atol=1e-6)
