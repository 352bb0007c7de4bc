"""What training is made of, part by part, as a checkpoint takes and gives it back.

A part's state is a list: arrays by name for each replica of this process, or for all of
them together where it is equal on all workers.
"""

from __future__ import annotations

import json
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tem_tf import _fit_internals, _internals
from tem_tf.aggregation import Aggregator
from tem_tf.checkpoint.array_files import Arrays
from tem_tf.checkpoint.redistribution import redistribute
from tem_tf.memory import Memory
from tem_tf.replica_state import ReplicaState, unique_names, values_here

_NAMES = "names"  # Of an aggregator's variables, in JSON.
_SHOWN = 3  # Variables that an error names.
_Each = list[np.ndarray]  # One for each replica.


class Part:
    """Something that a checkpoint holds.

    Attributes:
        is_shared: Whether it is equal on all workers, so that the chief's will do.
    """

    is_shared = True

    def read(self) -> list[Arrays]:
        """Copies of its values: for each replica here, or one if it is shared."""
        raise NotImplementedError

    def write(self, states: Sequence[Arrays]) -> None:
        """Sets them.

        Raises:
            ValueError: they are of something else.
        """
        raise NotImplementedError

    def equal_now(self) -> list[tuple[str, tuple[Any, ...]]]:
        """What must be equal on all replicas at this moment, as `_named` has it."""
        return []

    def redistribute(self, states: Sequence[Arrays], replicas: int) -> list[Arrays]:
        """States of so many replicas, from those of all that there were.

        Asked for where it is not shared.
        """
        del replicas
        return list(states)


class SharedVariables(Part):
    """Variables that training keeps equal on all replicas: weights, slots.

    Args:
        variables: Gives them, of Keras or TensorFlow, whenever it is called.
    """

    def __init__(self, variables: Callable[[], Sequence[Any]]):
        self._variables = variables

    def equal_now(self):
        return _named(self._variables())

    def read(self):
        return [{name: _copy(here[0]) for name, here in self.equal_now()}]

    def write(self, states):
        _assign(self._variables(), states, lambda replica: 0)


class ReplicaVariables(Part):
    """Variables of which each replica has a value: statistics, metrics, seeds.

    Args:
        variables: As of `SharedVariables`.
        join: What becomes of them under another number of replicas: "mean", of real
            numbers, the first replica's of integers; "sum", which the first replica
            has; "rows", one after another, shared out anew.
        are_equal: Says whether they must be equal at this moment.
    """

    is_shared = False

    def __init__(
        self,
        variables: Callable[[], Sequence[Any]],
        join: str = "mean",
        are_equal: Callable[[], bool] = lambda: False,
    ):
        self._variables, self._join = variables, JOINS[join]
        self._are_equal = are_equal

    def equal_now(self):
        return _named(self._variables()) if self._are_equal() else []

    def read(self):
        named = _named(self._variables())
        replicas = max((len(here) for _, here in named), default=1)
        # A variable that was made outside the strategy's scope is one for all.
        return [
            {name: _copy(here[min(i, len(here) - 1)]) for name, here in named}
            for i in range(replicas)
        ]

    def write(self, states):
        _assign(self._variables(), states, lambda replica: replica)

    def redistribute(self, states, replicas):
        return _joined(states, replicas, self._join)


class ReplicaStates(Part):
    """What is kept in a `ReplicaState`.

    Args:
        state: The state.
        join: As of `ReplicaVariables`.
    """

    is_shared = False

    def __init__(self, state: ReplicaState, join: str):
        self._state, self._join = state, JOINS[join]

    def read(self):
        return self._state.values()

    def write(self, states):
        self._state.restore(states)

    def redistribute(self, states, replicas):
        return _joined(states, replicas, self._join)


class Randoms(Part):
    """Python's, numpy's and Keras's generators of this process.

    Those of layers are variables of the model. TensorFlow's stateful operations keep
    theirs where nobody can read it.
    """

    is_shared = False

    def __init__(self, replicas: int):
        self._replicas = replicas  # Of this process.

    def read(self):
        version, words, gauss = random.getstate()
        _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
        state = {
            "python": np.array([version, *words], np.uint32),
            "python_gauss": np.array([] if gauss is None else [gauss]),
            "numpy": np.array([*keys, position, has_gauss], np.uint32),
            "numpy_gauss": np.array([cached]),
        }
        seed = _fit_internals.global_seed()
        if seed is not None:
            state["keras"] = _copy(values_here(seed)[0])
        return [state] * self._replicas

    def write(self, states):
        state = states[0]
        version, *words = state["python"].tolist()
        gauss = state["python_gauss"].tolist()
        random.setstate((version, tuple(words), gauss[0] if gauss else None))
        *keys, position, has_gauss = state["numpy"].tolist()
        cached = float(state["numpy_gauss"][0])
        numpy_state = ("MT19937", np.array(keys, np.uint32), position, has_gauss)
        np.random.set_state((*numpy_state, cached))  # noqa: NPY002
        if "keras" in state:
            seed = _fit_internals.global_seed(make=True)
            for variable in values_here(seed):
                variable.assign(state["keras"])

    def redistribute(self, states: Sequence[Arrays], replicas: int) -> list[Arrays]:
        """Those that there are go on; new ones begin as the first."""
        return [states[i] if i < len(states) else states[0] for i in range(replicas)]


class Json(Part):
    """JSON that is equal on all workers: a history, a position.

    Args:
        get: Returns it.
        put: Takes it back.
    """

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], None]):
        self._get, self._put = get, put

    def read(self):
        text = json.dumps(self._get()).encode()
        return [{"json": np.frombuffer(text, np.uint8)}]

    def write(self, states):
        self._put(json.loads(states[0]["json"].tobytes()))


class AggregatorState(Part):
    """What an aggregator keeps on each replica: residuals and all that goes with them.

    Args:
        aggregator: Of an optimizer.
        of_means: Whether the optimizer takes the mean of what it sums, as
            `LocalUpdates`: then the mean of what is held back stays, and not the sum.
    """

    is_shared = False

    def __init__(self, aggregator: Aggregator, of_means: bool = False):
        self._aggregator, self._of_means = aggregator, of_means

    def read(self):
        return self._aggregator.state.values()

    def write(self, states):
        self._aggregator.state.restore(states)

    def redistribute(self, states: Sequence[Arrays], replicas: int) -> list[Arrays]:
        """See `redistribution`; says what could not be carried."""
        memory = self._aggregator.options.kept or Memory()
        new, forgotten = redistribute(states, replicas, memory)
        if self._of_means:
            factor = np.float32(replicas / len(states))
            new = [_memory_times(factor, state) for state in new]
        if forgotten:
            warnings.warn(
                f"From {len(states)} to {replicas} replicas cannot be carried: "
                f"{'; '.join(forgotten)}.",
                stacklevel=2,
            )
        return new


class NamedArrays(Part):
    """State of one's own by name, of this process, as some steps' records.

    Args:
        get: Returns arrays by name, equal on all workers.
        put: Takes them back.
    """

    def __init__(self, get: Callable[[], Arrays], put: Callable[[Arrays], None]):
        self._get, self._put = get, put

    def read(self):
        return [self._get()]

    def write(self, states):
        self._put(dict(states[0]))


def parts_of(
    model: keras.Model | None, optimizer: Any, aggregator: Aggregator | None
) -> dict[str, Part]:
    """The parts of a model and its optimizer, those of a wrapper included.

    Without a model its weights are those that the optimizer was built with.
    """
    outer = getattr(optimizer, "outer_optimizer", None)  # Of `LocalUpdates`.
    parts: dict[str, Part] = {}
    if aggregator is not None:
        parts["remembered"] = AggregatorState(aggregator, outer is not None)
    weights = lambda: (  # noqa: E731
        _internals.trained_variables(optimizer)
        if model is None
        else model.trainable_variables
    )
    if outer is None:
        parts["optimizer"] = SharedVariables(lambda: optimizer.variables)
        parts["weights"] = SharedVariables(weights)
    else:  # Each replica has its own between two exchanges, and slots for good.
        parts["optimizer"] = ReplicaVariables(lambda: optimizer.variables)
        parts["outer_optimizer"] = SharedVariables(lambda: outer.variables)
        parts["weights"] = ReplicaVariables(
            weights, are_equal=lambda: not optimizer.pending
        )
    if model is not None:
        parts["statistics"] = ReplicaVariables(lambda: model.non_trainable_variables)
        parts["metrics"] = ReplicaVariables(lambda: model.metrics_variables, "sum")
    return parts


def _memory_times(factor: np.float32, state: Arrays) -> Arrays:
    """A replica's state with its memory's vectors times a factor."""
    return {
        name: value * factor if name.startswith("memory/") and value.ndim else value
        for name, value in state.items()
    }


def _named(variables: Sequence[Any]) -> list[tuple[str, tuple[Any, ...]]]:
    """Variables of this process by name: several metrics may have one."""
    each_here = map(values_here, variables)
    return list(zip(unique_names(variables), each_here, strict=True))


def _assign(
    variables: Sequence[Any],
    states: Sequence[Arrays],
    state_of: Callable[[int], int],
) -> None:
    named = _named(variables)
    renamed(list(states[0]), [name for name, _ in named])  # Are they the same?
    for i, (name, here) in enumerate(named):
        for replica, variable in enumerate(here):
            value = list(states[state_of(replica)].values())[i]
            needed = tuple(variable.shape), tf.as_dtype(variable.dtype).name
            found = value.shape, tf.as_dtype(value.dtype).name
            if found != needed:
                raise ValueError(
                    f"What was saved as {name!r} must have the shape {needed[0]} and "
                    f"the dtype {needed[1]}. Received: {found[0]}, {found[1]}"
                )
            variable.assign(value)


def renamed(saved: Sequence[str], here: Sequence[str]) -> dict[str, str]:
    """Names of variables here, by those under which they were saved.

    Keras numbers the names of what a process makes, so that numbers may differ.

    Raises:
        ValueError: they are other variables.
    """
    there_names, here_names = ([_without_numbers(n) for n in x] for x in (saved, here))
    if there_names != here_names:
        there, ours = Counter(there_names), Counter(here_names)
        only_saved = sorted((there - ours).elements())[:_SHOWN]
        only_here = sorted((ours - there).elements())[:_SHOWN]
        raise ValueError(
            "A checkpoint must be of the same variables, in the same order. Only "
            f"saved: {only_saved}; only here: {only_here}"
        )
    return dict(zip(saved, here, strict=True))


def _renamed_key(key: str, names: dict[str, str]) -> str:
    """A key of an aggregator's state that ends with names of variables."""
    for i, letter in enumerate(key):
        if letter == "/" and all(name in names for name in key[i + 1 :].split("+")):
            return key[: i + 1] + "+".join(names[n] for n in key[i + 1 :].split("+"))
    return key


def _without_numbers(path: str) -> str:
    return re.sub(r"_\d+(?=/|$)", "", path)


def _copy(variable: Any) -> np.ndarray:
    return np.array(variable.numpy())


def _joined(
    states: Sequence[Arrays], replicas: int, join: Callable[[_Each, int], _Each]
) -> list[Arrays]:
    """States of so many replicas, array by array."""
    new: list[Arrays] = [{} for _ in range(replicas)]
    for name in states[0]:
        values = join([state[name] for state in states], replicas)
        for mine, value in zip(new, values, strict=True):
            mine[name] = value
    return new


def _sums(arrays: _Each, replicas: int) -> _Each:
    total = np.sum(np.stack(arrays), axis=0, dtype=arrays[0].dtype)
    return [total, *[np.zeros_like(total)] * (replicas - 1)]


def _means(arrays: _Each, replicas: int) -> _Each:
    if arrays[0].dtype.kind in "biu":
        return [arrays[0]] * replicas
    mean = np.mean(np.stack(arrays), axis=0, dtype=np.float64)
    return [mean.astype(arrays[0].dtype)] * replicas


def _rows(arrays: _Each, replicas: int) -> _Each:
    return np.split(np.concatenate(arrays), replicas)


JOINS = {"mean": _means, "sum": _sums, "rows": _rows}
