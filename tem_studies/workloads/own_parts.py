"""Users' own compressors and networks, by name: `module:Class`, `module:function`.

Their modules are imported here, after TensorFlow has started, and tried before any
work: what a user can get wrong is a refusal, with the line of the module that fails.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

import tem_tf
from tem_studies.refusal import Refusal
from tem_studies.workloads import own_names
from tem_studies.workloads.configuration import Configuration
from tem_tf.layout import make_segments

_TRIED_SHAPE = (3,)  # Of the one variable that a compressor is tried with.
_LONGEST = 300  # Characters of an error, our choice.
# In the names of files of which a user need not hear: ours, libraries', Python's own.
_NOT_THE_USERS = (
    *(os.path.dirname(path) + os.sep for path in (__file__, tem_tf.__file__)),
    *("site-packages", "<frozen "),
)


def check(*configurations: Configuration) -> None:
    """Imports and tries what runs ask for by name. Runs nothing of TensorFlow.

    Raises:
        Refusal: a module, a class or a function is not there or cannot be used.
    """
    for configuration in configurations:
        if own_names.is_own(configuration.compressor):
            make_compressor(
                configuration.compressor, configuration.compressor_arguments or {}
            )
        if own_names.is_own(configuration.arch):
            find_network(configuration.arch)


def make_compressor(name: str, arguments: Mapping[str, Any]) -> tem_tf.Compressor:
    """Makes a user's own compressor.

    Args:
        name: `module:Class`.
        arguments: Of the class, by name.

    Raises:
        Refusal: it is none, or its arguments are not these.
    """
    kind = _find("compressor", name)
    if not isinstance(kind, type) or not issubclass(kind, tem_tf.Compressor):
        raise Refusal(
            "`compressor` must be a class derived from tem_tf.Compressor or "
            f"tem_tf.Sparsifier. Received: compressor={name!r}, which is {kind!r}."
        )
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    try:
        compressor = kind(**arguments)
        segments = make_segments(["weights"], [_TRIED_SHAPE])
        # In a graph of its own, so that devices can still be set up afterwards.
        with tf.Graph().as_default():
            vector, step = tf.zeros(_TRIED_SHAPE), tf.zeros([], tf.int64)
            compressor.compress(compressor.init(segments), [vector], step, segments)
    except Exception as error:  # Whatever a user's own code raises.
        raise Refusal(
            f"`compressor` {name} cannot be used with `compressor_arguments` "
            f"{shown or 'none'}: {_told(error)}."
        ) from error
    return compressor


def find_network(name: str) -> Callable[..., Any]:
    """Finds the function that makes a user's own network.

    Raises:
        Refusal: there is none of that name.
    """
    function = _find("arch", name)
    if not callable(function):
        raise Refusal(
            "`arch` must be a function (input_shape, classes, seed) that returns a "
            f"keras.Model. Received: arch={name!r}, which is {function!r}."
        )
    return function


def make_network(
    name: str, input_shape: tuple[int, ...], classes: int, seed: int
) -> keras.Model:
    """Makes a user's own network, and checks what goes in and comes out.

    Args:
        name: `module:function`.
        input_shape: Of one example.
        classes: Number of classes.
        seed: Of initial weights. Keras's own generators start from it, too, so that
            equal seeds make equal networks whether the function looks at it or not.

    Returns:
        A built model from (batch, *input_shape) to logits (batch, classes).

    Raises:
        Refusal: it is no such model.
    """
    function = find_network(name)
    keras.utils.set_random_seed(seed)
    try:
        model = function(input_shape, classes, seed)
    except Exception as error:  # Whatever a user's own code raises.
        raise Refusal(
            f"`arch` {name} made no network of input_shape={input_shape}, "
            f"classes={classes}, seed={seed}: {_told(error)}."
        ) from error
    if not isinstance(model, keras.Model):
        raise Refusal(
            f"`arch` {name} must return a keras.Model. Received: {type(model)}."
        )
    try:
        # Builds what has no weights yet, and computes nothing.
        outputs = model(keras.KerasTensor((None, *input_shape), "float32"))
    except Exception as error:
        raise Refusal(
            f"`arch` {name} must take examples of the shape {input_shape}: "
            f"{_told(error)}."
        ) from error
    shape = getattr(outputs, "shape", None)
    if shape is None or tuple(shape)[1:] != (classes,):
        raise Refusal(
            f"`arch` {name} must return logits of the shape (batch, {classes}), one "
            f"for each class. Received: {shape or type(outputs)}."
        )
    if not model.trainable_variables:
        raise Refusal(f"`arch` {name} must have weights to train. Received: none.")
    last = model.layers[-1] if type(model).__module__.startswith("keras.") else None
    has_softmax = getattr(last, "activation", None) is keras.activations.softmax
    if has_softmax or isinstance(last, keras.layers.Softmax):
        raise Refusal(
            f"`arch` {name} must return logits, of which the loss takes the softmax. "
            f"Received: a last layer, {last.name}, that takes it already."
        )
    return model


def _find(setting: str, name: str) -> Any:
    """What a module has under a user's own name."""
    own_names.require_module(setting, name)
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # Whatever a module raises as it is run.
        raise Refusal(
            f"`{setting}` {name}: the module {module} cannot be imported: "
            f"{_told(error)}."
        ) from error
    try:
        return getattr(found, attribute)
    except AttributeError:
        place = getattr(found, "__file__", None) or "which has no file"
        raise Refusal(
            f"`{setting}` {name}: the module {module} ({place}) has no {attribute}. "
            f"Received: {setting}={name!r}."
        ) from None


def _told(error: Exception) -> str:
    """An error in one line, with the last line of the user's that it came through."""
    words = " ".join(str(error).split()).rstrip(".") or "no reason given"
    told = f"{type(error).__name__}: {words[:_LONGEST]}"
    if isinstance(error, SyntaxError):  # It says where.
        return told
    places = [
        f"{frame.filename}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename for part in _NOT_THE_USERS)
    ]
    return f"{told} ({places[-1]})" if places else told
