"""How every file of a study is written: durably, and refused in one line.

See `tem_tf.durable_files`, which is loaded without TensorFlow.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tem_studies.refusal import writing
from tem_tf_run import load_part

durable_files = load_part("durable_files")


@contextmanager
def opened(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Opens a file that appears under its name, whole, after the block.

    Args:
        path: Where the file will be.
        mode: "w" or "wb".
        **options: Of `open`.

    Raises:
        Refusal: it cannot be written. What had the name before is still there.
    """
    with writing(path), durable_files.opened(path, mode, **options) as file:
        yield file


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Writes a file of bytes.

    Raises:
        Refusal: as of `opened`.
    """
    with opened(path, "wb") as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Writes a file of text, as UTF-8.

    Raises:
        Refusal: as of `opened`.
    """
    write_bytes(path, text.encode())


def write_table(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
) -> None:
    """Writes a CSV file: booleans as true and false, numbers with all their digits.

    Args:
        path: Where the file will be.
        rows: Its lines.
        columns: Their names. Default: those of the first row, none without rows.

    Raises:
        Refusal: as of `opened`.
    """
    rows = list(rows)
    if columns is None:
        columns = list(rows[0]) if rows else []
    with opened(path, newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: cell(value) for name, value in row.items()} for row in rows
        )


def cell(value: Any) -> Any:
    """A value as tables have it.

    >>> [cell(x) for x in (True, 0.5, 12, "a")]
    ['true', 0.5, 12, 'a']
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def make_directory(path: Path) -> None:
    """Makes a directory and its parents where they are missing.

    Raises:
        Refusal: it cannot be made.
    """
    with writing(path):
        durable_files.make_directory(path)


def remove_partials(directory: Path) -> None:
    """Removes what killed writers have left in a directory that is this process's.

    Raises:
        Refusal: a file cannot be removed.
    """
    with writing(directory):
        durable_files.remove_partials(directory)
