"""Trainings by `fit` in which each part of a network has an optimizer of its own.

Used in one process and on real workers.
"""

import keras
import numpy as np
import tensorflow as tf

import tem_tf

# By name, how an inner optimizer of the two is wrapped.
WRAPPED = {
    "plain": lambda inner: inner,
    "lossless": lambda inner: tem_tf.SparsifiedOptimizer(
        inner, tem_tf.HardThreshold(1e-30)
    ),
}


class Gan(keras.Model):
    """A generator and a discriminator, trained in one step, one after the other."""

    def __init__(self, wrap):
        super().__init__()
        layers = keras.layers
        self.generator = keras.Sequential([keras.Input((2,)), layers.Dense(6)])
        self.discriminator = keras.Sequential(
            [keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(1)]
        )
        self.optimizers = [
            wrap(keras.optimizers.Adam(0.01)),
            wrap(keras.optimizers.SGD(0.1, momentum=0.9)),
        ]

    def call(self, inputs):
        return self.discriminator(self.generator(inputs))

    def _train(self, optimizer, network, loss_of):
        with tf.GradientTape() as tape:
            loss = loss_of()
            # As Keras's losses do under a strategy.
            share = loss / self.distribute_strategy.num_replicas_in_sync
        variables = network.trainable_variables
        gradients = tape.gradient(share, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    def train_step(self, data):
        noise, real = data

        def discriminates():
            fake = self.discriminator(self.generator(noise))
            return tf.reduce_mean(
                tf.nn.softplus(fake) + tf.nn.softplus(-self.discriminator(real))
            )

        def deceives():  # The discriminator that has learnt in this step.
            return tf.reduce_mean(
                tf.nn.softplus(-self.discriminator(self.generator(noise)))
            )

        generator, discriminator = self.optimizers
        return {
            "discriminator": self._train(
                discriminator, self.discriminator, discriminates
            ),
            "generator": self._train(generator, self.generator, deceives),
        }


def train_gan(strategy, wrapping):
    """Weights and history of two epochs; see `_fit`."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = Gan(WRAPPED[wrapping])
        model.compile()
    return _fit(model, model.optimizers, targets=6)


def train_by_multi_optimizer(strategy, wrapping):
    """The same for Keras's MultiOptimizer, whose parts are wrapped one by one."""
    keras.utils.set_random_seed(0)
    wrap = WRAPPED[wrapping]
    with strategy.scope():
        layers = [keras.layers.Dense(8, "tanh", name="first"), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((2,)), *layers])
        first = wrap(keras.optimizers.Adam(0.01))
        others = wrap(keras.optimizers.SGD(0.1, momentum=0.9))
        optimizer_map = keras.optimizers.OptimizerMap(others, {".*first/.*": first})
        model.compile(keras.optimizers.MultiOptimizer(optimizer_map), "mse")
    return _fit(model, [first, others], targets=3)


def _fit(model, optimizers, targets):
    """Trains on 32 rows.

    Returns:
        "weights", "slots" of the inner optimizers, "history" and each optimizer's
        "iterations".
    """
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(32, n)).astype("float32") for n in (2, targets))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).with_options(options)
    history = model.fit(data, epochs=2, shuffle=False, verbose=0)
    inner = [getattr(one, "inner_optimizer", one) for one in optimizers]
    return {
        "weights": model.get_weights(),
        "slots": [np.array(v.numpy()) for one in inner for v in one.variables],
        "history": history.history,
        "iterations": [int(one.iterations.numpy()) for one in optimizers],
    }
