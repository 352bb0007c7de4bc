"""The README's lines as a whole script: two workers, a small network, made-up data.

    tem-tf-run --workers 2 -- python two_workers.py

or on each machine with its own TF_CONFIG: see the README.
"""

import keras
import numpy as np
import tensorflow as tf

import tem_tf


def build_model():
    """Ten classes from an image."""
    return keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def build_dataset():
    """Ten made-up images, each many times under noise; the class is which it was."""
    generator = np.random.default_rng(0)  # The same on all workers.
    labels = generator.integers(10, size=2048)
    images = generator.normal(size=(10, 28, 28))[labels]
    images = np.float32(images + 3 * generator.normal(size=images.shape))
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(64)
    options = tf.data.Options()
    # Each worker reads every other example: there are no files to share out.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options)


# The strategy comes first: here the workers meet.
strategy = tem_tf.MultiWorkerMirroredStrategy()
dataset = build_dataset()
with strategy.scope():
    model = build_model()
    model.compile(
        optimizer=tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.1, momentum=0.9),
            compressor=tem_tf.HardThreshold(threshold=4.73e-3),
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
model.fit(dataset, epochs=2, callbacks=[tem_tf.TensorBoardSparsification("logs")])

summary = model.optimizer.communication_summary()  # Of all workers, so on all of them.
print(
    f"{summary['replicas']:.0f} workers, {summary['steps']:.0f} steps: "
    f"{100 * summary['density']:.2g} % of the gradients' entries were sent"
)
