"""Checks of numbers that configurations share, with the wording of their errors."""

from __future__ import annotations

from typing import Any

from tem_studies.refusal import Refusal


class Checked:
    """A configuration whose settings are checked by name; each check may raise."""

    def _integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise Refusal(
                f"`{name}` must be an integer of at least {least}. "
                f"Received: {name}={value!r}."
            )

    def _number(self, name: str, rule: str, holds: Any, advice: str = "") -> None:
        value = getattr(self, name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not holds(value):  # NaN fails every comparison
            message = f"`{name}` must be a number {rule}. Received: {name}={value!r}."
            raise Refusal(f"{message} {advice}".rstrip())
