"""Settings as texts that are equal on all workers if, and only if, the settings are.

What is one program's own has no place in them: addresses, paths of source files, the
bytes of a lambda, and names that Keras numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

_KERAS_OBJECT = {"class_name", "config"}  # Keys of what Keras serialises.


def settings_of(
    optimizer: keras.optimizers.Optimizer, role: str = "inner_optimizer"
) -> dict[str, str]:
    """The class of a Keras optimizer and its configuration, by name, but its own name.

    One that cannot be saved is known by its class alone.
    """
    config = {**_config_of(optimizer)}
    config.pop("name", None)  # "SGD_1" where another was made before.
    return {role: type(optimizer).__name__} | {
        f"{role}.{name}": text_of(value) for name, value in config.items()
    }


def text_of(value: Any) -> str:
    """A value as one would write it.

    Objects are told by their class and what `get_config` says, functions by their name;
    what has neither by its class alone.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, Mapping):
        if set(value) >= _KERAS_OBJECT:
            return _text_of_serialised(value)
        items = (f"{text_of(k)}: {text_of(v)}" for k, v in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, (list, tuple)):  # Saving makes lists of tuples.
        return f"[{', '.join(map(text_of, value))}]"
    if isinstance(value, np.ndarray):
        return text_of(value.tolist())
    if isinstance(value, type) or not hasattr(value, "get_config"):
        named = getattr(value, "__qualname__", None)
        return named if isinstance(named, str) else type(value).__name__
    return _call(type(value).__name__, _config_of(value))


def _config_of(thing: Any) -> Mapping[str, Any]:
    """What `get_config` says; nothing if it cannot say it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # That a lambda is not safely loaded.
            return thing.get_config()
    except Exception:  # A user's own, such as a schedule that is never saved.
        return {}


def _text_of_serialised(value: Mapping[str, Any]) -> str:
    name, config = value["class_name"], value["config"]
    if isinstance(config, str):  # A function's name.
        return config
    if name == "__lambda__":
        return "<lambda>"
    return _call(name, config) if isinstance(config, Mapping) else str(name)


def _call(name: str, config: Mapping[str, Any]) -> str:
    arguments = (f"{key}={text_of(value)}" for key, value in config.items())
    return f"{name}({', '.join(arguments)})"
