"""A module and data of a user's own, for tests of what is brought by name."""

import importlib
import pathlib
import sys

import numpy as np
import pytest

MINE = """
import dataclasses

import keras
import tensorflow as tf

import tem_tf
from tem_tf.layout import pack


@dataclasses.dataclass(frozen=True)
class AboveTheMean(tem_tf.Sparsifier):
    factor: float = 3.0

    def rule(self, state, corrected, step, segments):
        return tem_tf.AtLeast(self.factor * tf.reduce_mean(tf.abs(pack(corrected))))


@dataclasses.dataclass(frozen=True)
class Strict(tem_tf.Compressor):
    sizes: tuple = ()

    def __post_init__(self):
        if not self.sizes:
            raise ValueError("`sizes` must not be empty.")


def network(input_shape, classes, seed):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(classes),
        ]
    )


def normalised(input_shape, classes, seed):
    model = network(input_shape, classes, seed)
    return keras.Sequential([model, keras.layers.BatchNormalization()])


def unbuilt(input_shape, classes, seed):
    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(classes)])


def softmax(input_shape, classes, seed):
    dense = keras.layers.Dense(classes, "softmax")
    return keras.Sequential([keras.layers.Flatten(), dense])


def one_too_many(input_shape, classes, seed):
    return unbuilt(input_shape, classes + 1, seed)


def weightless(input_shape, classes, seed):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten()])


def no_network(input_shape, classes, seed):
    return input_shape


def two_arguments(input_shape, classes):
    return unbuilt(input_shape, classes, 0)


number = 3
"""


def write_module(place: pathlib.Path, name: str = "mine", text: str = MINE) -> None:
    """Writes a module into a directory."""
    (place / f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def write_npz(path: pathlib.Path, **changes) -> dict:
    """Writes 60 and 20 examples of 6 numbers in 3 classes; returns the arrays.

    Args:
        path: The file.
        **changes: Arrays in the place of those, or beside them; None: left out.
    """
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60), ("test", 20)):
        labels = np.arange(count) % 3
        noise = generator.normal(size=(count, 6))
        arrays[f"x_{split}"] = (np.eye(6)[labels] * 4 + noise).astype(np.float32)
        arrays[f"y_{split}"] = labels
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    np.savez(path, **arrays)
    return arrays


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The working directory, with the module `mine` in it; forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    write_module(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("mine")]:
        del sys.modules[name]
