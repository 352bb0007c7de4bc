"""Which entries of variables live in a pruned network: no others are exchanged."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_MOST = 2**31 - 1  # Positions are 32-bit integers.


class Masks:
    """Masks of some variables, checked; all entries of other variables live.

    False where all entries of all variables live.

    Args:
        masks: From a variable's path to an array of its shape, of bools or of zeros
            and ones; or what `to_config` returns; or masks. None: no masks.

    Raises:
        ValueError: it is something else.
    """

    def __init__(self, masks: Masks | Mapping[str, Any] | None):
        if isinstance(masks, Masks):
            masks = masks.to_config()
        masks = {} if masks is None else masks
        if not isinstance(masks, Mapping):
            raise ValueError(
                "`masks` must be a dict from variables' paths to arrays. "
                f"Received: masks={masks!r}"
            )
        found = {path: _checked(path, mask) for path, mask in masks.items()}
        self._shapes = {path: mask.shape for path, mask in found.items()}
        self._live = {
            path: np.flatnonzero(mask).astype(np.int32)
            for path, mask in found.items()
            if not mask.all()
        }
        self._tensors: dict[str, tf.Tensor] = {}
        self._meant: dict[str, str] = {}  # From variables' paths to those of masks.

    def __bool__(self) -> bool:
        return bool(self._live)

    def check(self, variables: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Checks that there are such variables, and notes which are meant.

        A model that is loaded has other paths than before: Keras leaves out, or adds,
        the model's own name.

        Args:
            variables: By path, shape and dtype.

        Raises:
            ValueError: there are not, or of other shapes.
        """
        for path, shape in self._shapes.items():
            meant = [path] if path in variables else _ending_as(path, variables)
            if len(meant) != 1:
                raise ValueError(
                    f"`masks` must name trained variables: {', '.join(variables)}. "
                    f"Received: {path!r}"
                )
            if variables[meant[0]][0] != shape:
                raise ValueError(
                    f"`masks[{path!r}]` must have the variable's shape "
                    f"{variables[meant[0]][0]}. Received: {shape}"
                )
            self._meant[meant[0]] = path

    def live(self, paths: Sequence[str]) -> list[tf.Tensor | None]:
        """Of each variable the positions of its live entries; None: all live.

        Returns:
            int32 (live entries,), ascending.
        """
        return [self._live_of(self._meant.get(path, path)) for path in paths]

    def _live_of(self, path: str) -> tf.Tensor | None:
        if path not in self._live:
            return None
        if path not in self._tensors:
            with tf.init_scope():  # No constant of any graph.
                self._tensors[path] = tf.constant(self._live[path])
        return self._tensors[path]

    def words(self, before: str = "") -> str:
        """How many entries live, for people to read; "" where all do.

        Args:
            before: What the words follow.
        """
        if not self:
            return ""
        of = f"of {sum(np.prod(self._shapes[p], dtype=int) for p in self._live):,}"
        count = sum(map(len, self._live.values()))
        return f"{before}masks: {count:,} {of} entries of {len(self._live)} variables"

    def __repr__(self) -> str:
        """With a digest, as workers are compared by it."""
        digest = hashlib.sha256()
        for path in sorted(self._live):
            digest.update(f"{path} {self._shapes[path]}".encode())
            digest.update(self._live[path].tobytes())
        return f"Masks({self.words()}, {digest.hexdigest()[:16]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masks) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def to_config(self) -> dict[str, Any] | None:
        """What JSON can hold: of each mask its shape, and its bits, deflated.

        Not `get_config`: by that objects are compared between workers, as texts.
        """
        return {
            path: {"shape": list(self._shapes[path]), "bits": self._bits(path)}
            for path in self._live
        } or None

    def _bits(self, path: str) -> str:
        mask = np.zeros(self._shapes[path], bool)
        mask.reshape(-1)[self._live[path]] = True
        return base64.b64encode(zlib.compress(np.packbits(mask).tobytes())).decode()


def _ending_as(path: str, variables: Iterable[str]) -> list[str]:
    """Paths of which one is the other's end.

    >>> _ending_as("model/dense/kernel", ["dense/kernel", "dense_1/kernel"])
    ['dense/kernel']
    """
    return [
        name
        for name in variables
        if name.endswith(f"/{path}") or path.endswith(f"/{name}")
    ]


def _checked(path: Any, mask: Any) -> np.ndarray:
    """A mask as bools.

    Raises:
        ValueError: it is none.
    """
    try:
        array = _unpacked(mask) if isinstance(mask, Mapping) else np.asarray(mask)
        # "V" is bfloat16 and the like.
        is_number = isinstance(path, str) and array.dtype.kind in "biufV"
        values = array.astype(np.float32) if array.dtype.kind == "V" else array
        if is_number and array.size <= _MOST and np.isin(values, (0, 1)).all():
            return values.astype(bool)
    except (KeyError, TypeError, ValueError, zlib.error):
        pass
    raise ValueError(
        "`masks` must be a dict from variables' paths to arrays of zeros and ones, of "
        f"fewer than 2^31. Received: {path!r}: {' '.join(repr(mask).split())[:80]}"
    )


def _unpacked(mask: Mapping[str, Any]) -> np.ndarray:
    """The mask that `to_config` says.

    Raises:
        KeyError, TypeError, ValueError, zlib.error: it says something else.
    """
    bits = np.frombuffer(zlib.decompress(base64.b64decode(mask["bits"])), np.uint8)
    size = int(np.prod(mask["shape"], dtype=int))
    if bits.size != -(-size // 8):
        raise ValueError(f"{bits.size} bytes are no mask of {size} entries")
    return np.unpackbits(bits, count=size).reshape(mask["shape"])
