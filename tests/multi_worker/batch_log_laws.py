"""What each of several real workers does in test_batch_logs.py."""

import contextlib
import inspect

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf import _internals
from tem_tf.batch_logs import BatchLogs, ReadyLog
from tests.multi_worker.laws import collectives_of

METRICS = ["accuracy", "mae", keras.metrics.F1Score]  # The last's result is a vector.


@contextlib.contextmanager
def logging(strategy, mode):
    """Logs are "global" or "local"; "each": Keras asks for one after the other."""
    before = strategy._batch_logs, _internals.model_of_step
    strategy._batch_logs = BatchLogs("global" if mode == "each" else mode)
    if mode == "each":
        _internals.model_of_step = lambda: None
    try:
        yield
    finally:
        strategy._batch_logs, _internals.model_of_step = before


class OwnLogs(keras.Model):
    """Logs of every form, under names of their own.

    Args:
        named_as_metrics: Whether the loss alone is logged, as the metric is named.
    """

    def __init__(self, named_as_metrics):
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.named_as_metrics = named_as_metrics

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            losses = tf.reduce_mean((self(x, training=True) - y) ** 2, axis=1)
            loss = tf.reduce_mean(losses)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._loss_tracker.update_state(losses)
        if self.named_as_metrics:
            return {"loss": loss}
        return {
            "scalar": loss,
            "vector": losses,  # As many as the batch has rows: not alike on workers.
            "matrix": (self(x) - y)[:2],
            "integer": tf.shape(x)[0],
            "nested": {"double": tf.cast(loss, tf.float64)},
            # What is no tensor of a replica.
            "number": 0.5,
            "rate": self.optimizer.learning_rate,
        }

    def test_step(self, data):
        x, y = data
        score = tf.reduce_mean(tf.abs(self(x) - y))
        self._loss_tracker.update_state(score)
        if self.named_as_metrics:
            return {"loss": score}
        return {"score": score, "rows": tf.shape(x)[0]}


def _data():
    """40 rows in batches of 15: the last is short, and not alike on workers."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)).astype("float32")
    y = np.eye(3, dtype="float32")[x[:, :3].argmax(axis=1)]
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(15).with_options(options)


def _model(strategy, kind, execution):
    """A compiled model; `kind` is "metrics", "own" or "own named as metrics"."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        if kind == "metrics":
            layers = [keras.Input((6,)), keras.layers.Dense(3, "softmax")]
            model = keras.Sequential(layers)
            metrics = [m if isinstance(m, str) else m() for m in METRICS]
        else:
            model, metrics = OwnLogs(kind != "own"), []
        model.compile(
            keras.optimizers.SGD(0.5),  # Sooner traced than a wrapped one.
            "categorical_crossentropy",
            metrics=metrics,
            steps_per_execution=execution,
        )
    return model


class _Recorder(keras.callbacks.Callback):
    """Keeps the logs of all batches."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(logs)

    def on_test_batch_end(self, batch, logs=None):
        self.logs.append(logs)


def logs(strategy, kind, mode, execution=1):
    """What an epoch logs, with validation; and one step more.

    Returns:
        "batches" and "history" of `fit`; "evaluate"; "weights"; "step", the tensors of
        one more step; "collectives" of a step's graph, without those in branches.
    """
    recorder = _Recorder()
    with logging(strategy, mode):
        model = _model(strategy, kind, execution)
        data = _data()
        history = model.fit(
            data, validation_data=data, shuffle=False, verbose=0, callbacks=[recorder]
        )
        evaluated = model.evaluate(data, verbose=0, return_dict=True)
        iterator = iter(strategy.experimental_distribute_dataset(data))
        inside = inspect.getclosurevars(model.train_function).nonlocals
        graph = inside["multi_step_on_iterator"].get_concrete_function(iterator)
        return {
            "batches": recorder.logs,
            "history": history.history,
            "evaluate": evaluated,
            "weights": model.get_weights(),
            "step": model.train_function(iterator),
            "collectives": [kind for kind, _ in collectives_of(graph)[0]],
        }


# What a step may log, from a replica's number: vectors of unequal lengths, too.
FORMS = {
    "scalar": lambda rank: 1.1 + rank,
    "vector": lambda rank: tf.sqrt(1.0 + tf.range(3.0 + rank)),
    "nothing on one": lambda rank: tf.sqrt(1.0 + tf.range(rank)),
    "half": lambda rank: tf.cast([0.1, 7.3 + 1000 * rank], tf.float16),
    "double": lambda rank: tf.cast(1 + rank, tf.float64) / 3,
    "integer": lambda rank: tf.cast(3 + 2 * rank, tf.int32),
    "integers": lambda rank: tf.range(tf.cast(4 + rank, tf.int64)),
    "greatest": lambda rank: tf.constant(2**31 - 1) - tf.cast(rank, tf.int32),
}


def forms(strategy):
    """By form, the means of `BatchLogs`, "eager" and in a "graph", and "one by one"."""

    def packed(outputs):
        logs = BatchLogs("global").reduced(strategy, strategy.run, None, outputs)
        assert all(isinstance(log, ReadyLog) for log in logs.values())
        return {form: log.mean for form, log in logs.items()}

    @tf.function(autograph=False)
    def step():
        context = tf.distribute.get_replica_context()
        rank = tf.cast(context.replica_id_in_sync_group, tf.float32)
        return {form: of(rank) for form, of in FORMS.items()}

    outputs = strategy.run(step)
    one_by_one = {
        form: strategy.reduce("MEAN", value, axis=0 if value.shape.rank else None)
        for form, value in outputs.items()
    }
    graph = tf.function(packed, autograph=False)
    return {
        "eager": packed(outputs),
        "graph": graph(outputs),
        "one by one": one_by_one,
    }


def refusal(strategy, mode):
    """What a wrapped optimizer says where this worker's logs are of a mode."""
    with logging(strategy, mode), strategy.scope():
        optimizer = tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(), tem_tf.TopK(k=1))
        try:
            optimizer.build([keras.Variable(tf.zeros([3]))])
        except ValueError as error:
            return str(error)
    return None
