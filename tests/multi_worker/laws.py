"""What each of several real workers does in test_laws.py.

Every function runs on all workers at once; results go back to the test by pickle.
"""

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf.strategy import require_same_on_all_workers
from tests.steps import apply_gradients, residuals


def exchange(strategy, gradients, compressor, options):
    """Weights of this worker after every step (steps, n), residual, summary."""
    weights, optimizer = apply_gradients(strategy, gradients, compressor, **options)
    return {
        "weights": weights[:, 0],
        "residual": residuals(strategy, optimizer)[0],
        "summary": optimizer.communication_summary(),
    }


def require_same(strategy, values):
    """Raises if `values`, this worker's own, are not everybody's."""
    require_same_on_all_workers(strategy, values)


def collectives(strategy, compressor, size):
    """(kind, shape) of the collectives in the graph of one step of `size` entries."""
    with strategy.scope():
        weights = keras.Variable(tf.zeros([size]))
        optimizer = keras.optimizers.SGD(1.0)
        if compressor is not None:
            optimizer = tem_tf.SparsifiedOptimizer(optimizer, compressor)
        optimizer.build([weights])

    @tf.function
    def step():
        strategy.run(lambda: optimizer.apply([tf.ones([size])], [weights]))

    graph = step.get_concrete_function().graph
    found = []
    for operation in _all_operations(graph):
        if operation.type.startswith("Collective"):
            found.append((operation.type, operation.inputs[0].shape.as_list()))
    return found


def _all_operations(graph):
    yield from graph.get_operations()
    for name in graph._functions:
        yield from graph._functions[name].graph.get_operations()


def _dataset(samples=64, batch=16):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 6)).astype("float32")
    y = x[:, :3].argmax(axis=1)
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)
    return dataset.with_options(options), x


def fit(strategy, inner, wrap, samples=64, callbacks=()):
    """A whole `fit` with validation and metrics, then `evaluate` and `predict`.

    Args:
        strategy: This worker's.
        inner: Configuration of a Keras optimizer.
        wrap: None, or the arguments of SparsifiedOptimizer.
        samples: Number of examples.
        callbacks: Pairs of a Keras callback's class and its arguments.
    """
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(8, activation="relu"),
                layers.BatchNormalization(),
                layers.Dense(3),
            ]
        )
        optimizer = keras.optimizers.get(inner)
        if wrap is not None:
            optimizer = tem_tf.SparsifiedOptimizer(optimizer, **wrap)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
    dataset, x = _dataset(samples)
    history = model.fit(
        dataset,
        validation_data=dataset,
        epochs=3,
        verbose=0,
        callbacks=[make(**kwargs) for make, kwargs in callbacks],
    )
    return {
        "history": history.history,
        "evaluate": model.evaluate(dataset, verbose=0),
        "predict": model.predict(x[:8], verbose=0),
        "weights": [np.array(w) for w in model.trainable_weights],
        "optimizer": [np.array(v.numpy()) for v in optimizer.variables],
        "summary": optimizer.communication_summary() if wrap else None,
    }


def custom_loop(strategy, compressor):
    """A custom training loop with `apply_gradients`, eagerly and in tf.function."""
    results = []
    for graph in (False, True):
        with strategy.scope():
            weights = tf.Variable([1.0, 2.0, 3.0, 4.0])
            optimizer = tem_tf.SparsifiedOptimizer(
                keras.optimizers.SGD(0.5), compressor
            )

        def step(weights=weights, optimizer=optimizer):
            optimizer.apply_gradients([(tf.constant([1.0, 6.0, 0.0, -2.0]), weights)])

        run = tf.function(step) if graph else step
        for _ in range(2):
            strategy.run(run)
        results.append(weights.numpy())
    return results


def nan_in_fit(strategy, index):
    """Trains on data that is NaN on one worker alone."""
    dataset, _ = _dataset()
    if strategy.cluster_resolver.task_id == index:
        dataset = dataset.map(lambda x, y: (x * np.nan, y))
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.1), tem_tf.HardThreshold(0.01)
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss)
    model.fit(dataset, epochs=1, verbose=0)
