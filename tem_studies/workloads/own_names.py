"""What users bring by name, as `module:Class`: how it is written, where it is found.

`python -m` looks for a module in the working directory first, and so does this. The
module itself is imported by own_parts.py, once TensorFlow has started; this file
imports neither TensorFlow nor numpy, so that a wrong name is refused at once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from tem_studies.refusal import Refusal

# Of one argument, or of the items of a list; what JSON has beside them is a table.
_PLAIN = (str, int, float, bool, type(None))
_BOUND = 10**18  # Of numbers: the digits of an integer that is read from a result.

Arguments = dict[str, Any]


def is_own(name: Any) -> bool:
    """Whether a name is one of a user's own, `module:Class`.

    >>> is_own("mine:Halves"), is_own("topk")
    (True, False)
    """
    return isinstance(name, str) and ":" in name


def check_name(setting: str, name: str, what: str = "Class") -> None:
    """Raises unless a user's own name is written as one.

    Args:
        setting: What has the name, as "compressor".
        name: With a colon in it.
        what: What the module has, for the message.

    Raises:
        Refusal: it is not `module:Class`.
    """
    module, _, attribute = name.partition(":")
    parts = [*module.split("."), attribute]
    if not all(part.isidentifier() for part in parts):
        raise Refusal(
            f"`{setting}` must be module:{what}, as Python names them. "
            f"Received: {setting}={name!r}."
        )


def require_module(setting: str, name: str) -> None:
    """Raises if there is no module of a user's own name; imports nothing of it.

    From here on this process finds modules of the working directory, and so do those
    that it starts.

    Raises:
        Refusal: it is neither there nor installed.
    """
    place, first = os.getcwd(), name.partition(":")[0].partition(".")[0]
    # Python's -P and PYTHONSAFEPATH ask for the installed ones alone.
    if not sys.flags.safe_path and not {place, ""} & {*sys.path}:
        sys.path.insert(0, place)
    try:
        found = importlib.util.find_spec(first) is not None
    except ValueError:  # As of __main__.
        found = False
    if not found:
        raise Refusal(
            f"`{setting}` {name} needs a module {first}, which is neither installed "
            f"nor in {place}. Received: {setting}={name!r}."
        )


def require_modules(configuration: Any) -> None:
    """Raises if a module of what a run asks for by name is not there.

    Args:
        configuration: Has the settings as attributes.

    Raises:
        Refusal: one is neither in the working directory nor installed.
    """
    for setting in ("compressor", "arch"):
        name = getattr(configuration, setting)
        if is_own(name):
            require_module(setting, name)


def file_name(name: str) -> str:
    """A name as a part of the names of files, which have no colon everywhere.

    >>> file_name("mine:Halves"), file_name("topk")
    ('mine.Halves', 'topk')
    """
    return name.replace(":", ".")


def read_arguments(setting: str, given: Any, of_classes: bool = False) -> Arguments:
    """Arguments by name from key=value, where a value is JSON if it can be read so.

    Args:
        setting: Where they are from, for messages.
        given: One text, several, or a mapping of values that have been read.
        of_classes: Whether a key may begin with the class that it is for.

    Returns:
        Values by key, with lists as tuples.

    Raises:
        Refusal: one is not key=value, or given twice, or a table.

    >>> read_arguments("arguments", ("factor=2.5", "name=mean", "sizes=[1, 2]"))
    {'factor': 2.5, 'name': 'mean', 'sizes': (1, 2)}
    """
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        texts = (given,) if isinstance(given, str) else tuple(given)
        pairs = [_pair(setting, text) for text in texts]
    arguments: Arguments = {}
    for key, value in pairs:
        names = str(key).split(".") if of_classes else [str(key)]
        if len(names) > 2 or not all(name.isidentifier() for name in names):
            _refuse(setting, f"{key}={value}")
        if key in arguments:
            raise Refusal(f"`{setting}` must have {key} once. Received: it twice.")
        arguments[key] = _value(setting, key, value)
    return arguments


def arguments_for(name: str, arguments: Arguments | None) -> Arguments:
    """Those of one compressor: of all, and over them those of its class alone.

    >>> arguments_for("mine:Halves", {"k": 1, "Halves.k": 2, "Other.n": 3})
    {'k': 2}
    """
    arguments, prefix = arguments or {}, name.partition(":")[2] + "."
    chosen = {key: value for key, value in arguments.items() if "." not in key}
    return chosen | {
        key.removeprefix(prefix): value
        for key, value in arguments.items()
        if key.startswith(prefix)
    }


def check_takers(setting: str, arguments: Arguments | None, names: list[str]) -> None:
    """Raises if arguments are given that none of several compressors takes.

    Args:
        setting: Where they are from, for messages.
        arguments: With the classes that some of them are for.
        names: Of all compressors.

    Raises:
        Refusal: there is none that a user brought, or none of that class.
    """
    classes = {name.partition(":")[2] for name in names if is_own(name)}
    for key, value in (arguments or {}).items():
        owner = key.partition(".")[0] if "." in key else None
        if not classes or (owner is not None and owner not in classes):
            raise Refusal(
                f"`{setting}` are of compressors given as module:Class. Received: "
                f"{key}={value!r} with {','.join(names)}. Leave it out."
            )


def _pair(setting: str, text: Any) -> tuple[str, Any]:
    key, equals, value = str(text).partition("=")
    if not equals:
        _refuse(setting, text)
    try:
        return key, json.loads(value, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return key, value


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not in JSON")  # And stays a text.


def _value(setting: str, key: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_value(setting, key, item) for item in value)
    is_number = isinstance(value, int | float)
    if not isinstance(value, _PLAIN) or (is_number and not abs(value) < _BOUND):
        raise Refusal(
            f"`{setting}` must be numbers below 1e18, texts, true, false, null or "
            f"lists of them. Received: {key}={value!r}."
        )
    return value


def _refuse(setting: str, text: Any) -> NoReturn:
    raise Refusal(
        f"`{setting}` must be key=value, with blanks between several. "
        f"Received: {text!r}."
    )
