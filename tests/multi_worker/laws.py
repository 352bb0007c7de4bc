"""What each of several real workers does in test_laws.py.

Every function runs on all workers at once; results go back to the test by pickle.
"""

import os

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf import require_same_on_all_workers
from tem_tf.instance_keys import Use, new_owner
from tests.same_bits import digests
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
    exchange, use = tem_tf.SparsifiedCrossDeviceOps.of(strategy), Use(new_owner())
    own = tf.constant(lengths, tf.int32)[:, strategy.cluster_resolver.task_id]
    room = int(own.shape[0]) * 1000  # Enough for the rows of all tests.

    def step(index, demand):
        payload = tf.fill([own[index]], 7)
        outcome = exchange.gather_payloads(payload, use, demand)
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


def records_of_unknown_length(strategy, compressor, execution, log_dir):
    """Steps at which this worker takes part in a sum, in two epochs of 14 steps."""
    data = tf.data.Dataset.range(7).filter(lambda i: i >= 0)
    data = data.map(lambda i: (tf.ones([2, 6]), tf.ones([2, 1])))
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.OFF
    options.experimental_distribute.auto_shard_policy = policy
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
        optimizer = tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(0.1), compressor)
        model.compile(optimizer, "mse", steps_per_execution=execution)
    callback = tem_tf.TensorBoardSparsification(log_dir, every=5)
    gathers, summaries = [], optimizer.communication_summaries

    def noting():
        outcome = summaries()
        gathers.append(outcome[0]["steps"])
        return outcome

    object.__setattr__(optimizer, "communication_summaries", noting)
    model.fit(
        data.with_options(options),
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )
    return {"gathers": gathers, "last": callback.summary()["steps"]}


def gather_numbers(strategy, size):
    """Collectives where so many numbers are gathered: always, and sometimes."""
    exchange = tem_tf.SparsifiedCrossDeviceOps.of(strategy)
    mine = tf.range(size, dtype=tf.float64) + strategy.cluster_resolver.task_id
    use = Use(new_owner())
    rows = tf.function(lambda: strategy.run(lambda: exchange.gather_numbers(mine, use)))
    expected = np.arange(size) + np.arange(strategy.num_replicas_in_sync)[:, None]
    np.testing.assert_array_equal(rows(), expected)
    return collectives_of(rows.get_concrete_function())


def other_dtypes(strategy):
    """The sum of gradients in float64, complex64 and float32, of two steps the last."""
    rank = strategy.cluster_resolver.task_id
    gradients = [
        tf.constant([(rank + 1) * (1 + 2.0**-40), 1], tf.float64),
        tf.constant([1j], tf.complex64),
        tf.constant([0.125, 2.0]),
    ]
    aggregator = tem_tf.Aggregator(
        tem_tf.HardThreshold(1.0), gradients_divided_by_replicas=False
    )
    with strategy.scope():  # TensorFlow has no complex variables under this strategy.
        aggregator.build([tf.zeros_like(g) for g in gradients], names="abc")

    @tf.function
    def step(number):
        return strategy.run(lambda: aggregator.aggregate(gradients, number))

    return [[np.array(g) for g in step(tf.constant(i, tf.int64))] for i in (0, 1)][-1]


def two_in_one_step(strategy, gradients, compressors, steps):
    """Two optimizers in one step, which do not wait for one another.

    Args:
        strategy: This worker's.
        gradients: (2, workers, n): those of each optimizer, at every step.
        compressors: Of each.
        steps: Int.

    Returns:
        The weights of each after every step, (steps, 2, n).
    """
    gradients = tf.constant(gradients, tf.float32)
    with strategy.scope():
        weights = [
            keras.Variable(tf.zeros([gradients.shape[2]]), name=name) for name in "ab"
        ]
        optimizers = [
            tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(1.0), compressor)
            for compressor in compressors
        ]
        for optimizer, variable in zip(optimizers, weights, strict=True):
            optimizer.build([variable])

    @tf.function
    def step():
        def replica():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            for i in range(2):
                optimizers[i].apply([gradients[i, number]], [weights[i]])

        strategy.run(replica)

    results = []
    for _ in range(steps):
        step()
        results.append([np.array(variable) for variable in weights])
    return np.array(results)


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
    "complex": lambda rank: tf.complex([1.0, 2.0], [rank, -rank]),
    "text": lambda rank: tf.strings.as_string([rank, rank]),
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


def trainings(strategy, rows):
    """Digests of two runs of each training of tests/same_bits.py."""
    return digests(rows, strategy)
