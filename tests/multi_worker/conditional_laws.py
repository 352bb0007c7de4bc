"""What real workers do in test_conditional_steps.py."""

import os

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tests.conditional import train


def train_rows(strategy, rows):
    """`train` of some rows: gradients, native, positional arguments, options."""
    before = os.environ.get("TEM_TF_NATIVE")
    results = []
    try:
        for gradients, native, way, options in rows:
            os.environ["TEM_TF_NATIVE"] = native
            results.append(train(strategy, gradients, *way, **options))
    finally:
        del os.environ["TEM_TF_NATIVE"]
        if before is not None:
            os.environ["TEM_TF_NATIVE"] = before
    return results


def fit_by_policy(strategy, policy, rows):
    """Weights, losses and summary after `fit` under a policy, for each row of options.

    The third of four batches of each epoch makes gradients of mixed_float16 overflow.
    """
    results = []
    worker = strategy.cluster_resolver.task_id
    keras.config.set_dtype_policy(policy)
    try:
        for memory, options in rows:
            results.append(_fit(strategy, worker, memory, options))
    finally:
        keras.config.set_dtype_policy("float32")
    return results


def _fit(strategy, worker, memory, options):
    rng = np.random.default_rng(worker)
    x = rng.normal(size=(16, 6)).astype("float32")
    y = x[:, :2] - 0.5 * x[:, 2:4]
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    policy = tf.data.Options()
    policy.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, "relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(2, dtype="float32"),
            ]
        )
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.05), tem_tf.TopK(0.25), memory, **options
        )
        model.compile(optimizer, "mse", metrics=["mae"])
    history = model.fit(data.with_options(policy), epochs=4, verbose=0)
    return {
        "weights": [np.array(v) for v in model.trainable_variables],
        "loss": history.history["loss"],
        "iterations": int(optimizer.iterations.numpy()),
        "summary": optimizer.communication_summary(),
    }
