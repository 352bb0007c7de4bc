"""The C++ part of a gradient's path: whether it is there, and how it gets there.

    python -m tem_tf.native build     # needs g++; some seconds to a minute, once
    python -m tem_tf.native status

`src/*.cc` are compiled against the installed TensorFlow's own headers into one library
in the user's cache directory, one for each version of TensorFlow and of the sources.
Where a compiler is, the first `SparsifiedOptimizer` that has use for it builds it;
without it the same is done by TensorFlow's operations, more slowly and with the same
results.

TEM_TF_NATIVE=0 in the environment switches it off; built takes it if it is there and
builds nothing; sanitize does so with the build for AddressSanitizer; avx2 and scalar
do so and take no wider instructions than these.
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

__all__ = ["BuildError", "Status", "build", "library", "prepare", "status"]

_VARIABLE = "TEM_TF_NATIVE"
_BUILT_AT_FIRST_USE = ("", "1")
_MODES = (*_BUILT_AT_FIRST_USE, "0", "built", "sanitize", "avx2", "scalar")


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
        Path of the library. Other processes that run take it at their next start.

    Raises:
        BuildError: there is no compiler, it fails, or no directory can be written.
    """
    path = building.build(sanitize, force)
    _find.cache_clear()
    return path


def prepare() -> None:
    """Builds the library where it is not there and a compiler is; loads it.

    Takes up to a minute once, so call it where nobody waits: not inside a step. It does
    nothing if TEM_TF_NATIVE is set to anything but 1. A build that fails is one
    warning, and is left to `build` from then on. Processes of one machine build one at
    a time; those that waited take what was built.

    Raises:
        ValueError: as `status`.
    """
    if status().path is None and _mode() in _BUILT_AT_FIRST_USE:
        _prepare_once()


@functools.cache  # What has failed is not tried again, nor said again.
def _prepare_once() -> None:
    try:
        building.build_at_first_use()
    except BuildError as error:
        warnings.warn(
            "tem_tf goes on without native kernels, more slowly and with the same "
            f"results: {error}",
            stacklevel=5,  # Who makes a SparsifiedOptimizer.
        )
    _find.cache_clear()  # It is there now, or there is another reason.


def status() -> Status:
    """Says whether the native library is in use and why; loads it if it is there.

    Builds nothing.

    Raises:
        ValueError: TEM_TF_NATIVE is none of 0, 1, built, sanitize, avx2 and scalar.
    """
    mode = _mode()
    if mode not in _MODES:
        raise ValueError(
            f"`{_VARIABLE}` must be 0, 1, built, sanitize, avx2 or scalar. "
            f"Received: {_VARIABLE}={mode}"
        )
    if mode == "0":
        return Status(False, f"switched off by {_VARIABLE}=0")
    return _find(mode)[0]


def library() -> ModuleType | None:
    """The generated functions of the ops, or None where `status` says why."""
    return _find(_mode())[1] if status().in_use else None


def _mode() -> str:
    return os.environ.get(_VARIABLE, "")


@functools.cache  # TensorFlow cannot unload a library.
def _find(mode: str) -> tuple[Status, ModuleType | None]:
    sanitize = mode == "sanitize"
    path = building.find(sanitize)
    if path is None:
        reason = building.why_not_built(sanitize, mode in _BUILT_AT_FIRST_USE)
        return Status(False, reason), None
    try:
        ops = tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError) as error:
        command = f"{building.command_to_build(sanitize)} --force"
        reason = f"the library cannot be loaded, build it anew by {command}: {error}"
        warnings.warn(f"tem_tf goes on without {path}: {reason}", stacklevel=3)
        return Status(False, reason, path), None
    return Status(True, f"built for TensorFlow {tf.__version__}", path), ops
