"""One flag as data."""

from __future__ import annotations

from typing import NamedTuple


class FlagRow(NamedTuple):
    """One flag.

    Attributes:
        name: Without dashes.
        kind: str, int, float or bool, of a value.
        default: Without the flag.
        text: Its help, with the unit.
        takes_several: Whether several values may follow the flag.
        may_repeat: Whether the flag may be given several times.
        is_setting: Whether it is a setting of what is run, to be found in its results;
            else it says what the command may do.
    """

    name: str
    kind: type
    default: str | int | float | bool | None
    text: str
    takes_several: bool = False
    may_repeat: bool = False
    is_setting: bool = True
