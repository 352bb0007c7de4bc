"""Trainings whose steps may be skipped or held back, under any strategy."""

import keras
import numpy as np
import tensorflow as tf

import tem_tf

SIZES = (5, 7)
# Of the wrapper's state these may differ where one training skipped and one did not.
_OF_THE_WAY = ("metrics/", "loss_scale/", "handshake/", "exchange/")


def train(strategy, gradients, compressor, memory="auto", inner=None, **options):
    """Applies gradients (steps, replicas, 12), through a loss that is scaled.

    Args:
        strategy: `tf.distribute.Strategy`.
        gradients: float32. Of the loss, undivided.
        compressor: As in `SparsifiedOptimizer`.
        memory: As there.
        inner: A serialised Keras optimizer. Default: SGD with momentum.
        **options: As there.

    Returns:
        Of each replica of this process its weights, the inner optimizer's variables and
        what is kept, one after the other, in that order; `iterations`; the summary.
    """
    inner = inner or {
        "class_name": "SGD",
        "config": {"learning_rate": 0.25, "momentum": 0.5},
    }
    gradients = tf.constant(gradients, tf.float32)
    with strategy.scope():
        weights = [keras.Variable(tf.zeros([s]), name=f"v{s}") for s in SIZES]
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.deserialize(inner),
            compressor,
            memory,
            gradients_divided_by_replicas=False,
            **options,
        )
        optimizer.build(weights)

    @tf.function
    def step(index):
        def replica():
            own = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = gradients[index, own] * optimizer.scale_loss(tf.ones([]))
            optimizer.apply(tf.split(gradient, SIZES), weights)

        strategy.run(replica)

    for index in range(len(gradients)):
        step(tf.constant(index))

    def read():
        state = optimizer.aggregator.state
        names = [n for n in sorted(state._variables) if not n.startswith(_OF_THE_WAY)]
        tensors = [
            *(tf.convert_to_tensor(v) for v in [*weights, *optimizer.variables]),
            *(state.read(name) for name in names),
        ]
        return [tf.cast(tf.reshape(t, [-1]), tf.float64) for t in tensors]

    parts = [strategy.experimental_local_results(p) for p in strategy.run(read)]
    return {
        "ends": [np.concatenate(one) for one in zip(*parts, strict=True)],
        "iterations": int(optimizer.iterations.numpy()),
        "summary": optimizer.communication_summary(),
        "path": optimizer.path,
    }
