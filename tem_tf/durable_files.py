"""Files that appear whole or not at all, and that outlive a power cut.

Renaming alone is not enough: a file system may write the new name down before the
content, so that after a power cut a finished file has no bytes. The order here is

    1. write `.partial-PID-NAME` in the same directory
    2. fsync it             its content is on the disk
    3. rename it to NAME    readers see the old file or the new one, never a part
    4. fsync the directory  the name is on the disk

An error on the way removes the partial file and leaves what had the name before. What
is no regular file, as a pipe or /dev/stdout, is written as it is.

Needs the standard library alone, so that it can be loaded without TensorFlow.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

PARTIAL = ".partial-*"  # Matches the files that a killed process may leave.

# What file systems and operating systems answer that do not write down directories.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EISDIR}

AnyPath = str | os.PathLike[str]


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[pathlib.Path]:
    """Gives the path to write to; after the block that file has `path`'s name.

    For libraries that take a path and no open file.

    Args:
        path: Path. Where the file will be. A symbolic link is followed.

    Raises:
        OSError: it cannot be written; whatever the block raises.

    >>> import tempfile
    >>> place = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with replacing(place) as partial:
    ...     _ = partial.write_text("whole")
    ...     place.exists()
    False
    >>> place.read_text()
    'whole'
    """
    path = pathlib.Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        commit(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@contextlib.contextmanager
def opened(path: AnyPath, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """As `replacing`, with the file open.

    Args:
        path: Path. Where the file will be.
        mode: String, "w" or "wb".
        **options: Of `open`. The default encoding is UTF-8.

    Raises:
        OSError: it cannot be written; whatever the block raises.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    with replacing(path) as partial, open(partial, mode, **options) as file:
        yield file


def write_bytes(path: AnyPath, content: bytes | memoryview) -> None:
    """Writes a file of bytes.

    Raises:
        OSError: it cannot be written.
    """
    with opened(path, "wb") as file:
        file.write(content)


def write_text(path: AnyPath, text: str) -> None:
    """Writes a file of text, as UTF-8.

    Raises:
        OSError: it cannot be written.
    """
    write_bytes(path, text.encode())


def write_json(path: AnyPath, content: Any, indent: int = 1) -> None:
    """Writes a file of JSON.

    Raises:
        OSError: it cannot be written.
        ValueError: a number is not finite, which JSON has no word for.
    """
    text = json.dumps(content, indent=indent, allow_nan=False)
    write_text(path, text + "\n")


def commit(made: AnyPath, path: AnyPath) -> None:
    """Gives a finished file its name, once its content is on the disk.

    Args:
        made: Path. A file in the file system of `path`.
        path: Path. Its name from now on.

    Raises:
        OSError: the disk or the file system does not let us.
    """
    _sync_file(made)
    os.replace(made, path)
    _sync_directory(os.path.dirname(path) or ".")


def sync_files(directory: AnyPath, pattern: str) -> None:
    """Has files on the disk that another library writes, as TensorBoard's events.

    Args:
        directory: Path. Nothing is done if it is not there.
        pattern: String. A glob for files in it.

    Raises:
        OSError: the disk does not let us.
    """
    found = list(pathlib.Path(directory).glob(pattern))
    for file in found:
        _sync_file(file)
    if found:
        _sync_directory(directory)


def make_directory(path: AnyPath, parents: bool = True, exist_ok: bool = True) -> None:
    """Makes a directory where it is missing, to stay.

    Args:
        path: Path. The directory.
        parents: Bool. Whether to make missing parents, too.
        exist_ok: Bool. Whether it may be there.

    Raises:
        OSError: it cannot be made.
    """
    path = pathlib.Path(path)
    chain = (path, *path.parents)
    missing = [place for place in chain if not os.path.isdir(place)]
    path.mkdir(parents=parents, exist_ok=exist_ok)
    for place in missing:
        _sync_directory(place.parent)


def remove_partials(directory: AnyPath) -> None:
    """Removes what writers have left in a directory that were killed.

    Call it where no other process writes.

    Raises:
        OSError: a file cannot be removed.
    """
    for left in pathlib.Path(directory).glob(PARTIAL):
        left.unlink(missing_ok=True)


def _sync_file(path: AnyPath) -> None:
    # Opened again, since libraries that take a path have closed theirs. What is synced
    # is the file, by whichever of its descriptors.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: AnyPath) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
