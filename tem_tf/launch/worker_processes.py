"""Worker processes as the launcher sees them: ports, output, ends, and their guard.

Standard library only, like the launcher, so that it starts in a blink.
"""

import collections
import contextlib
import dataclasses
import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from .first_failure import Trace
from .log_lines import LogLines

HOST = "127.0.0.1"
# Twenty lines hold a Python traceback's end, which is what one looks for first.
LAST_LINES = 20
# Between a worker's end and that of its output: what it has written is there to be
# read, and only what it has started, and left, can hold the pipe open for longer.
OUTPUT_SECONDS = 0.5


def reserve_ports(count: int, base_port: int | None = None) -> list[int]:
    """Finds loopback ports that are free now.

    All of them are bound at once before any is released, so that no two workers are
    given the same one.

    Args:
        count: How many.
        base_port: The first of `count` consecutive ports; the system chooses if None.

    Raises:
        ValueError: A port of the range is in use or does not exist.
    """
    if base_port is None:
        wanted = [0] * count
    else:
        wanted = list(range(base_port, base_port + count))
        if base_port < 1 or wanted[-1] > 65535:
            raise ValueError(
                f"`--base_port` must leave room for {count} ports in 1..65535. "
                f"Received: {base_port}"
            )
    with contextlib.ExitStack() as bound:
        ports = []
        for port in wanted:
            try:
                each = bound.enter_context(socket.socket())
                # Ports of connections that have just ended (TIME_WAIT) count as free;
                # one that somebody listens on is refused all the same.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                each.bind((HOST, port))
            except OSError as error:
                raise ValueError(
                    f"Port {port} cannot be used ({error.strerror}). Choose another "
                    "`--base_port`, or leave the flag out to have free ports found."
                ) from error
            ports.append(each.getsockname()[1])
        return ports


@dataclasses.dataclass
class Worker:
    """One started process, the leader of its own process group."""

    index: int
    process: subprocess.Popen
    # Without those that TensorFlow writes for itself.
    last_lines: collections.deque = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=LAST_LINES)
    )
    readers: list[threading.Thread] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.trace = Trace(self.index)

    def signal_group(self, number: int) -> bool:
        """Signals the worker and all it has started; False if nobody is left."""
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):  # The latter on macOS.
            return False
        return True


@dataclasses.dataclass(frozen=True)
class Event:
    """What wakes the launcher: a worker's end, a signal, or a closed stdout."""

    kind: str  # "exit", "signal" or "closed output"
    worker: Worker | None = None
    number: int = 0  # the exit code (-n for signal n) or the signal
    time: float = 0.0  # of an exit, by the monotonic clock


class Guard:
    """The process that kills the workers if the launcher itself is killed.

    It reads process groups from a pipe that only the launcher holds open. The pipe
    ends when the launcher does, however that happens; what is not forgotten by then
    is killed. (Linux's PR_SET_PDEATHSIG would reach the workers, but not what they
    have started, as in `-- bash -c "python main.py; ..."`.)
    """

    def __init__(self):
        read_end, self._write_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._write_end)
                self._serve(read_end)
            finally:
                os._exit(0)
        os.close(read_end)

    @staticmethod
    def _serve(read_end: int) -> None:
        os.setsid()  # Ctrl-C and a kill of the launcher's group do not reach us.
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # Whoever reads our output waits for its end.
            os.dup2(silence, descriptor)
        groups: set[int] = set()
        with os.fdopen(read_end, "rb") as pipe:
            for line in pipe:
                groups ^= {int(line)}  # Named once: watch. Named again: forget.
        for group in groups:
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)

    def toggle(self, group: int) -> None:
        """Starts or ends watching a process group.

        A guard that was killed watches nothing any more, and the run goes on without.
        """
        with contextlib.suppress(BrokenPipeError):
            os.write(self._write_end, b"%d\n" % group)

    def close(self) -> None:
        """Ends the guard."""
        os.close(self._write_end)
        os.waitpid(self._pid, 0)


def read_lines(descriptor: int) -> Iterator[bytes]:
    """Yields lines without their ends as they come; a progress line's CR ends one."""
    rest, after_return = b"", False
    while piece := os.read(descriptor, 65536):
        if after_return:  # The CR and LF of one line's end came in two pieces.
            piece = piece.removeprefix(b"\n")
        after_return = piece.endswith(b"\r")
        *parts, last = re.split(rb"(\r\n|\n|\r)", piece)
        for text, end in zip(parts[::2], parts[1::2], strict=True):
            # A progress bar that begins with a CR has not written an empty line.
            if rest or text or end != b"\r":
                yield rest + text
            rest = b""
        rest += last
    if rest:
        yield rest


def write_line(descriptor: int, line: bytes) -> None:
    """Writes a line at once, past Python's buffers; raises OSError if nobody reads."""
    line += b"\n"
    while line:
        line = line[os.write(descriptor, line) :]


def say(text: str) -> None:
    """Writes a line of the launcher's own to stderr."""
    with contextlib.suppress(OSError):  # The exit code still says it.
        write_line(2, f"[launcher] {text}".encode())


def watch(
    workers: list[Worker], events: queue.SimpleQueue, tensorflow_logs: bool
) -> None:
    """Starts the threads that copy the workers' output and wait for their ends.

    Args:
        workers: All that have been started.
        events: Where ends and a closed output are told.
        tensorflow_logs: Whether the lines that TensorFlow writes for itself are copied.
    """
    lock = threading.Lock()  # One for all: stdout and stderr may be one terminal.

    def copy(worker: Worker, pipe: BinaryIO, out: int) -> None:
        listening = True
        logs = LogLines()
        for line in read_lines(pipe.fileno()):
            text = line.decode(errors="replace")
            is_log = False
            if out == 2:  # What is on stdout was written by the program.
                is_log = logs.recognise(text)
                worker.trace.read(text, is_log)
            if not is_log:
                worker.last_lines.append(text)
            elif not tensorflow_logs:
                continue
            try:
                if listening:
                    with lock:
                        write_line(out, b"[worker %d] %s" % (worker.index, line))
            except OSError:
                # Read on: a worker blocked on a full pipe could not end.
                listening = False
                events.put(Event("closed output", number=signal.SIGPIPE))

    def wait(worker: Worker) -> None:
        code = worker.process.wait()
        ended = time.monotonic()
        # The last words of one that failed tell why.
        for reader in worker.readers if code else ():
            reader.join(timeout=max(0, ended + OUTPUT_SECONDS - time.monotonic()))
        events.put(Event("exit", worker, code, ended))

    for worker in workers:
        for pipe, out in ((worker.process.stdout, 1), (worker.process.stderr, 2)):
            reader = threading.Thread(
                target=copy, args=(worker, pipe, out), daemon=True
            )
            worker.readers.append(reader)
            reader.start()
        threading.Thread(target=wait, args=(worker,), daemon=True).start()


def describe(code: int) -> str:
    """A process's end in words, for example "was ended by SIGKILL"."""
    if code >= 0:
        return f"{'failed' if code else 'ended'} with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
