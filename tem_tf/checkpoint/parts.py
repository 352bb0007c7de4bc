"""What training is made of, part by part, as a checkpoint takes and gives it back.

A part's state is a list: arrays by name for each replica of this process, or for all of
them together where it is equal on all workers.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tem_tf import _fit_internals
from tem_tf.aggregation import Aggregator
from tem_tf.checkpoint.array_files import Arrays
from tem_tf.checkpoint.redistribution import redistribute
from tem_tf.memory import Memory
from tem_tf.replica_state import unique_names, values_here


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

    def redistribute(self, states: Sequence[Arrays], replicas: int) -> list[Arrays]:
        """States of so many replicas, from those of all that there were.

        Asked for where it is not shared.
        """
        del replicas
        return list(states)


class Shared(Part):
    """Variables that training keeps equal on all replicas: weights, slots.

    Args:
        variables: Gives them, of Keras or TensorFlow, whenever it is called.
    """

    def __init__(self, variables: Callable[[], Sequence[Any]]):
        self._variables = variables

    def read(self):
        return [{name: _copy(here[0]) for name, here in _named(self._variables())}]

    def write(self, states):
        _assign(self._variables(), states, lambda replica: 0)


class Own(Part):
    """Variables of which each replica has a value: statistics, metrics, seeds.

    Args:
        variables: As of `Shared`.
        added_up: Whether it is their sum over replicas that counts, as with metrics,
            and not their mean.
    """

    is_shared = False

    def __init__(self, variables: Callable[[], Sequence[Any]], added_up: bool = False):
        self._variables, self._added_up = variables, added_up

    def read(self):
        named = list(_named(self._variables()))
        replicas = max((len(here) for _, here in named), default=1)
        # A variable that was made outside the strategy's scope is one for all.
        return [
            {name: _copy(here[min(i, len(here) - 1)]) for name, here in named}
            for i in range(replicas)
        ]

    def write(self, states):
        _assign(self._variables(), states, lambda replica: replica)

    def redistribute(self, states: Sequence[Arrays], replicas: int) -> list[Arrays]:
        """Sums go to the first replica; of the rest all get the mean or the first's."""
        join = _sum if self._added_up else _mean_or_first
        joined = {name: join([state[name] for state in states]) for name in states[0]}
        if not self._added_up:
            return [joined] * replicas
        zeros = {name: np.zeros_like(array) for name, array in joined.items()}
        return [joined] + [zeros] * (replicas - 1)


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


class Words(Part):
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


class Remembered(Part):
    """What an aggregator keeps on each replica: residuals and all that goes with them.

    Args:
        aggregator: Of a `SparsifiedOptimizer`.
    """

    is_shared = False

    def __init__(self, aggregator: Aggregator):
        self._aggregator = aggregator

    def read(self):
        return self._aggregator.state.values()

    def write(self, states):
        self._aggregator.state.restore(states)

    def redistribute(self, states: Sequence[Arrays], replicas: int) -> list[Arrays]:
        """See `redistribution`; says what could not be carried."""
        memory = self._aggregator.options.kept or Memory()
        new, forgotten = redistribute(states, replicas, memory)
        if forgotten:
            warnings.warn(
                f"From {len(states)} to {replicas} replicas cannot be carried: "
                f"{'; '.join(forgotten)}.",
                stacklevel=2,
            )
        return new


class Plain(Part):
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
    """The parts of a model and its optimizer, those of a wrapper included."""
    parts: dict[str, Part] = {"optimizer": Shared(lambda: optimizer.variables)}
    if aggregator is not None:
        parts["remembered"] = Remembered(aggregator)
    if model is not None:
        parts["weights"] = Shared(lambda: model.trainable_variables)
        parts["statistics"] = Own(lambda: model.non_trainable_variables)
        parts["metrics"] = Own(lambda: model.metrics_variables, added_up=True)
    return parts


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
    names, saved = [name for name, _ in named], list(states[0])
    if sorted(names) != sorted(saved):
        raise ValueError(
            "A checkpoint must be of the same variables. "
            f"Only saved: {sorted(set(saved) - set(names))[:3]}; only here: "
            f"{sorted(set(names) - set(saved))[:3]}"
        )
    for name, here in named:
        for replica, variable in enumerate(here):
            value = states[state_of(replica)][name]
            if tuple(variable.shape) != value.shape:
                raise ValueError(
                    f"What was saved as {name!r} must have the shape "
                    f"{tuple(variable.shape)}. Received: {value.shape}"
                )
            variable.assign(value)


def _copy(variable: Any) -> np.ndarray:
    return np.array(variable.numpy())


def _sum(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.sum(np.stack(arrays), axis=0, dtype=arrays[0].dtype)


def _mean_or_first(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of real numbers; of integers, as seeds are, the first."""
    if arrays[0].dtype.kind in "biu":
        return arrays[0]
    mean = np.mean(np.stack(arrays), axis=0, dtype=np.float64)
    return mean.astype(arrays[0].dtype)
