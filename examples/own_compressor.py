"""A compressor of your own: checked, then used on two workers.

tem-tf-run --workers 2 -- python own_compressor.py
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf.layout import pack


@keras.saving.register_keras_serializable(package="examples")
@dataclasses.dataclass(frozen=True)
class AboveTheMean(tem_tf.Sparsifier):
    """Sends what is `factor` times as large as the mean magnitude, or larger."""

    factor: float = 3.0

    def rule(self, state, corrected, step, segments):
        vector = pack(corrected)  # End to end: the gradient and what was held back.
        mean = tf.reduce_sum(tf.abs(vector)) / max(vector.shape[0], 1)
        return tem_tf.AtLeast(self.factor * mean)


if __name__ == "__main__":
    strategy = tem_tf.MultiWorkerMirroredStrategy()
    tem_tf.testing.check_compressor(AboveTheMean())
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(10)])
        model.compile(
            tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(0.1), AboveTheMean()),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=512)
    examples = np.float32(np.eye(10)[labels] + rng.normal(size=(512, 10)))
    model.fit(examples, labels, batch_size=64, epochs=2, verbose=0)
    summary = model.optimizer.communication_summary()
    print(f"{100 * summary['density']:.2g} % of the gradients' entries were sent")
