"""Finished trials of a cell in one file, trials.jsonl, with what they share once.

    {"name": "run-0", "result": {...}}                the first as it is
    {"name": "run-1", "changes": {"/seed": 11, ...}}  others by what differs in them

A key of `changes` is a JSON Pointer (RFC 6901) into the first result, and what it has
there stands in the place of the first's. Results come back with their keys in order, so
that a file written of one again has the same bytes.

This file imports neither TensorFlow nor numpy, so that a wrong directory is refused at
once.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tem_studies.refusal import Refusal
from tem_studies.workloads.study_files import (
    finite_or_null,
    parse_json,
    read_text,
    require_schema,
)
from tem_studies.written_files import write_text

PACKED_NAME = "trials.jsonl"
TRIAL_NAME = "^(run-[0-9]+|rerun-[0-9]+-seed-[0-9]+)$"
_RESTORE = "Restore it"
_LINE = {
    "type": "object",
    "properties": {
        "name": {
            "type": "string",
            "pattern": TRIAL_NAME,
        },
        "result": {"type": "object"},
        "changes": {"type": "object"},
    },
    "required": ["name"],
    "minProperties": 2,
    "maxProperties": 2,
    "additionalProperties": False,
}
Results = dict[str, dict[str, Any]]


def write(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the packed file of a cell's directory, whole or not at all.

    Args:
        path: The directory.
        results: All that is finished, by name.

    Raises:
        Refusal: it cannot be written.
    """
    results = finite_or_null(results)
    first = next(iter(results.values()), None)
    lines = [
        {"name": name, "result": result}
        if result is first
        else {"name": name, "changes": dict(_changes(first, result))}
        for name, result in results.items()
    ]
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    write_text(path / PACKED_NAME, text)


def read(path: Path, schema: Mapping[str, Any]) -> Results:
    """The results in the packed file of a directory; none without one.

    Args:
        path: The directory.
        schema: Of a result.

    Raises:
        Refusal: it is damaged.
    """
    file = path / PACKED_NAME
    if not file.exists():
        return {}
    results: Results = {}
    for number, text in enumerate(read_text(file).splitlines(), 1):
        line = parse_json(text, file, _RESTORE)
        require_schema(line, _LINE, file, _RESTORE)
        is_first = not results
        if ("result" in line) != is_first or line["name"] in results:
            raise Refusal(
                f"{file} is damaged: line {number} is not of one trial more. Restore "
                "it; nothing was changed."
            )
        if is_first:
            result = line["result"]
        else:
            first = next(iter(results.values()))
            result = _changed(first, line["changes"], file, number)
        require_schema(result, schema, file, _RESTORE)
        results[line["name"]] = result
    return results


def _changes(first: Any, other: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """What is different in another value, by pointer.

    Objects are gone through where their keys and the order of these are the same.
    """
    if _is_object(first) and _is_object(other) and list(first) == list(other):
        for key, value in other.items():
            yield from _changes(first[key], value, f"{pointer}/{_escaped(key)}")
    elif not _is_same(first, other):
        yield pointer, other


def _changed(
    first: dict[str, Any], changes: Mapping[str, Any], file: Path, number: int
) -> dict[str, Any]:
    """A result by what is different in it.

    Raises:
        Refusal: a pointer leads nowhere.
    """
    if "" in changes:  # The whole.
        return changes[""]
    result = copy.deepcopy(first)
    for pointer, value in changes.items():
        *above, last = _keys(pointer)
        place: Any = result
        for key in above:
            place = place.get(key) if _is_object(place) else None
        if not _is_object(place) or last not in place:
            raise Refusal(
                f"{file} is damaged: in line {number} {pointer!r} is nowhere in the "
                "first trial. Restore it; nothing was changed."
            )
        place[last] = value
    return result


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_same(one: Any, other: Any) -> bool:
    """As JSON has them: 0 and 0.0 and false are written in three ways."""
    return json.dumps(one) == json.dumps(other)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _keys(pointer: str) -> Iterable[str]:
    """The keys of a pointer that is not empty.

    >>> _keys("/pruning/dense~1kernel/kept")
    ['pruning', 'dense/kernel', 'kept']
    """
    keys = pointer.split("/")[1:] or [pointer]
    return [key.replace("~1", "/").replace("~0", "~") for key in keys]
