"""Steps of plain SGD on given gradients: what the laws of aggregation are tried on."""

import keras
import numpy as np
import tensorflow as tf

import tem_tf


def apply_gradients(strategy, gradients, compressor, graph=True, **options):
    """Applies gradients (steps, replicas, n) to weights of zeros, at rate 1.

    Returns:
        The weights of this process's replicas after every step, (steps, local
        replicas, n), and the optimizer.
    """
    gradients = tf.constant(gradients, tf.float32)
    with strategy.scope():
        split = gradients.shape[2] // 3  # Two variables, of unequal size.
        weights = [
            keras.Variable(tf.zeros([split]), name="a"),
            keras.Variable(tf.zeros([gradients.shape[2] - split]), name="b"),
        ]
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(1.0), compressor, **options
        )
        optimizer.build(weights)

    def step(index):
        context = tf.distribute.get_replica_context()
        own = gradients[index, context.replica_id_in_sync_group]
        optimizer.apply([own[:split], own[split:]], weights)
        return tf.concat([tf.convert_to_tensor(w) for w in weights], axis=0)

    run = tf.function(step) if graph else step
    results = []
    for index in range(gradients.shape[0]):
        outcome = strategy.run(run, args=(tf.constant(index),))
        results.append(strategy.experimental_local_results(outcome))
    return np.array(results), optimizer


def residuals(strategy, optimizer):
    """(local replicas, n): what each replica of this process holds back."""
    state = optimizer.aggregator.state

    def read_one(variable):
        name = f"memory/residual/{variable.path}"
        return state.read(name) if name in state else tf.zeros(variable.shape)

    def read():
        held = [read_one(variable) for variable in optimizer._trainable_variables]
        return tf.concat(held, axis=0)

    return np.array(strategy.experimental_local_results(strategy.run(read)))


def dyadic(steps, replicas, size=12, seed=0):
    """Random multiples of 1/8 in [-2, 2]: their sums are exact in floating point."""
    rng = np.random.default_rng(seed)
    return rng.integers(-16, 17, size=(steps, replicas, size)) / 8
