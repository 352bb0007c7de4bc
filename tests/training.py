"""Small models, data and loops, to compare an optimizer and its wrapper in tests."""

import functools

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf.replica_state import values_here

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(8, 3)).astype("float32")
Y = _RNG.normal(size=(8, 2)).astype("float32")


def identity(inner):
    return tem_tf.SparsifiedOptimizer(inner, tem_tf.Identity())


def tiny_threshold(inner):
    """Takes the sparsifier's whole path, and sends all that is not zero."""
    return tem_tf.SparsifiedOptimizer(inner, tem_tf.HardThreshold(1e-30))


def thresholded(rate=1.0, threshold=0.5, **options):
    """Plain SGD, in which a weight shows minus the sum of what was sent."""
    return tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(rate), tem_tf.HardThreshold(threshold), **options
    )


WRAPPERS = {"identity": identity, "tiny_threshold": tiny_threshold}


@functools.cache  # Collectives of two strategies in one process get the same keys.
def make_strategy(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def make_model(optimizer, strategy=None, **arguments):
    """Returns a compiled model, its weights always the same.

    Args:
        optimizer: An optimizer, or a function that makes one under `strategy`.
        strategy: `tf.distribute.Strategy`. Default: none.
        **arguments: For `compile`.
    """
    with (strategy or tf.distribute.get_strategy()).scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(2, "tanh", name="dense")]
        )
        optimizer = optimizer() if callable(optimizer) else optimizer
        arguments = {"loss": "mse", **arguments}
        model.compile(optimizer, **arguments)
    return model


def linear_model(*names):
    """A sum of layers, whose kernels all have the mean input as gradient of the mean.

    Args:
        *names: Of the layers.
    """
    inputs = keras.Input((2,))
    layers = [
        keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name=name)
        for name in names
    ]
    return keras.Model(inputs, sum(layer(inputs) for layer in layers))


def fit(model, **arguments):
    """Four steps."""
    model.fit(X, Y, **{"batch_size": 2, "shuffle": False, "verbose": 0, **arguments})
    return model


def values(variables):
    return [np.array(variable.numpy()) for variable in variables]


def assert_same(model, expected):
    """Weights and optimizer variables of two models are equal, bit for bit."""
    for variables, others in (
        (model.weights, expected.weights),
        (model.optimizer.variables, expected.optimizer.variables),
    ):
        for value, other in zip(values(variables), values(others), strict=True):
            np.testing.assert_array_equal(value, other)


def apply_steps(optimizer, gradients, graph=True, build=True):
    """Starts at zero and applies gradients in the optimizer's strategy.

    Args:
        optimizer: A function that makes it, called under the strategy.
        gradients: (steps, replicas, n), what Keras hands over on each replica.
        graph: Whether in a `tf.function`.
        build: Whether to build it before the first step, which Keras needs in a graph
            on several replicas if the optimizer has variables of its own.

    Returns:
        The weights after each step, (steps, n), and the optimizer.
    """
    gradients = tf.constant(gradients, tf.float32)
    strategy = make_strategy(gradients.shape[1])
    with strategy.scope():
        optimizer = optimizer()
        weights = keras.Variable(tf.zeros([gradients.shape[2]]), name="weights")
        if build:
            optimizer.build([weights])

    def step(row):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        optimizer.apply_gradients([(row[replica], weights)])

    def run(row):
        strategy.run(step, args=(row,))

    run = tf.function(run, autograph=False) if graph else run
    history = []
    for row in gradients:
        run(row)
        history.append(np.array(weights.numpy()))
    return np.array(history), optimizer


def dyadic_gradients(steps, replicas, size=6, seed=0):
    """Small multiples of 1/4, of which sums and halves are exact."""
    generator = np.random.default_rng(seed)
    return generator.integers(-8, 9, (steps, replicas, size)).astype(np.float32) / 4


def train_each_alone(optimizer, rows, sizes, graph=True):
    """Applies gradients of replicas' own, whose weights may differ.

    Args:
        optimizer: A function that makes it, called under the strategy.
        rows: (steps, replicas, n), undivided.
        sizes: Of the variables, which start at zero; n in all.
        graph: Whether in a `tf.function`.

    Returns:
        The optimizer, its variables, and of each step, of each replica the weights of
        all variables, end to end.
    """
    rows = tf.constant(rows)
    strategy = make_strategy(rows.shape[1])
    with strategy.scope():
        optimizer = optimizer()
        weights = [
            keras.Variable(tf.zeros([size]), name=f"weights_{i}")
            for i, size in enumerate(sizes)
        ]
        optimizer.build(weights)

    def step(row):
        own = row[tf.distribute.get_replica_context().replica_id_in_sync_group]
        optimizer.apply(tf.split(own / row.shape[0], sizes), weights)

    def run(row):
        strategy.run(step, args=(row,))

    run = tf.function(run, autograph=False) if graph else run
    history = []
    for row in rows:
        run(row)
        here = [[one.numpy() for one in values_here(w)] for w in weights]
        history.append([np.concatenate(own) for own in zip(*here, strict=True)])
    return optimizer, weights, np.array(history)
