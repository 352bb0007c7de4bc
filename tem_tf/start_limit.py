"""TensorFlow's own start: bounded in time, and without lasting effect on signals.

While it joins the cluster, for a second or two, TensorFlow holds Python's lock, so that
no thread of this process can end the wait, and it puts a handler in SIGTERM's place
that notes the signal and lets the training go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

# A process beside this one: it ends when its stdin does, and that is when this one has
# started or is gone.
_GUARD = """
import os, select, signal, sys
parent, seconds, words = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
if not select.select([0], [], [], seconds)[0] and os.getppid() == parent:
    print(words, file=sys.stderr, flush=True)
    os.kill(parent, signal.SIGKILL)
"""


@contextlib.contextmanager
def limited(seconds: float, words: str) -> Iterator[None]:
    """Kills this process if the `with` block takes longer, after a line on stderr.

    Args:
        seconds: How long it may take.
        words: The line.
    """
    command = [sys.executable, "-I", "-S", "-c", _GUARD]
    command += [str(os.getpid()), str(seconds), words]
    guard = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us.
    )
    try:
        yield
    finally:
        assert guard.stdin is not None  # For the type checker.
        guard.stdin.close()
        guard.wait()


@contextlib.contextmanager
def termination_kept() -> Iterator[None]:
    """What SIGTERM did before the `with` block it does after it.

    One that comes within it may be lost: holding it back would take all threads of the
    process, of which some are TensorFlow's. Only in the main thread, which alone may
    set handlers; elsewhere nothing is done.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and handler is not None:
            signal.signal(signal.SIGTERM, handler)
