"""What asks a run to stop where there is nothing of it to save: it leaves at once.

While a run trains, its checkpoint listens to these signals and saves
(`tem_tf.Stopped`). Before that, and once the last step is saved, the same command comes
as far again without this process, which leaves with the same exit code. By default the
signals would end it with another one, on which no scheduler starts it again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tem_studies import program
from tem_tf_run import load_part

# As `tem_tf.Checkpoint` has them, which is not imported: that takes seconds.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
REQUEUE_CODE = load_part("heartbeat").REQUEUE_CODE
_STDERR = 2


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """A block in which the signals end the process with REQUEUE_CODE.

    Those that somebody handles already are left to him.
    """
    _replace(signal.SIG_DFL, _leave)
    try:
        yield
    finally:
        _replace(_leave, signal.SIG_DFL)


@contextmanager
def left_to_the_checkpoint() -> Iterator[None]:
    """Within `leaving_at_once`, a block in which a checkpoint may listen instead."""
    ours = _replace(_leave, signal.SIG_DFL)
    try:
        yield
    finally:
        _replace(signal.SIG_DFL, _leave, ours)


def _replace(before, after, among: tuple[int, ...] = SIGNALS) -> tuple[int, ...]:
    """Gives those signals a new handler that have a certain one; returns them."""
    found = tuple(number for number in among if signal.getsignal(number) == before)
    for number in found:
        signal.signal(number, after)
    return found


def _leave(number: int, frame: FrameType | None) -> None:
    """Not by SystemExit: whatever runs now might wait for other workers, or go on."""
    del frame
    name = signal.Signals(number).name
    words = f"{program.name()}: {name}: the same command, started again, goes on\n"
    os.write(_STDERR, words.encode())
    os._exit(REQUEUE_CODE)
