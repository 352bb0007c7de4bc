"""Workers that differ in one thing, and what they are told before the first step."""

import contextlib
import dataclasses
import pathlib
import tempfile
from typing import ClassVar
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf import meeting
from tests.multi_worker.laws import collectives_of


class Plain(tem_tf.Memory):
    """A user's memory that is no dataclass and has an argument of its own."""

    def __init__(self, unseen=object):
        object.__setattr__(self, "unseen", unseen())


@dataclasses.dataclass(frozen=True)
class Own(tem_tf.Sparsifier):
    """A user's compressor: with a function and an object that has no text."""

    count: int = 1
    function: object = np.abs
    thing: object = dataclasses.field(default_factory=object)
    made: ClassVar[list] = []

    def rule(self, state, corrected, step, segments):
        return tem_tf.At(tf.range(self.count))


class AsksOften(tem_tf.Compressor):
    """Asks as often as something says that is no argument, nor in its text."""

    def __init__(self, times):
        object.__setattr__(self, "times", times)

    def compress(self, state, corrected, step, segments, heard=()):
        if len(heard) < self.times:
            return tem_tf.Sum(corrected)
        return tem_tf.Done(heard[0].total, state, own=corrected)


class NeverSaved(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule without `get_config`."""

    def __call__(self, step):
        return 0.1


def rate():
    return 0.1


def rates_by_a_function():
    return keras.optimizers.SGD(rate)


def rates_by_a_lambda():
    return keras.optimizers.SGD(lambda: 0.1)


def rates_never_saved():
    return keras.optimizers.SGD(NeverSaved())


@dataclasses.dataclass(frozen=True)
class Worker:
    """How a worker trains; what a row of the table gives to one of them differs.

    Attributes:
        inner: A Keras optimizer's class or configuration, or a function that makes one.
        compressor: `tem_tf.Compressor`.
        options: More arguments of SparsifiedOptimizer.
        names: Names of the variables that all workers make, in this order; "c" is
            double precision, "d" of another shape.
        trained: Places of those that are trained.
        weights: What is assigned to each variable, or None.
        iterations: Of the optimizer.
        version: What tem_tf's version is taken for.
        wrapped: Whether there is a SparsifiedOptimizer.
    """

    inner: object = "SGD"
    compressor: object = tem_tf.TopK(k=1)
    options: dict = dataclasses.field(default_factory=dict)
    names: tuple = ("a", "b", "c", "d")
    trained: tuple = (0, 1)
    weights: float | None = None
    iterations: int = 0
    version: str | None = None
    wrapped: bool = True

    def make(self):
        """The optimizer, and the trained variables."""
        variables = [
            keras.Variable(np.ones(shape, dtype), name=name, dtype=dtype)
            for name, (shape, dtype) in zip(
                self.names,
                [([3], "float32")] * 2 + [([3], "float64"), ([2], "float32")],
                strict=True,
            )
        ]
        if self.weights is not None:
            for variable in variables:
                variable.assign(np.full(variable.shape, self.weights))
        inner = self.inner() if callable(self.inner) else self.inner
        optimizer = keras.optimizers.get(inner)
        if self.wrapped:
            optimizer = tem_tf.SparsifiedOptimizer(
                optimizer, self.compressor, **self.options
            )
        return optimizer, [variables[place] for place in self.trained]

    def seen(self):
        """A context in which the version is this worker's."""
        if self.version is None:
            return contextlib.nullcontext()
        return mock.patch.object(meeting, "VERSION", self.version)


def at_build(strategy, workers):
    """What each of several trainings says when its optimizer is built; "" if nothing.

    Args:
        strategy: This worker's.
        workers: A list of `Worker` for each training, of which this one takes its own.

    Returns:
        For each training the error's text and whether weights moved.
    """
    results = []
    for row in workers:
        own = row[strategy.cluster_resolver.task_id]
        with strategy.scope(), own.seen():
            optimizer, variables = own.make()
            before = [np.array(v) for v in variables]
            said = ""
            try:
                optimizer.build(variables)
                optimizer.iterations.assign(own.iterations)
                if not own.iterations:
                    _step(strategy, optimizer, variables)
            except ValueError as error:
                said = str(error)
        moved = [
            not np.array_equal(v, b, equal_nan=True)
            for v, b in zip(variables, before, strict=True)
        ]
        results.append((said, any(moved)))
    return results


def in_a_step(strategy, row, late=None):
    """As `at_build` of one training, whose optimizer is built within the first step.

    Args:
        strategy: This worker's.
        row: A `Worker` for each worker.
        late: None, or "iterations" or "weights": the optimizer is built before, and the
            last worker then changes that.

    Returns:
        As `at_build`, of a row.
    """
    rank = strategy.cluster_resolver.task_id
    own = row[rank]
    with strategy.scope(), own.seen():
        optimizer, variables = own.make()
        if late is not None:
            optimizer.build(variables)
            changed = {"iterations": optimizer.iterations, "weights": variables[0]}
            if rank == len(row) - 1:
                changed[late].assign(changed[late] * 0 + 7)
        before = [np.array(v) for v in variables]
        said = ""
        try:
            _step(strategy, optimizer, variables)
        except (ValueError, tf.errors.OpError) as error:
            said = f"{type(error).__name__}: {error}"
    moved = [not np.array_equal(v, b) for v, b in zip(variables, before, strict=True)]
    return said, any(moved)


def _step(strategy, optimizer, variables):
    @tf.function
    def step():
        strategy.run(
            lambda: optimizer.apply([tf.ones_like(v) for v in variables], variables)
        )

    step()
    return step


def in_fit(strategy, row):
    """What `fit` says to this worker, and whether weights moved."""
    own = row[strategy.cluster_resolver.task_id]
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.get(own.inner)
        if own.wrapped:
            optimizer = tem_tf.SparsifiedOptimizer(
                optimizer, own.compressor, **own.options
            )
        model.compile(optimizer, "mse")
    before = model.get_weights()
    data = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.ones((8, 1))))
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    said = ""
    try:
        model.fit(data.batch(4).with_options(options), verbose=0)
    except (ValueError, tf.errors.OpError) as error:
        said = f"{type(error).__name__}: {error}"
    moved = [
        not np.array_equal(v, b)
        for v, b in zip(model.get_weights(), before, strict=True)
    ]
    return said, any(moved)


def again_with_other_variables(strategy):
    """One optimizer trains `a`, then another one `b`; then a model of a file."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        kernel, bias = model.trainable_variables
        for trained in ([kernel, bias], [bias]):
            optimizer = tem_tf.SparsifiedOptimizer("sgd", tem_tf.TopK(k=1))
            optimizer.build(trained)
            _step(strategy, optimizer, trained)
        model.compile(tem_tf.SparsifiedOptimizer("adam", tem_tf.TopK(k=1)), "mse")
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "model.keras"
        model.save(path)
        with strategy.scope():
            loaded = keras.saving.load_model(path)
    _step(strategy, loaded.optimizer, loaded.trainable_variables)
    return [np.array(v) for v in loaded.trainable_variables]


def differing_later(strategy):
    """Weights of this worker after two steps, between which it moves them for itself.

    Returns:
        The weights, and the collectives of a step: always, and in branches of it.
    """
    with strategy.scope():
        optimizer, variables = Worker(compressor=tem_tf.HardThreshold(0.1)).make()
        optimizer.build(variables)
    step = _step(strategy, optimizer, variables)
    variables[0].assign(variables[0] + strategy.cluster_resolver.task_id)
    optimizer.iterations.assign(10 + strategy.cluster_resolver.task_id)
    step()
    return np.array(variables[0]), collectives_of(step.get_concrete_function())
