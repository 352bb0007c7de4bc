"""What --help prints: the flags in groups, with unit and default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from tem_studies.flag_row import FlagRow
from tem_studies.quiet_start import HOW_TO_ASK

_KINDS = {str: "text", int: "integer", float: "number"}
_INDENTS = {
    "initial_indent": " " * 6,
    "subsequent_indent": " " * 6,
    "break_on_hyphens": False,  # Names of values have them.
}


def help_text(examples: str, groups: Mapping[str, Iterable[FlagRow]]) -> str:
    """The whole help.

    Args:
        examples: What comes first.
        groups: Flags by the title of their group.
    """
    lines = [examples]
    for group, rows in groups.items():
        lines.append(f"{group}:")
        for row in rows:
            lines += [f"  --{_form(row)}", _filled(row)]
        lines.append("")
    return "\n".join([*lines, HOW_TO_ASK])


def _form(row: FlagRow) -> str:
    if row.kind is bool:
        return f"[no]{row.name}"
    return f"{row.name} {_KINDS[row.kind]}{' ...' if row.takes_several else ''}"


def _filled(row: FlagRow) -> str:
    default = "" if row.default is None else f" Default: {row.default}."
    return textwrap.fill(row.text + default, 86, **_INDENTS)
