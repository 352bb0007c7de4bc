"""Named arrays in one file, which says how long it is before anybody reads it.

    16 bytes  "tem_tf arrays 1" and a line feed
    8 bytes   length of the table, little-endian
    table     JSON: [[name, dtype, shape], ...]
    the arrays one after another, in C order, little-endian

A digest of the whole file is kept elsewhere (directory.py). Nothing in a file is
executed, and no memory is taken that the file does not fill.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tem_tf import durable_files

Arrays = dict[str, np.ndarray]
_MAGIC = b"tem_tf arrays 1\n"
_WORD = 8


class Damaged(Exception):
    """A file is not what was written."""


class Fingerprint(NamedTuple):
    """What a file must be.

    Attributes:
        bytes: Its length.
        sha256: Of its content, in hexadecimal digits.
    """

    bytes: int
    sha256: str


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> Fingerprint:
    """Writes a file, whole or not at all.

    Args:
        path: Of the file.
        arrays: Numbers and truth values, by name.

    Raises:
        OSError: it cannot be written.
        TypeError: see `require_numbers`.
    """
    require_numbers(arrays)
    table, parts = [], []
    for name, array in arrays.items():
        array = np.asarray(array)
        table.append([name, tf.as_dtype(array.dtype).name, list(array.shape)])
        parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    text = json.dumps(table).encode()
    digest, size = hashlib.sha256(), 0
    with durable_files.opened(path, "wb") as file:
        for part in (_MAGIC, len(text).to_bytes(_WORD, "little"), text, *parts):
            view = memoryview(part)
            file.write(view)
            digest.update(view)
            size += view.nbytes
    return Fingerprint(size, digest.hexdigest())


def require_numbers(arrays: Mapping[str, Any]) -> None:
    """Looks whether arrays can be written.

    Raises:
        TypeError: an array holds objects or text.
    """
    for name, array in arrays.items():
        dtype = np.asarray(array).dtype
        if dtype.hasobject or dtype.kind in "USMm":
            raise TypeError(
                f"Arrays in a checkpoint must hold numbers. Received: {name!r} of "
                f"dtype {dtype}"
            )


def read_arrays(path: str | os.PathLike, fingerprint: Fingerprint) -> Arrays:
    """Reads a file back.

    Args:
        path: Of the file.
        fingerprint: What `write_arrays` returned.

    Raises:
        Damaged: it is missing, or not that file any more.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != fingerprint.bytes:
                raise Damaged(f"{path} has not the {fingerprint.bytes} bytes it had")
            content = file.read(fingerprint.bytes)
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != fingerprint.sha256:
        raise Damaged(f"{path} is not what was written")
    return _parsed(content, pathlib.Path(path))


def _parsed(content: bytes, path: pathlib.Path) -> Arrays:
    start = len(_MAGIC) + _WORD
    if not content.startswith(_MAGIC) or len(content) < start:
        raise Damaged(f"{path} holds no arrays of tem_tf")
    end = start + int.from_bytes(content[len(_MAGIC) : start], "little")
    try:
        table = json.loads(content[start:end])
        arrays, offset = {}, end
        for name, dtype, shape in table:
            dtype = np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
            count = math.prod(shape)
            array = np.frombuffer(content, dtype, count, offset)
            arrays[name] = array.reshape(shape)
            offset += count * dtype.itemsize
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise Damaged(f"{path} has a table that is none: {error}") from error
    if offset != len(content):
        raise Damaged(f"{path} is longer than its arrays")
    return arrays
