"""Instance keys of our collectives: every exchange has a range of its own.

TensorFlow joins what replicas send under one key, and fixes shape and dtype by it. So
two exchanges must never share one, and all replicas must agree on it: ranges are given
in the order of first use, in which all replicas run the same program. TensorFlow counts
its own keys up from 100; ours come from the end of int32 downwards. A key is used again
at the next step, which costs nothing; every fresh one leaves some memory behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import NamedTuple

from tem_tf.capacity import LADDER

_LAST_KEY = 2**31 - 1
_KEYS_OF_A_RANGE = 2 * len(LADDER)  # The first collective of a gather, and the second.

# Of the process, since strategies of one process may share their groups.
_RANGES: dict[Use, int] = {}
_owners = itertools.count()


class Use(NamedTuple):
    """One use of collectives, with its range of keys.

    Attributes:
        owner: Who exchanges, from `new_owner`.
        what: What for.
    """

    owner: int
    what: tuple[Hashable, ...] = ()

    def of(self, *what: Hashable) -> Use:
        """A part of this use, with a range of its own."""
        return Use(self.owner, (*self.what, *what))

    def first_key(self) -> int:
        """The greatest key of the range; the others are the numbers below it."""
        number = _RANGES.setdefault(self, len(_RANGES))
        return _LAST_KEY - number * _KEYS_OF_A_RANGE


def new_owner() -> int:
    """A number that no other owner of this process has."""
    return next(_owners)
