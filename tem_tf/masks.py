"""Which entries of variables live in a pruned network: no others are exchanged."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_MOST = 2**31 - 1  # Positions are 32-bit integers.


class Masks:
    """Masks of some variables, checked; all entries of other variables live.

    False where all entries of all variables live.

    Args:
        masks: From a variable's path to an array of its shape, of bools or of zeros
            and ones; or what `to_config` returns. None: no masks.

    Raises:
        ValueError: it is something else.
    """

    def __init__(self, masks: Mapping[str, Any] | None):
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

    def __bool__(self) -> bool:
        return bool(self._live)

    def check(self, variables: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Checks that there are such variables.

        Args:
            variables: By path, shape and dtype.

        Raises:
            ValueError: there are not, or of other shapes.
        """
        for path, shape in self._shapes.items():
            if path not in variables:
                raise ValueError(
                    f"`masks` must name trained variables: {', '.join(variables)}. "
                    f"Received: {path!r}"
                )
            if variables[path][0] != shape:
                raise ValueError(
                    f"`masks[{path!r}]` must have the variable's shape "
                    f"{variables[path][0]}. Received: {shape}"
                )

    def live(self, paths: Sequence[str]) -> list[tf.Tensor | None]:
        """Of each variable the positions of its live entries; None: all live.

        Returns:
            int32 (live entries,), ascending.
        """
        return [self._live_of(path) for path in paths]

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


def _checked(path: Any, mask: Any) -> np.ndarray:
    """A mask as bools."""
    array = np.asarray(_unpacked(mask) if isinstance(mask, Mapping) else mask)
    is_one = array.dtype.kind in "biuf" and bool(np.isin(array, (0, 1)).all())
    if not isinstance(path, str) or not is_one or array.size > _MOST:
        raise ValueError(
            "`masks` must be a dict from variables' paths to arrays of zeros and ones, "
            f"of fewer than 2^31. Received: {path!r}: {repr(mask)[:80]}"
        )
    return array.astype(bool)


def _unpacked(mask: Mapping[str, Any]) -> np.ndarray | str:
    """The mask that `to_config` says; what is no mask where it says something else."""
    try:
        bits = np.frombuffer(zlib.decompress(base64.b64decode(mask["bits"])), np.uint8)
        size = int(np.prod(mask["shape"], dtype=int))
        return np.unpackbits(bits, count=size).reshape(mask["shape"])
    except (KeyError, TypeError, ValueError, zlib.error):
        return "not packed bits"
