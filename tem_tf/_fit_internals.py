"""Private parts of Keras's `fit`, as far as it must begin where it was left.

As in _internals.py, each function checks that the part is there.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.random import seed_generator

from tem_tf._internals import part


def build_for_fit(model: keras.Model, batch: Any) -> None:
    """Makes the variables that the first step would make: metrics', slots."""
    with model.distribute_strategy.scope():
        part(model, "_symbolic_build")(data_batch=batch)


def set_initial_epoch(model: keras.Model, epoch: int) -> None:
    """Sets where `fit` begins, from a callback's `on_train_begin`."""
    part(model, "_initial_epoch")
    model._initial_epoch = epoch


def global_seed(make: bool = False) -> Any:
    """The variable of Keras's generator for calls without a seed.

    Args:
        make: Whether to make it, where there is none; else that is None.
    """
    if make:
        return part(seed_generator, "global_seed_generator")().state
    name = part(seed_generator, "GLOBAL_SEED_GENERATOR")
    generator = global_state.get_global_attribute(name)
    return None if generator is None else generator.state
