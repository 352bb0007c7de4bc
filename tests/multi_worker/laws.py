"""What each of several real workers does in test_laws.py.

Every function runs on all workers at once; results go back to the test by pickle.
"""

import os

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


def exchange_by_operations(strategy, gradients, compressor, options, workers):
    """As `exchange`, without the native kernels on some workers."""
    if strategy.cluster_resolver.task_id not in workers:
        return exchange(strategy, gradients, compressor, options)
    before = os.environ.get("TEM_TF_NATIVE")
    os.environ["TEM_TF_NATIVE"] = "0"
    try:
        return exchange(strategy, gradients, compressor, options)
    finally:
        del os.environ["TEM_TF_NATIVE"]
        if before is not None:
            os.environ["TEM_TF_NATIVE"] = before


def require_same(strategy, values):
    """Raises if `values`, this worker's own, are not everybody's."""
    require_same_on_all_workers(strategy, values)


def collectives(strategy, compressor, size):
    """(kind, shape) of the collectives in the graph of one step of `size` entries.

    Returns:
        Those that run at every step, and those in a branch of it.
    """
    with strategy.scope():
        weights = keras.Variable(tf.zeros([size]))
        optimizer = keras.optimizers.SGD(1.0)
        if compressor is not None:
            optimizer = tem_tf.SparsifiedOptimizer(optimizer, compressor)
        optimizer.build([weights])

    @tf.function
    def step():
        strategy.run(lambda: optimizer.apply([tf.ones([size])], [weights]))

    return collectives_of(step.get_concrete_function())


def collectives_of(function):
    """Those that run at every call of a concrete function, and those in a branch."""
    always, in_branches = [], []

    def walk(graph, found):
        for operation in graph.get_operations():
            if operation.type.startswith("Collective"):
                found.append((operation.type, operation.inputs[0].shape.as_list()))
            branches = ("If", "StatelessIf", "Case", "StatelessCase")
            inside = in_branches if operation.type in branches else found
            for name in _functions_called(operation):
                walk(graph._get_function(name).graph, inside)

    walk(function.graph, always)
    return always, in_branches


def _functions_called(operation):
    for value in operation.node_def.attr.values():
        yield from (f.name for f in value.list.func)
        if value.HasField("func"):
            yield value.func.name


def gather(strategy, lengths, demand, graph):
    """Gathers vectors of 7s; this worker's has `lengths[step, worker]` entries.

    Args:
        strategy: This worker's.
        lengths: (steps, workers).
        demand: That of the first step; None: 0 at every step.
        graph: Whether all steps are one loop in a graph.

    Returns:
        For every step rows, and what it says of padding, overflows and demand.
    """
    exchange = tem_tf.SparsifiedCrossDeviceOps.of(strategy)
    own = tf.constant(lengths, tf.int32)[:, strategy.cluster_resolver.task_id]
    room = int(own.shape[0]) * 1000  # Enough for the rows of all tests.

    def step(index, demand):
        payload = tf.fill([own[index]], 7)
        outcome = exchange.gather_payloads(payload, demand)
        width = tf.shape(outcome.rows)[1]
        rows = tf.pad(outcome.rows, [[0, 0], [0, room - width]])
        return rows, *outcome.traffic

    def loop():
        count = own.shape[0]
        arrays = [
            tf.TensorArray(dtype, count)
            for dtype in (tf.int32, tf.int32, tf.int32, tf.int64)
        ]
        last = tf.constant(demand or 0, tf.int64)
        for index in tf.range(count) if graph else range(count):
            outcome = step(index, last)
            if demand is not None:
                last = outcome[-1]
            arrays = [a.write(index, x) for a, x in zip(arrays, outcome, strict=True)]
        return [array.stack() for array in arrays]

    results = strategy.run(tf.function(loop) if graph else loop)
    return [np.array(result) for result in results]


def _dataset(samples=64, batch=16):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 6)).astype("float32")
    y = x[:, :3].argmax(axis=1)
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)
    return dataset.with_options(options), x


def fit(strategy, inner, wrap, samples=64, callbacks=(), steps_per_execution=1):
    """A whole `fit` with validation and metrics, then `evaluate` and `predict`.

    Args:
        strategy: This worker's.
        inner: Configuration of a Keras optimizer.
        wrap: None, or the arguments of SparsifiedOptimizer.
        samples: Number of examples.
        callbacks: Pairs of a Keras callback's class and its arguments.
        steps_per_execution: As in Keras.
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
        model.compile(
            optimizer,
            loss,
            metrics=["accuracy"],
            steps_per_execution=steps_per_execution,
        )
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


def twice(strategy, gradients, threshold):
    """The summaries of two equal trainings of one optimizer with `forget` between."""
    gradients = tf.constant(gradients, tf.float32)
    own = gradients[:, strategy.cluster_resolver.task_id]
    with strategy.scope():
        weights = keras.Variable(tf.zeros([own.shape[1]]))
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(1.0), tem_tf.HardThreshold(threshold)
        )
        optimizer.build([weights])

    @tf.function
    def step(gradient):
        strategy.run(lambda: optimizer.apply([gradient], [weights]))

    summaries = []
    for _ in range(2):
        for gradient in own:
            step(gradient)
        summaries.append(optimizer.communication_summary())
        optimizer.forget()
    return summaries


# What a user may hand to `strategy.reduce`, from a replica's number.
REDUCED = {
    "scalar": lambda rank: 1.5 + rank,
    "vector": lambda rank: tf.constant([1.0, 2.0]) * (1.0 + rank),
    "matrix": lambda rank: tf.ones([2, 3]) * (1.0 + rank),
    "integer": lambda rank: tf.cast(3 + 2 * rank, tf.int32),
    "integers": lambda rank: tf.cast([4.0, 2.0 + 2 * rank], tf.int64),
    "double": lambda rank: (
        tf.constant([1e300, 2.0], tf.float64) / (1.0 + tf.cast(rank, tf.float64))
    ),
    "one in a dict": lambda rank: {"right": tf.constant([2.0, 4.0]) * rank},
    "scalar in a dict": lambda rank: {"right": 2.0 * rank},
    "batch": lambda rank: (tf.ones([2, 3]) * rank, tf.ones([2]) * (2.0 + rank)),
    "mixed": lambda rank: {"a": [tf.ones([2]) * rank, 3.0 + rank], "b": 2.0 * rank},
}


def reductions(strategy):
    """What `strategy.reduce` makes of each of REDUCED, by form, operation and axis.

    Returns:
        Lists of arrays, or the kind of the error.
    """
    outcomes = {}
    for form, value in REDUCED.items():

        def replica(value=value):
            context = tf.distribute.get_replica_context()
            return value(tf.cast(context.replica_id_in_sync_group, tf.float32))

        per_replica = strategy.run(tf.function(replica))
        for operation in ("SUM", "MEAN"):
            for axis in (None, 0):
                try:
                    reduced = strategy.reduce(operation, per_replica, axis)
                    outcome = [np.asarray(leaf) for leaf in tf.nest.flatten(reduced)]
                except Exception as error:
                    outcome = type(error).__name__
                outcomes[f"{form}, {operation}, axis {axis}"] = outcome
    return outcomes


class OwnStep(keras.Model):
    """A model with a `train_step` of its own over a bare tensor of integers."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, inputs):
        return self.dense(tf.cast(inputs, tf.float32) / 255)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(data, training=True) ** 2)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"loss": loss}


def fit_own_step(strategy):
    """Weights and losses of two epochs over bare uint8 images, the last batch short."""
    images = np.random.default_rng(0).integers(256, size=(40, 5), dtype=np.uint8)
    data = tf.data.Dataset.from_tensor_slices(images).batch(15)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = OwnStep()
        model.compile(
            tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(0.1), tem_tf.TopK(k=3))
        )
    history = model.fit(data.with_options(options), epochs=2, verbose=0)
    return model.get_weights(), history.history["loss"]
