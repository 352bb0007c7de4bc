"""Files of others, read within bounds: no header and no archive takes what it claims.

A file of a kilobyte can claim a shape of terabytes, and a gzip of a megabyte can hold a
gigabyte. Here sizes are compared with what is there before any memory is taken, and
an archive is unpacked no further than a limit.
"""

from __future__ import annotations

import bz2
import gzip
import math
import os
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tem_studies.refusal import Refusal, reading

# Of a whole file, unpacked: the largest that any workload reads is MovieLens-20M's
# ratings.csv with 0.5 GB. Our choice.
MAXIMAL_BYTES = 2 << 30
_UNPACKERS = {".gz": gzip.open, ".bz2": bz2.open}
_BLOCK = 1 << 20

# The header of a npy file as numpy writes it: docs of numpy.lib.format.
_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '([|<>]?[biuf][1248])', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n"
)


def read_bytes(path: Path, maximal_bytes: int = MAXIMAL_BYTES) -> bytes:
    """Reads a file, unpacked if its name ends with .gz or .bz2.

    Raises:
        Refusal: it cannot be read, is damaged or longer than that.
    """
    unpack = _UNPACKERS.get(path.suffix)
    if unpack is None:
        with reading(path), path.open("rb") as file:
            # Python takes as much memory as a read may need.
            length = os.fstat(file.fileno()).st_size
            content = file.read(min(length, maximal_bytes) + 1)
    else:
        try:
            blocks, length = [], 0
            with unpack(path, "rb") as file:
                while length <= maximal_bytes and (block := file.read(_BLOCK)):
                    blocks.append(block)
                    length += len(block)
            content = b"".join(blocks)
        except (EOFError, OSError, zlib.error, ValueError) as error:
            if getattr(error, "errno", None) is not None:
                raise Refusal(f"{path} cannot be read: {error}.") from error
            kind = {".gz": "gzipped", ".bz2": "packed by bzip2"}[path.suffix]
            raise Refusal(f"{path} is truncated or not {kind}: {error}.") from error
    if len(content) > maximal_bytes:
        raise Refusal(
            f"{path} must be no longer than {maximal_bytes:,} bytes, unpacked. "
            "Received: a longer one."
        )
    return content


def read_npy(path: Path) -> np.ndarray:
    """Reads an array that `np.save` wrote.

    Raises:
        ValueError: it is damaged, or no array of numbers.
        Refusal: it cannot be read.
    """
    return _array(read_bytes(path))


def read_npz(path: Path, maximal_bytes: int = MAXIMAL_BYTES) -> dict[str, np.ndarray]:
    """Reads the arrays that `np.savez` or `np.savez_compressed` wrote.

    Args:
        path: The file.
        maximal_bytes: Of all arrays together.

    Raises:
        ValueError: it is damaged, or holds anything but arrays of numbers.
        Refusal: it cannot be read.
    """
    arrays = {}
    try:
        with reading(path), path.open("rb") as opened:
            # zipfile would look for an archive behind whatever the file begins with.
            if opened.read(2) != b"PK":
                raise ValueError("it is no npz file")
            file = zipfile.ZipFile(opened)
            for member in file.infolist():
                # One byte more than announced shows that the announcement is wrong.
                if member.file_size > maximal_bytes:
                    raise ValueError(f"{member.filename} is too long")
                with file.open(member) as stream:
                    content = stream.read(member.file_size + 1)
                maximal_bytes -= len(content)
                arrays[member.filename.removesuffix(".npy")] = _array(content)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,  # of an encrypted file
        LookupError,
    ) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return arrays


def _array(content: bytes) -> np.ndarray:
    if content[:6] != _MAGIC or content[6:8] != b"\x01\x00":
        raise ValueError("it is no npy file of version 1")
    start = 10 + int.from_bytes(content[8:10], "little")
    found = _HEADER.fullmatch(content[10:start].decode("latin-1"))
    if found is None:
        raise ValueError("its header is not that of an array of numbers")
    try:
        kind = np.dtype(found[1])
    except TypeError as error:
        raise ValueError(f"its header names no type: {found[1]}") from error
    shape = tuple(int(size) for size in found[3].split(",") if size.strip())
    if len(shape) > 8 or math.prod(shape) * kind.itemsize != len(content) - start:
        raise ValueError(
            f"its header announces {kind} {shape[:8]}, and "
            f"{len(content) - start} bytes follow"
        )
    order = "F" if found[2] == "True" else "C"
    flat = np.frombuffer(content, kind, offset=start).copy()  # It may be written to.
    return flat.reshape(shape, order=order)
