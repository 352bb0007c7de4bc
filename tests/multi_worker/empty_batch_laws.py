"""What workers do in test_empty_batches.py, where a worker's batch has no rows."""

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf.empty_batches import batch_is_empty


class Noting(keras.optimizers.SGD):
    """SGD that notes at each step what it knows of the batch."""

    def __init__(self):
        super().__init__(0.1)
        self.noted: list[bool] = []

    def apply(self, grads, trainable_variables=None):
        empty = batch_is_empty()
        assert empty is not None
        tf.numpy_function(lambda value: self.noted.append(bool(value)), [empty], [])
        return super().apply(grads, trainable_variables)


class Net(keras.Model):
    """Two dense layers, and batch norm between them or not."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.last = keras.layers.Dense(4), keras.layers.Dense(1)
        self.norm = keras.layers.BatchNormalization() if norm else None

    def call(self, inputs, training=False):
        if isinstance(inputs, dict):
            inputs = tf.concat([inputs["a"], inputs["b"]], axis=1)
        hidden = self.first(inputs)
        if self.norm is not None:
            hidden = self.norm(hidden, training=training)
        return self.last(hidden)


def _batches(rows, form, count_known, shared):
    """Batches of 16 of all workers together, the last one short."""
    features = np.random.default_rng(0).normal(size=(rows, 6)).astype("float32")
    inputs = {"a": features[:, :2], "b": features[:, 2:]} if form else features
    weights = (np.ones(rows, "float32"),) if form else ()
    data = tf.data.Dataset.from_tensor_slices((inputs, features[:, :1], *weights))
    if not count_known:
        data = data.filter(lambda *_: True)
    options = tf.data.Options()
    policies = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = (
        policies.DATA if shared else policies.OFF
    )
    return data.batch(16).with_options(options)


def fit(strategy, rows, options):
    """Fits with `options` of `_fit`, which `WorkerGroup.run` takes as one argument."""
    return _fit(strategy, rows, **options)


def _fit(
    strategy,
    rows,
    norm=False,
    compressor=None,
    form=False,
    count_known=True,
    steps_per_execution=1,
    run_eagerly=False,
    nonfinite="raise",
    loss_scale=None,
):
    """Fits for one epoch.

    Args:
        strategy: This worker's.
        rows: Int, of all workers, or a tuple with each worker's own.
        norm: Whether the model has batch norm.
        compressor: None: plain SGD. Else it is wrapped.
        form: Whether inputs are a dict, with sample weights.
        count_known: Whether Keras can know the number of batches.
        steps_per_execution: As in Keras.
        run_eagerly: As in Keras.
        nonfinite: Of the wrapper.
        loss_scale: Likewise.

    Returns:
        What was noted at each step, the paths of weights with NaN, and updates.
    """
    shared = isinstance(rows, int)
    own_rows = rows if shared else rows[strategy.cluster_resolver.task_id]
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = Net(norm)
        optimizer = Noting()
        compiled = optimizer
        if compressor is not None:
            compiled = tem_tf.SparsifiedOptimizer(
                optimizer, compressor, nonfinite=nonfinite, loss_scale=loss_scale
            )
        model.compile(
            compiled,
            "mse",
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
    data = _batches(own_rows, form, count_known, shared)
    model.fit(data, verbose=0)
    return {
        "noted": list(optimizer.noted),
        "not_finite": [v.path for v in model.weights if not np.isfinite(v).all()],
        "updates": int(optimizer.iterations.numpy()),
    }
