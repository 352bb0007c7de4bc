"""Files of a study that several processes work on: whole or not at all, and claimed.

A unit of work has a folder and is finished once its result file is there. It belongs to
the process that holds the lock on the folder's `.claim`; the operating system frees it
when that process ends, however it ends, so that nothing has to be cleaned up. Several
machines can share a directory on a file system whose locks they share (NFS 4 is one).

This file imports neither TensorFlow nor numpy, so that a wrong directory
is refused at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tem_studies.missing_packages import importing
from tem_studies.refusal import Refusal, writing
from tem_studies.workloads.logdir import INTERRUPTED, RESULT_NAME, not_writable
from tem_studies.written_files import durable_files, remove_partials, write_text

_DIGITS = 18  # of an integer: within 64 bits
_LONGEST = 200  # characters of what is wrong in a file
_MADE_AGAIN = "Restore it, or remove it to have it made again"
_MARK = ".tem_tf-report"
DATA_NAME = "data.json"  # The checksum of a study's data.


@contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Claims a folder for a `with` block; False if it is finished or another's."""
    file = None
    with writing(folder):
        durable_files.make_directory(folder, parents=False)
        with contextlib.suppress(FileNotFoundError):  # Packed by another just now.
            file = (folder / ".claim").open("w")
    if file is None:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        # Another process may have finished it just before.
        if (folder / RESULT_NAME).exists():
            yield False
            return
        for left in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            remove_partials(left)  # of a process that was killed
        yield True


def make_directory(path: Path, name: str = "study_dir") -> None:
    """Makes the directory of a study, which `name` sets.

    Raises:
        Refusal: it cannot be made or written to.
    """
    try:
        durable_files.make_directory(path)
    except OSError as error:
        raise not_writable(path, name, error.strerror) from error


@contextmanager
def alone_in(place: Path) -> Iterator[None]:
    """Makes a directory, and waits until no other process is in such a block for it.

    Commands that finish a study together would else write one report at once.

    Raises:
        Refusal: it cannot be made or written to.
    """
    with writing(place):
        durable_files.make_directory(place)
        file = (place / ".claim").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_partials(place)  # of a process that was killed
        yield


def empty_report(place: Path) -> None:
    """Makes an empty directory for a report, in the place of an earlier one.

    Raises:
        Refusal: it holds something else.
    """
    mark = place / _MARK
    earlier = [entry for entry in place.glob("*") if entry != mark]
    if earlier and not mark.exists():
        raise Refusal(
            f"{place} was not made by a report and is not overwritten. Pass "
            "another `logdir`."
        )
    with writing(place):
        durable_files.make_directory(place)
        mark.touch()  # It stays: a process killed here leaves what the next may remove.
        for entry in earlier:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def require_data(place: Path, checksum: int) -> None:
    """Checks that the data is that of the runs before: a path says little of it.

    Args:
        place: The study directory. The first call leaves the checksum there.
        checksum: Of the data.

    Raises:
        Refusal: it is other data.
    """
    path, ours = place / DATA_NAME, {"checksum of the data": checksum}
    with alone_in(place):
        if not path.exists():
            write_json(path, ours)
    require_same(place, read_json(path, dict), ours)


def require_same(
    path: Path,
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    name: str = "study_dir",
    kind: str = "study",
) -> None:
    """Raises if a directory was made with other settings, naming them.

    Args:
        path: The directory.
        theirs: What it holds.
        ours: What the command asks for.
        name: Of the setting that chose the directory.
        kind: What it is a directory of.
    """
    ours = json.loads(json.dumps(ours))  # As JSON has it: tuples are lists there.
    differences = [
        f"`{key}` ({theirs.get(key)!r} there, {ours.get(key)!r} here)"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    ]
    if differences:
        raise Refusal(
            f"`{name}` {path} is the {kind} of another configuration: "
            f"{', '.join(differences)}. Pass another directory."
        )


def require_same_in_results(
    path: Path, results: Iterable[Mapping[str, Any]], ours: Mapping[str, Any]
) -> None:
    """As `require_same`, by what finished runs say of themselves.

    They outlive the file that says it of all, which may be damaged and removed.

    Args:
        path: The directory.
        results: Contents of result files; settings that one does not hold are not
            compared.
        ours: What the command asks for.
    """
    for result in results:
        theirs = {k: v for k, v in result["configuration"].items() if k in ours}
        require_same(path, theirs, {k: ours[k] for k in theirs})


def read_text(path: Path) -> str:
    """Reads a file of UTF-8.

    Raises:
        Refusal: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise _not_json(path, error) from error


def parse_json(text: str, path: Path, advice: str = _MADE_AGAIN) -> Any:
    """Reads a text; what is no JSON, as NaN, is refused.

    Args:
        text: The text.
        path: Where it stands.
        advice: What to do where it is damaged.

    Raises:
        Refusal: it is damaged.
    """
    try:
        return json.loads(
            text, parse_constant=_number, parse_float=_number, parse_int=_integer
        )
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error, advice) from error


def _not_json(path: Path, error: Exception, advice: str = _MADE_AGAIN) -> Refusal:
    return Refusal(
        f"{path} cannot be read as JSON ({error}): it is half-written or damaged. "
        f"{advice}; nothing was changed."
    )


def read_json(path: Path, kind: type) -> Any:
    """Reads a file.

    Raises:
        Refusal: it is damaged, or holds something else than a `kind`.
    """
    content = parse_json(read_text(path), path)
    if not isinstance(content, kind):
        raise Refusal(f"{path} must hold a JSON {kind.__name__}; it does not.")
    return content


def read_result(path: Path, schema: Mapping[str, Any]) -> Any:
    """Reads a file of a study, which must be as a JSON Schema says.

    Raises:
        Refusal: it is damaged, altered, or another kind of file.
    """
    content = read_json(path, object)
    require_schema(content, schema, path)
    return content


def require_schema(
    content: Any, schema: Mapping[str, Any], path: Path, advice: str = _MADE_AGAIN
) -> None:
    """Checks that what a file of a study holds is as a JSON Schema says.

    Raises:
        Refusal: it is not.
    """
    with importing():
        import jsonschema

    faults = jsonschema.Draft202012Validator(schema).iter_errors(content)
    if (fault := jsonschema.exceptions.best_match(faults)) is not None:
        said = fault.message[:_LONGEST]
        raise Refusal(
            f"{path} is damaged, or not of this study: {said} ({fault.json_path}). "
            f"{advice}; nothing was changed."
        )


def is_finished(folder: Path) -> bool:
    """Whether a run of main.py has left its result there, and Ctrl-C did not end it.

    Raises:
        Refusal: the result is damaged.
    """
    path = folder / RESULT_NAME
    return path.exists() and read_json(path, dict).get("status") != INTERRUPTED


def read_schema(path: Path) -> dict[str, Any]:
    """Reads a schema that comes with the program."""
    return json.loads(path.read_text(encoding="utf-8"))


def _number(word: str) -> float:
    """A number; what is not finite is no JSON, and would be computed with."""
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word} is not finite")
    return value


def _integer(word: str) -> int:
    if len(word) > _DIGITS:
        raise ValueError(f"an integer has {len(word)} digits")
    return int(word)


def write_json(path: Path, content: Any) -> None:
    """Writes a file; numbers that are not finite become null.

    Raises:
        Refusal: it cannot be written.
    """
    text = json.dumps(finite_or_null(content), indent=1, allow_nan=False)
    write_text(path, text + "\n")


def finite_or_null(value: Any) -> Any:
    """Copies nested dicts and lists with None for NaN and Inf, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
