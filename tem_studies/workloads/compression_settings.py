"""Which settings a compressor and a memory have, of those that `main.py` takes.

This file imports no TensorFlow, so that a wrong flag is refused at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tem_studies.refusal import Refusal
from tem_studies.workloads.compression_rows import COMPRESSOR_ROWS, MEMORY_ROWS

# name -> (settings it must have, settings it may have)
Settings = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]

COMPRESSOR_SETTINGS: Settings = {
    name: (row.needs, row.takes) for name, row in COMPRESSOR_ROWS.items()
}
MEMORY_SETTINGS: Settings = {
    name: (row.needs, row.takes) for name, row in MEMORY_ROWS.items()
}
# All that some compressor, and some memory, has.
OF_COMPRESSORS = tuple(
    dict.fromkeys(
        setting
        for row in COMPRESSOR_ROWS.values()
        for setting in row.settings
        if not setting.startswith("memory_")
    )
)
OF_MEMORIES = tuple(
    dict.fromkeys(x for row in MEMORY_ROWS.values() for x in row.settings)
)


def check_settings_of(configuration: Any, kind: str, settings: Settings) -> None:
    """Raises if a setting is missing, or given for something else.

    Args:
        configuration: Has the settings as attributes, None if they are not given.
        kind: "compressor" or "memory", itself an attribute; None has no settings.
        settings: Of all of that kind.

    Raises:
        Refusal: naming the setting and what to pass instead.
    """
    chosen = getattr(configuration, kind)
    required, optional = settings.get(chosen, ((), ()))
    for name in required:
        if getattr(configuration, name) is None:
            raise Refusal(
                f"`{kind}` {chosen} needs `{name}`. Received: {name}=None. "
                f"Pass --{name}."
            )
    row = COMPRESSOR_ROWS.get(configuration.compressor)
    if kind == "memory" and row is not None:  # It may have a memory of its own.
        optional = (*optional, *row.takes)
    every = {name for row in settings.values() for part in row for name in part}
    for name in sorted(every - {*required, *optional}):
        given = getattr(configuration, name)
        if given is None or (kind == "compressor" and name.startswith("memory_")):
            continue
        takers = [key for key, row in settings.items() if name in row[0] + row[1]]
        raise Refusal(
            f"`{name}` is not a setting of `{kind}` {chosen}. Received: "
            f"{name}={given!r}. Leave --{name} out or pass "
            f"--{kind} {' or '.join(takers)}."
        )


def read_counts(path: str) -> list[int]:
    """Reads a list of k_t: a text file with one integer per line, step by step.

    Raises:
        Refusal: naming the line that is none, or the file if it cannot be read.
    """
    rule = "`counts` must be a file with one integer in [0, 2**31) per line."
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{rule} Received: counts={path!r} ({error}).") from error
    if not lines:
        raise Refusal(f"{rule} Received: counts={path!r}, which is empty.")
    counts = []
    for number, line in enumerate(lines, 1):
        word = line.strip()  # Of more than what int() passes over.
        # Its length first: Python refuses to read integers of thousands of digits.
        if not word.isdecimal() or len(word) > 10 or int(word) >= 2**31:
            shown = repr(line[:60])
            raise Refusal(f"{rule} Received: {shown} in line {number} of {path}.")
        counts.append(int(word))
    return counts
