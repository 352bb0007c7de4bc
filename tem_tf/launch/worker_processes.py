"""Worker processes as the launcher sees them: ports, output, ends.

Standard library only, like the launcher, so that it starts in a blink.
"""

import collections
import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from .events import Event, Events
from .first_failure import REQUEUE_CODE, Trace
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
    # By the monotonic clock.
    started: float = dataclasses.field(default_factory=time.monotonic)
    heard: float = 0.0  # When it last wrote a line.

    def __post_init__(self):
        self.trace = Trace(self.index)

    def signal_group(self, number: int) -> bool:
        """Signals the worker and all it has started; False if nobody is left."""
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):  # The latter on macOS.
            return False
        return True

    def end_at_once(self) -> None:
        """Kills it and all it has started; for one whose output nobody reads yet."""
        self.signal_group(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def signal_process(self, pid: int, number: int) -> None:
        """Signals one of its processes, unless that has ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


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


def watch(workers: list[Worker], events: Events, tensorflow_logs: bool) -> None:
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
        with pipe:
            for line in read_lines(pipe.fileno()):
                worker.heard = time.monotonic()
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
    if code == REQUEUE_CODE:
        return f"stopped on wish (exit code {code})"
    if code >= 0:
        return f"{'failed' if code else 'ended'} with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
