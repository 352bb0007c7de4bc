"""What replicas remember, made that of another number of replicas.

Gradients are those that Keras hands over, divided by N where it divides the loss, so
what is pending in the model is the *sum* of residuals. With each new replica an equal
share it stays what it is: in units of a worker's own gradient, the mean of residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tem_tf.checkpoint.array_files import Arrays
from tem_tf.memory import Memory

_MEMORY, _COMPRESSOR, _SUMS = "memory/", "compressor/", "accumulated/"
_STEPS = "accumulated/steps"  # Equal on all, as what is not named here.
_METRICS = "metrics/"


def redistribute(
    states: Sequence[Arrays], replicas: int, memory: Memory
) -> tuple[list[Arrays], list[str]]:
    """Gives so many replicas what others remembered.

    Args:
        states: Values of a `ReplicaState` by name, of all replicas that there were.
        replicas: How many there are to be.
        memory: Whose state is among them.

    Returns:
        Their states, and what could not be carried, in words.
    """
    new: list[Arrays] = [{} for _ in range(replicas)]
    forgotten: list[str] = []
    shared_keys = {
        key for key, value in memory.init(()).items() if not _is_vectors(value)
    }
    memories = [_memory_of(state, shared_keys) for state in states]
    if memories[0]:
        for mine, given in zip(
            new, memory.redistribute(memories, replicas), strict=True
        ):
            mine.update(_flat(given, memories[0], states[0], shared_keys))
    for name, first in states[0].items():
        if name.startswith(_MEMORY):
            continue
        values = [state[name] for state in states]
        if name.startswith(_METRICS):
            forgotten.append("communication metrics, which start at 0")
        elif name.startswith(_SUMS) and name != _STEPS:
            share = (np.sum(np.stack(values), axis=0) / replicas).astype(first.dtype)
            for mine in new:
                mine[name] = share
        elif all(np.array_equal(value, first) for value in values):
            for mine in new:
                mine[name] = first
        else:
            kind = "the compressor's state" if name.startswith(_COMPRESSOR) else name
            forgotten.append(f"{kind}, which differs between workers")
    return new, sorted(set(forgotten))


def _is_vectors(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _memory_of(state: Arrays, shared_keys: set[str]) -> dict[str, Any]:
    """The memory's state as its methods have it: scalars, and lists of vectors."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        if name.startswith(_MEMORY):
            key = name.removeprefix(_MEMORY).partition("/")[0]
            if key in shared_keys:
                found[key] = value
            else:
                found.setdefault(key, []).append(value)
    return found


def _flat(
    given: dict[str, Any], like: dict[str, Any], names: Arrays, shared_keys: set[str]
) -> Arrays:
    """A memory's state by the names under which it is kept."""
    flat: Arrays = {}
    for key in like:
        prefix = f"{_MEMORY}{key}"
        if key in shared_keys:
            flat[prefix] = np.asarray(given[key])
            continue
        kept = [name for name in names if name.startswith(f"{prefix}/")]
        for name, vector in zip(kept, given[key], strict=True):
            flat[name] = np.asarray(vector)
    return flat
