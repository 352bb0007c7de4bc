"""The one type of what the program refuses, and where other errors become it.

What a user can set right - a flag, a file, a directory, a package - is a `Refusal`,
which the program shows in one line. Every other error is a fault of the program and
keeps its traceback, so a block of `refusing`, `reading` or `writing` stands around one
call that takes a user's value or touches a user's file, never around work of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Refusal(ValueError):
    """Something that the user can set right; shown in one line, without a traceback."""


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Within it errors of these kinds are refusals, in their own words.

    For the checks of others, as the plugin's, that a user's value is handed to.

    Args:
        kinds: What those checks raise.

    Raises:
        Refusal: one of them was raised.

    >>> with refusing(ValueError):
    ...     int("many")
    Traceback (most recent call last):
    tem_studies.refusal.Refusal: invalid literal for int() with base 10: 'many'
    """
    try:
        yield
    except Refusal:
        raise
    except kinds as error:
        raise Refusal(str(error)) from error


def reading(path: str | Path) -> _Access:
    """A block in which a file is opened and read.

    Raises:
        Refusal: the operating system does not let us, as of rights.
    """
    return _Access(path, "read")


def writing(path: str | Path) -> _Access:
    """A block in which a file or directory is written.

    Raises:
        Refusal: the operating system does not let us, as of a full disk.
    """
    return _Access(path, "written")


class _Access:
    """A block in which an OSError becomes a refusal that names a place."""

    def __init__(self, path: str | Path, verb: str) -> None:
        self._path, self._verb = path, verb

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError):
            reason = error.strerror or error  # h5py has no strerror.
            raise Refusal(f"{self._path} cannot be {self._verb}: {reason}.") from error
