"""Variables of an environment, read and checked, and ports chosen by them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

PORT = "TEM_TF_PORT"
# Ports that we choose lie in [12000, 32000): above those of most services (SLURM's are
# 6817 to 6819), below those that Linux gives to outgoing connections (32768 and up).
_LOWEST_PORT = 12_000
_NUMBER_OF_PORTS = 20_000
_LEAST_WIDTH = 16  # Ports of a job on one node; neighbours begin so far apart.


def number(
    environ: Mapping[str, str],
    name: str,
    source: str,
    least: int = 0,
    most: int = 10**9,
) -> int:
    """A variable's whole number.

    Args:
        environ: The environment's variables.
        name: Of the variable.
        source: Whose it is, for the error.
        least: The lowest value allowed.
        most: The highest.

    Raises:
        ValueError: it is not set, or no such number.
    """
    text = environ.get(name, "")
    if not (text.isascii() and text.isdecimal() and least <= int(text[:20]) <= most):
        raise ValueError(
            f"`{name}` in {source} must be a whole number in [{least}, {most}]. "
            f"Received: {name}={environ.get(name)!r}"
        )
    return int(text)


def text(environ: Mapping[str, str], name: str, source: str, advice: str = "") -> str:
    """A variable's text.

    Raises:
        ValueError: it is not set.
    """
    found = environ.get(name, "")
    if not found:
        raise ValueError(
            f"`{name}` must be set in {source}. Received: {name}="
            f"{environ.get(name)!r}.{advice and ' ' + advice}"
        )
    return found


def first_port(environ: Mapping[str, str], key: str, turn: int, width: int) -> int:
    """The first of the ports on which a job's workers on one node listen.

    All of a job's processes find the same without asking one another. Jobs whose keys
    are neighbouring numbers, and turns of one job, get ports of their own.

    Args:
        environ: Where TEM_TF_PORT, if set, is the first port.
        key: Names the job: a number, or any text.
        turn: Which of the job's steps and restarts this is.
        width: How many workers a node has at most.

    Raises:
        ValueError: TEM_TF_PORT is no port, or too high for so many workers.
    """
    if environ.get(PORT):
        return number(environ, PORT, "the environment", 1, 2**16 - width)
    width = max(width, _LEAST_WIDTH)
    slots = max(_NUMBER_OF_PORTS // width, 1)
    job = int(key) if key.isascii() and key.isdecimal() else zlib.crc32(key.encode())
    # A prime, so that a restart lies far from the jobs that were submitted next.
    return _LOWEST_PORT + (job + 389 * turn) % slots * width
