"""Laws of compressors and memories as objects: they can be saved and compared."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tem_tf.layout import make_segments
from tem_tf.testing.verdict import Place, require, runs

# Rows and columns enough for a low rank, nothing, a scalar, more than a chunk of 64.
VARIED = make_segments(
    ["kernel", "empty", "scalar", "long"], [(8, 6), (0, 4), (), (70,)]
)
SMALL = {
    "one entry": make_segments(["one"], [(1,)]),
    "nothing": make_segments(["empty"], [(0, 4)]),
    "no variables": (),
}
LAWS = {
    "value": "it must be a frozen dataclass whose fields are all that it holds",
    "config": "`from_config(get_config())` must be equal to it",
    "registered": "its class must be registered with "
    "keras.saving.register_keras_serializable, for models to be loaded",
    "repr": "`repr` must tell it alone, without an address: workers compare it",
}


def copy_of(subject: Any, registered: bool) -> Any:
    """Checks the laws of this file and returns an equal object, made from the config.

    Args:
        subject: The compressor or memory.
        registered: Whether models that use it are to be loaded.
    """
    kind, place = type(subject), Place(subject)
    parameters = getattr(kind, "__dataclass_params__", None)
    frozen = parameters is not None and parameters.frozen and parameters.eq
    require("value", LAWS["value"], frozen, place, f"class {kind.__name__}")
    fields = {field.name for field in dataclasses.fields(subject)}
    # Values that a property keeps have a name in the class.
    others = [n for n in vars(subject) if n not in fields and not hasattr(kind, n)]
    require("value", LAWS["value"], not others, place, f"also {', '.join(others)}")
    with runs("value", LAWS["value"], place):
        hash(subject)
    with runs("config", LAWS["config"], place):
        copy = kind.from_config(subject.get_config())
    same = type(copy) is kind and copy == subject
    require("config", LAWS["config"], same, place, repr(copy))
    if registered:
        with runs("registered", LAWS["registered"], place):
            name = keras.saving.get_registered_name(kind)
            found = keras.saving.get_registered_object(name)
            require(
                *("registered", LAWS["registered"], found is kind, place),
                f"{name!r}, which is {found!r}",
            )
            saved = json.loads(json.dumps(keras.saving.serialize_keras_object(subject)))
            loaded = keras.saving.deserialize_keras_object(saved)
        same = type(loaded) is kind and loaded == subject
        require("registered", LAWS["registered"], same, place, repr(loaded))
    addresses = re.findall(r" at 0x\w+", repr(subject))
    alike = not addresses and repr(copy) == repr(subject)
    require("repr", LAWS["repr"], alike, place, repr(subject))
    return copy


def dyadic(workers: int, size: int, seed: int, largest: int = 16) -> list[tf.Tensor]:
    """float32 (size,) for each worker, multiples of 1/8: their sums are exact.

    Args:
        workers: How many.
        size: Int >= 0.
        seed: Int.
        largest: Greatest multiple.
    """
    draw = np.random.default_rng(seed).integers(
        -largest, largest + 1, size=(workers, size)
    )
    return [tf.constant(row / 8, tf.float32) for row in draw]
