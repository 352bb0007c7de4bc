"""The program as its user meets it: its name, exit codes, end of output."""

from __future__ import annotations

import os
import sys

INSTALLED_NAME = "tem-tf"
# As shells have it: 128 and the number of SIGPIPE, SIGINT.
PIPE_CLOSED, INTERRUPTED = 141, 130

# What sys.argv[0] is without a name that a user typed: of `python -m`, `python -c`.
_NAMELESS = ("", "-m", "-c", "__main__.py", "command_line.py")


def name(path: str | None = None) -> str:
    """The program's name in messages: main.py, or as it is installed.

    Args:
        path: How it was started. Default: `sys.argv[0]`, which processes that it starts
            have too.

    >>> name("/somewhere/main.py"), name("/usr/bin/tem-tf"), name("-c")
    ('main.py', 'tem-tf', 'tem-tf')
    """
    found = os.path.basename(sys.argv[0] if path is None else path)
    return INSTALLED_NAME if found in _NAMELESS else found


def command(path: str | None = None) -> str:
    """What a user types to start it.

    >>> command("/somewhere/main.py"), command("/usr/bin/tem-tf")
    ('python main.py', 'tem-tf')
    """
    found = name(path)
    return f"python {found}" if found.endswith(".py") else found


def close_output() -> None:
    """Sends all further output nowhere, once nobody reads it.

    Python flushes at its end, and would report the closed pipe again.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
