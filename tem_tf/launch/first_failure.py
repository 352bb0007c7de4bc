"""Which worker failed first: its end is the cause, those of the others follow from it.

A worker that is in a collective with one that has died fails too, with an error that
names the other, and may well have ended before a worker that raised an exception is
through with its shutdown. So the order of the ends decides only between workers whose
stderr does not tell that they had lost another one.
"""

import dataclasses
import re
import signal

from tem_tf_run import load_part

heartbeat = load_part("heartbeat")
REQUEUE_CODE: int = heartbeat.REQUEUE_CODE
# What TensorFlow raises where a collective or a call of another worker fails.
ERRORS_OF_CALLS = {
    *("AbortedError", "CancelledError", "DeadlineExceededError"),
    *("FailedPreconditionError", "InternalError", "UnavailableError", "UnknownError"),
}
# Signals by which a program ends itself. Of the errors that follow from another
# worker's death some are fatal, and a shutdown without the others may crash.
CRASHES = {
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV),
}
LOST = re.compile(
    r"(?:Additional GRPC error information from remote target |"
    r"(?:.*: )?Error reported from )/job:worker/(?:replica:\d+/)?task:(?P<index>\d+)\b"
)
TRACEBACK = "Traceback (most recent call last):"
EXCEPTION = re.compile(r"(?:\w+\.)*(?P<name>\w+)(?::|$)")


class Trace:
    """What one worker's stderr tells about why it ends, read line by line.

    Attributes:
        lost: The index of the first other worker that it found gone, or None.
        own_error: Whether its latest traceback is of an exception that does not
            follow from the loss of another worker.
    """

    def __init__(self, index: int):
        self.lost: int | None = None
        self.own_error = False
        self._index = index
        self._in_traceback = False
        self._follows = False  # Whether it began after the loss of another worker.
        self._before = ""

    def read(self, line: str, of_tensorflow: bool) -> None:
        """Takes the next line; TensorFlow's own may come in between a traceback's."""
        if self.lost is None and (lost := LOST.match(line)):
            index = int(lost["index"])
            # A worker may be told of an error of its own.
            self.lost = None if index == self._index else index
        if of_tensorflow:
            return
        if line == TRACEBACK:
            # "Exception ignored in ...": in a destructor, as the interpreter ends.
            self._in_traceback = not self._before.startswith("Exception ignored ")
            self._follows = self.lost is not None
        elif self._in_traceback and line[:1].strip():  # Neither indented nor empty.
            self._in_traceback = False
            exception = EXCEPTION.match(line)
            name = exception["name"] if exception else ""
            self.own_error = not self._follows and name not in ERRORS_OF_CALLS
        self._before = line


@dataclasses.dataclass(frozen=True)
class End:
    """How a worker ended.

    Attributes:
        index: The worker's.
        code: Its exit code, -n for signal n.
        seconds: From the start of all workers.
        asked: Whether it ended after the launcher had asked it to.
        lost: The other worker from whose loss this end follows, or None.
    """

    index: int
    code: int
    seconds: float
    asked: bool
    lost: int | None

    @classmethod
    def of(cls, index: int, code: int, seconds: float, asked: bool, trace: Trace):
        """The end of a worker with this trace."""
        killed = code < 0 and -code not in CRASHES
        lost = None if killed or trace.own_error else trace.lost
        return cls(index, code, seconds, asked, lost)

    @property
    def failed(self) -> bool:
        """Whether it failed by itself."""
        return self.code not in (0, REQUEUE_CODE) and not self.asked

    @property
    def stopped(self) -> bool:
        """Whether it stopped on wish and says that its state is saved."""
        return self.code == REQUEUE_CODE


def causes(ends: list[End]) -> list[End]:
    """The failures that do not follow from others, the first one first."""
    own = (end for end in ends if end.failed and end.lost is None)
    return sorted(own, key=lambda end: end.seconds)


def awaited(ends: list[End], running: set[int]) -> set[int]:
    """Workers that others have lost and that run: one of them may be the cause."""
    return {end.lost for end in ends if end.failed and end.lost is not None} & running
