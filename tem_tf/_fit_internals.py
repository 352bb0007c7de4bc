"""Private parts of Keras's `fit` and of tf.data, as far as `fit`'s start needs them.

As in _internals.py, each function checks that the part is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random import seed_generator
from tensorflow.python.eager import context

from tem_tf._internals import part


def build_for_fit(model: keras.Model, batch: Any) -> None:
    """Makes the variables that the first step would make: metrics', slots."""
    with model.distribute_strategy.scope():
        part(model, "_symbolic_build")(data_batch=batch)


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Sets where `fit` begins, from a callback's `on_train_begin`.

    Args:
        model: The model.
        epoch: The epoch; None: as `fit` is told. Keras leaves what is set for the next
            `fit`, too.
    """
    part(model, "_initial_epoch")
    model._initial_epoch = epoch


def surround(
    first: keras.callbacks.Callback, last: keras.callbacks.Callback
) -> list[keras.callbacks.Callback] | None:
    """Has one callback called before all others and one after them.

    Args:
        first: One of `fit`'s callbacks, from whose `on_train_begin` this is called.
        last: Another one, new to `fit`; its `on_train_begin` is called.

    Returns:
        All of `fit`'s callbacks; None where no list of Keras's has called.
    """
    callbacks = getattr(sys._getframe(2).f_locals.get("self"), "callbacks", None)
    if not isinstance(callbacks, list) or first not in callbacks:
        return None
    # While Keras goes through the list, which leaves out none: those up to this one
    # have been called.
    callbacks.remove(first)
    callbacks.insert(0, first)
    if last not in callbacks:
        callbacks.append(last)
    return callbacks


def global_seed(make: bool = False) -> Any:
    """The variable of Keras's generator for calls without a seed.

    Args:
        make: Whether to make it, where there is none; else that is None.
    """
    if make:
        return part(seed_generator, "global_seed_generator")().state
    generator = global_state.get_global_attribute("global_seed_generator")
    return None if generator is None else generator.state


_TRAINER = "keras.src.backend.tensorflow.trainer"
# The functions of the trainer's file in which it asks its strategy for something before
# the callbacks hear of a call, with the variable that holds the call's data there.
_ASKING = {"__init__": "self", "_maybe_symbolic_build": "iterator"}
_CALLS = ("fit", "evaluate", "predict")


class Call(NamedTuple):
    """A call of a model's `fit`, `evaluate` or `predict` that begins.

    Attributes:
        function: Its name.
        model: Whose method it is.
        data: Keras's `TFEpochIterator`; one for training, one more for validation.
        callbacks: As the user gave them; Keras's `CallbackList` once they are begun.
        epochs: How many epochs `fit` has; 1 for the others.
        is_validation: Whether the data is that of `fit`'s validation.
    """

    function: str
    model: keras.Model
    data: Any
    callbacks: Any
    epochs: int
    is_validation: bool


def call_that_begins() -> Call | None:
    """The call for which Keras's trainer makes its data ready, if it is the caller.

    Call it in what the strategy's method calls: Keras asks the strategy to distribute
    the data, and for the shapes of a batch. Both come before it makes its callbacks.
    """
    asking = sys._getframe(3)
    calling = asking.f_back
    name, variables = asking.f_code.co_name, asking.f_locals
    if name not in _ASKING or calling is None:
        return None
    if any(f.f_globals.get("__name__") != _TRAINER for f in (asking, calling)):
        return None
    function, given = calling.f_code.co_name, calling.f_locals
    data = variables.get(_ASKING[name])
    if function not in _CALLS or data is None:
        return None
    training = given.get("epoch_iterator")
    return Call(
        function,
        given["self"],
        data,
        given.get("callbacks"),
        given.get("epochs", 1),
        is_validation=training is not None and training is not data,
    )


def steps_and_batches(data: Any) -> tuple[int | None, int | None]:
    """`steps_per_epoch` as Keras has it, and the number of batches where it is known.

    Args:
        data: Of a `Call`.
    """
    return part(data, "steps_per_epoch"), part(data, "_num_batches")


def has_end(data: Any, dataset: Any) -> bool:
    """Whether TensorFlow looks for an end of the data, at each step.

    Args:
        data: Of a `Call`.
        dataset: What is distributed. None: it has been so before.
    """
    if dataset is None:
        dataset = part(data, "_distributed_dataset")
    count: Any = dataset.cardinality  # A number, if it is distributed.
    if isinstance(dataset, tf.data.Dataset):
        count = dataset.cardinality()
    return int(count) != tf.data.INFINITE_CARDINALITY


def hooks_of(callback: keras.callbacks.Callback) -> Iterator[tuple[str, Callable]]:
    """The methods, by name, by which Keras tells a callback something.

    Not those that do nothing: Keras spares itself threads where it finds them so.
    """
    for name in dir(keras.callbacks.Callback):
        if name.startswith("on_") or name == "set_model":
            method = getattr(callback, name)
            if not does_nothing(method):
                yield name, method


def does_nothing(method: Callable) -> bool:
    """Whether a callback's method is Keras's own, which does nothing."""
    return getattr(method, "_is_default", False)


def array_shuffle_seeds(data: Any) -> list[tuple[int, int]]:
    """The seeds by which Keras shuffles arrays that `fit` was given; none if not.

    Args:
        data: Of a `Call`.
    """
    adapter = part(data, "data_adapter")
    if type(adapter).__name__ != "ArrayDataAdapter" or not part(adapter, "_shuffle"):
        return []
    return [(context.global_seed() or 0, 0)]


def dataset_shuffle_seeds(dataset: tf.data.Dataset) -> list[tuple[int, int]]:
    """The two seeds of each shuffle that a strategy's own sharding comes after.

    Empty where the user shards, and where files are shared out, each of which one
    worker alone reads.
    """
    policies = tf.data.experimental.AutoShardPolicy
    policy = dataset.options().experimental_distribute.auto_shard_policy
    nodes = list(_nodes(dataset))
    kinds = {type(node).__name__ for node in nodes}
    if "_ShardDataset" in kinds or policy not in (policies.DATA, policies.AUTO):
        return []
    # Files may hide in any source or function but these; then AUTO shares them out.
    sources = {type(node).__name__ for node in nodes if not part(node, "_inputs")()}
    in_memory = {"_TensorSliceDataset", "_TensorDataset", "_RangeDataset"}
    opening = any("FlatMap" in kind or "Interleave" in kind for kind in kinds)
    if policy == policies.AUTO and (opening or not sources <= in_memory):
        return []
    shuffles = [node for node in nodes if type(node).__name__ == "_ShuffleDataset"]
    return [(int(part(node, "_seed")), int(part(node, "_seed2"))) for node in shuffles]


def _nodes(dataset: tf.data.Dataset) -> Iterator[tf.data.Dataset]:
    """A dataset and all that it is made of."""
    yield dataset
    for source in part(dataset, "_inputs")():
        yield from _nodes(source)
