"""The C++ part of a gradient's path: whether it is there, and how it gets there.

    python -m tem_tf.native build     # needs g++; some seconds to a minute, once
    python -m tem_tf.native status

`src/*.cc` are compiled against the installed TensorFlow's own headers into one library
in the user's cache directory, one for each version of TensorFlow and of the sources. It
is loaded if it is there; without it the same is done by TensorFlow's operations, more
slowly and with the same results. Nothing is ever built on the way.

TEM_TF_NATIVE=0 in the environment switches it off; TEM_TF_NATIVE=sanitize takes the
build for AddressSanitizer; avx2 and scalar take no wider instructions than these.
"""

from __future__ import annotations

import functools
import os
import pathlib
import warnings
from types import ModuleType
from typing import NamedTuple

import tensorflow as tf

from tem_tf.native import building
from tem_tf.native.building import BuildError

__all__ = ["BuildError", "Status", "build", "library", "status"]

_VARIABLE = "TEM_TF_NATIVE"
_MODES = ("", "0", "1", "sanitize", "avx2", "scalar")


class Status(NamedTuple):
    """Whether the native library is in use.

    Attributes:
        in_use: Whether gradients take the native path where they can.
        reason: Why, or why not, in a sentence.
        path: The library, where there is one.
    """

    in_use: bool
    reason: str
    path: pathlib.Path | None = None


def build(sanitize: bool = False, force: bool = False) -> pathlib.Path:
    """Compiles the library, unless it is there.

    Args:
        sanitize: Bool. Whether for AddressSanitizer. To use it, start Python with
            TEM_TF_NATIVE=sanitize, LD_PRELOAD=libasan.so and
            ASAN_OPTIONS=detect_leaks=0.
        force: Bool. Whether to compile it in any case.

    Returns:
        Path of the library. Processes that run already take it at their next start.

    Raises:
        BuildError: there is no compiler, it fails, or no directory can be written.
    """
    return building.build(sanitize, force)


def status() -> Status:
    """Says whether the native library is in use and why; loads it if it is there.

    Raises:
        ValueError: TEM_TF_NATIVE is none of 0, 1, sanitize, avx2 and scalar.
    """
    mode = os.environ.get(_VARIABLE, "")
    if mode not in _MODES:
        raise ValueError(
            f"`{_VARIABLE}` must be 0, 1, sanitize, avx2 or scalar. "
            f"Received: {_VARIABLE}={mode}"
        )
    if mode == "0":
        return Status(False, f"switched off by {_VARIABLE}=0")
    return _find(mode == "sanitize")[0]


def library() -> ModuleType | None:
    """The generated functions of the ops, or None where `status` says why."""
    if not status().in_use:
        return None
    return _find(os.environ.get(_VARIABLE) == "sanitize")[1]


@functools.cache  # Once per process: TensorFlow cannot unload a library.
def _find(sanitize: bool) -> tuple[Status, ModuleType | None]:
    path = building.find(sanitize)
    if path is None:
        return Status(False, building.why_not_built(sanitize)), None
    try:
        ops = tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError) as error:
        command = f"{building.command_to_build(sanitize)} --force"
        reason = f"the library cannot be loaded, build it anew by {command}: {error}"
        warnings.warn(f"tem_tf goes on without {path}: {reason}", stacklevel=3)
        return Status(False, reason, path), None
    return Status(True, f"built for TensorFlow {tf.__version__}", path), ops
