"""Flags that were given and that nothing would use, as other settings stand.

They are looked for among what the user typed: one that is given at its default has no
effect either. A file of settings may hold some, since plans are shared. Settings
themselves are checked in `configuration.py` of each room, by their values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from tem_studies.refusal import Refusal


class Use(NamedTuple):
    """When flags have an effect.

    Attributes:
        names: The flags.
        setting: What they depend on.
        values: With which of its values they have an effect, or with one of which, if
            it has several; none: with any but those that are empty, as None.
    """

    names: tuple[str, ...]
    setting: str
    values: tuple[str, ...] = ()

    def is_met(self, settings: Mapping[str, Any]) -> bool:
        """Whether they have an effect."""
        value = settings.get(self.setting)
        if not self.values:
            return value not in (None, False, ())
        several = isinstance(value, tuple | list)
        return not {*self.values}.isdisjoint(value if several else (value,))

    def words(self, name: str, settings: Mapping[str, Any]) -> str:
        """What is wrong with one of them."""
        if not self.values:
            return (
                f"`{name}` has no effect without `{self.setting}`. Leave --{name} out "
                f"or pass --{self.setting}."
            )
        value = settings.get(self.setting)
        value = ",".join(value) if isinstance(value, tuple | list) else value
        return (
            f"`{name}` has no effect with `{self.setting}` {value}. Leave --{name} out "
            f"or pass --{self.setting} {' or '.join(self.values)}."
        )


# Of a training, in whatever it is part of.
OF_TRAINING = (
    Use(("momentum",), "optimizer", ("momentum", "nesterov")),
    Use(("beta_1", "beta_2", "epsilon"), "optimizer", ("adam", "adamw")),
    Use(
        ("decay_steps", "end_learning_rate_factor"), "decay_type", ("linear", "cosine")
    ),
    Use(("learning_rate_warmup_factor",), "learning_rate_warmup_epochs"),
)
# Of one run alone.
OF_RUN = (
    *OF_TRAINING,
    Use(("check_interval_arrival",), "goal_error"),
    Use(("overwrite",), "logdir"),
    Use(("prompt",), "sample_characters"),
)


def require_used(
    given: Collection[str], settings: Mapping[str, Any], uses: Iterable[Use]
) -> None:
    """Checks that what was given has an effect.

    Args:
        given: Names of the flags on the command line.
        settings: All that the rules ask for, by name.
        uses: The rules.

    Raises:
        Refusal: naming a flag that has none, and with which setting.
    """
    for use in uses:
        for name in use.names:
            if name in given and not use.is_met(settings):
                raise Refusal(use.words(name, settings))


def require_none(given: Collection[str], names: Iterable[str], words: str) -> None:
    """Checks that none of some flags was given.

    Args:
        given: Names of the flags on the command line.
        names: Of those that have no effect.
        words: Where they have none, and why.

    Raises:
        Refusal: naming the first one.
    """
    for name in names:
        if name in given:
            raise Refusal(f"`{name}` has no effect {words} Leave --{name} out.")
