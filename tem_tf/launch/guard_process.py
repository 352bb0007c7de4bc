"""The guard's own program: waits for the launcher's end, then kills and removes.

Run as a file of its own by `Guard` in guard.py, with a pipe as its stdin that only the
launcher holds open. The pipe ends when the launcher does, however that happens. Its
lines are `group NUMBER`, once to watch a process group and again to forget it, and
`directory PATH`. What is not forgotten at the end is killed, and the folder removed.
"""

import contextlib
import os
import shutil
import signal
import sys


def main() -> None:
    """Reads until the launcher's end, then does what it could not do itself."""
    os.setsid()  # Ctrl-C and a kill of the launcher's group do not reach us.
    groups: set[int] = set()
    directory = None
    for line in sys.stdin.buffer:
        kind, _, text = line.rstrip(b"\n").partition(b" ")
        if kind == b"group":
            groups ^= {int(text)}
        else:
            directory = text
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
