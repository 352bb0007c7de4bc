"""CIFAR's pickled batches, read without running them.

A pickle is a program: to unpickle is to run it, and an unpickler that allows numpy's
names alone still lets a file build arrays whose memory is not theirs. So this file
takes the operations one by one (`pickletools.genops`, which parses and runs nothing)
and knows only those that a dict of arrays, lists, words and numbers needs. Calls are
not made but recognised: three forms of "an array of numpy's", and one by which Python 3
writes bytes in protocol 2. What an array holds is a part of the file, and must be as
long as its shape and type say. All memory is within a multiple of the file's size.
"""

from __future__ import annotations

import math
import pickletools
import re
from typing import Any, NamedTuple

import numpy as np

# Of the largest file there is, CIFAR-100's training, with 250,000: our choice.
_MAXIMAL_OPERATIONS = 4_000_000
_TYPE = re.compile(r"[|<>=]?[biuf][1248]")
_LONGEST_WORD = 64  # characters of a name or of a type
_MARK = object()

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_STRINGS = {"SHORT_BINSTRING", "BINSTRING"}  # Python 2's: bytes.
_NOTHING = {"PROTO", "FRAME"}
_PUT, _GET = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Damaged(ValueError):
    """A pickle that ends too soon, or that no batch of images needs."""


class _Name(NamedTuple):
    """A name that the file asks for; nothing is imported."""

    text: str


class _Type:
    """A numpy type, whose byte order comes after it."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, ""


class _Array:
    """An array, whose content comes after it."""

    content: np.ndarray | None = None


def load(content: bytes) -> dict[bytes, Any]:
    """Reads a pickled dict.

    Args:
        content: The file.

    Returns:
        Values by their keys: numpy arrays, lists, bytes, numbers.

    Raises:
        Damaged: it is cut off, asks for more than arrays and lists, or is no dict.
    """
    machine = _Machine(len(content))
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if count == _MAXIMAL_OPERATIONS:
                raise Damaged(f"it has more than {_MAXIMAL_OPERATIONS:,} operations")
            machine.do(operation.name, argument)
    except (IndexError, KeyError) as error:
        raise Damaged("an operation takes what is not there") from error
    except Damaged:
        raise
    except ValueError as error:  # of genops
        raise Damaged(str(error)) from error
    return machine.result()


class _Machine:
    """The stack and the memory of what was named."""

    def __init__(self, length: int) -> None:
        self._spare = length  # Bytes that may still be made of texts.
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> dict[bytes, Any]:
        """What is left at the end."""
        (found,) = self._stack[-1:] or [None]
        if not isinstance(found, dict):
            raise Damaged("it holds no dict")
        return {
            key: value.content if isinstance(value, _Array) else value
            for key, value in found.items()
        }

    def do(self, name: str, argument: Any) -> None:
        """One operation; the stack grows by one entry at most."""
        stack = self._stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _NUMBERS or name in _TEXTS:
            stack.append(argument)
        elif name in _BYTES:
            stack.append(bytes(argument))
        elif name in _STRINGS:
            stack.append(argument.encode("latin-1"))
        elif name in _PUT:
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in _GET:
            stack.append(self._memo[argument])
        elif name in _TUPLES:
            self._join(len(stack) - _TUPLES[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            self._join(self._mark(), marked=True)
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in {"APPEND", "APPENDS"}:
            self._taken(list, name == "APPENDS").extend(self._items)
        elif name in {"SETITEM", "SETITEMS"}:
            self._set_items(name == "SETITEMS")
        elif name == "GLOBAL":
            stack.append(_Name(_word(argument).replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            word, module = _word(stack.pop()), _word(stack.pop())
            stack.append(_Name(f"{module}.{word}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            made = _recognised(function, arguments)
            if isinstance(made, bytes):
                self._spare -= len(made)
                if self._spare < 0:
                    raise Damaged("it makes more bytes than it has")
            stack.append(made)
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name not in _NOTHING and name != "STOP":
            raise Damaged(f"it has the operation {name}, which a batch does not need")

    def _mark(self) -> int:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                return place
        raise Damaged("a mark is missing")

    def _join(self, start: int, marked: bool = False) -> None:
        if start < 0:
            raise IndexError
        self._stack[start:] = [tuple(self._stack[start + marked :])]

    def _taken(self, kind: type, several: bool) -> Any:
        """Takes items off the stack; returns what they are for, which is below."""
        start = self._mark() if several else len(self._stack) - (2 - (kind is list))
        self._items = self._stack[start + several :]
        del self._stack[start:]
        if not isinstance(self._stack[-1], kind):
            raise Damaged(f"items are added to what is no {kind.__name__}")
        return self._stack[-1]

    def _set_items(self, several: bool) -> None:
        target = self._taken(dict, several)
        keys = self._items[::2]
        if len(self._items) % 2 or not all(isinstance(key, bytes) for key in keys):
            raise Damaged("its keys are not all bytes")
        target.update(zip(keys, self._items[1::2], strict=True))


def _recognised(function: Any, arguments: Any) -> Any:
    """What a call of the file's stands for; it is not made."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise Damaged("it calls what is no function")
    name = function.text.replace("numpy._core.", "numpy.core.")
    if name == "numpy.core.multiarray._reconstruct":
        if arguments[:1] == (_Name("numpy.ndarray"),):
            return _Array()  # Its shape and content follow.
    elif name == "numpy.dtype":
        code = _word(arguments[0] if arguments else None)
        if _TYPE.fullmatch(code):
            return _Type(code)
    elif name == "numpy.core.numeric._frombuffer":
        if len(arguments) == 4 and arguments[3] == "C":
            array = _Array()
            array.content = _content(arguments[2], arguments[1], arguments[0])
            return array
    elif name == "_codecs.encode":
        if len(arguments) == 2 and arguments[1] in ("latin1", b"latin1"):
            text = arguments[0]
            if isinstance(text, str):
                return text.encode("latin-1")
    else:
        raise Damaged(
            f"it asks for {function.text}, which a batch of images does not need"
        )
    raise Damaged(f"it calls {function.text} with what a batch does not need")


def _build(target: Any, state: Any) -> None:
    """Fills a type or an array with what follows it."""
    if isinstance(target, _Type) and isinstance(state, tuple) and len(state) >= 2:
        target.order = _word(state[1])
    elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        _, shape, kind, is_fortran, data = state
        if is_fortran is not False:
            raise Damaged("an array is in Fortran's order")
        target.content = _content(shape, kind, data)
    else:
        raise Damaged("it sets the state of what has none")


def _content(shape: Any, kind: Any, data: Any) -> np.ndarray:
    """An array over bytes of the file, which must be as many as it needs."""
    if not isinstance(kind, _Type) or not isinstance(data, bytes):
        raise Damaged("an array has no type or no bytes")
    code = f"{kind.order}{kind.code.lstrip('|<>=')}" if kind.order else kind.code
    if not _TYPE.fullmatch(code):
        raise Damaged(f"an array is of the type {code!r}")
    if not isinstance(shape, tuple) or not all(
        type(size) is int and size >= 0 for size in shape
    ):
        raise Damaged("an array has no shape")
    try:
        numpy_type = np.dtype(code)
    except TypeError as error:
        raise Damaged(f"an array is of the type {code!r}") from error
    if len(shape) > 4 or math.prod(shape) * numpy_type.itemsize != len(data):
        raise Damaged(
            f"an array of shape {shape[:5]} and type {code} has {len(data)} bytes"
        )
    return np.frombuffer(data, numpy_type).reshape(shape)


def _word(value: Any) -> str:
    if not isinstance(value, (bytes, str)) or len(value) > _LONGEST_WORD:
        raise Damaged("a name is none")
    return value.decode("latin-1") if isinstance(value, bytes) else value
