"""Where the workers of a cluster meet before TensorFlow starts.

TensorFlow's own start waits in silence, on the chief for an hour, with Python's lock
held and signals swallowed. So it begins only once all are there. On its own address,
whose port TensorFlow takes over afterwards, each worker

1. listens, and calls every other worker until it answers;
2. says who it is and which cluster it belongs to, and hears the same (`hello`);
3. once all have answered, says so to all of them (`ready`);
4. once all have said so, takes its leave (`go`) and closes its port.

A connection that ends before `go` takes back what came through it. So nobody goes on
before all are there, and one that dies meanwhile is missed by all others, until it
comes again. Lines are JSON. Nothing in them is executed, and what is no hello is hung
up on; but a hello is believed, as TensorFlow's server believes everybody afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable

from tem_tf.cluster import Task, split_address

SECONDS_BETWEEN_LINES = 30.0
_PROTOCOL = 1
_LONGEST_LINE = 2**20  # Bytes; a hello holds the whole cluster.
_SECONDS_TO_ANSWER = 10.0
_SECONDS_BETWEEN_CALLS = 0.5
_SECONDS_TO_END = 2.0
_NOT_CALLED = "not called yet"
_NO_HELLO = (
    "what listens there does not answer as a tem_tf worker that starts: one that "
    "hangs, another program, TensorFlow's own strategy, or an earlier run"
)


def listen(address: str, source: str = "TF_CONFIG") -> socket.socket:
    """Opens this worker's port, on all interfaces as TensorFlow will.

    Args:
        address: This worker's.
        source: Where it is from, for the error.

    Raises:
        OSError: it cannot be opened.
    """
    _, port = split_address(address)
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        return socket.create_server(("", port))
    except OSError as error:
        raise OSError(
            f"This worker's port in {source} must be free. Received: {address!r}, "
            f"and port {port} cannot be opened: {error.strerror}. Does an earlier "
            f"run still hold it?"
        ) from None


def meet(task: Task, seconds: float, say: Callable[[str], None] | None = None) -> None:
    """Returns when all workers of the cluster are there.

    Args:
        task: This process's.
        seconds: How long to wait for the others.
        say: Takes a line that names who is missing, every `SECONDS_BETWEEN_LINES`.
            Default: it is written to stderr.

    Raises:
        OSError: this worker's port cannot be opened.
        TimeoutError: somebody is still missing; it says who, and why.
        ValueError: a worker belongs to another cluster, or has another's place.
    """
    meeting = _Meeting(task, listen(task.address, task.source))
    # In a thread of its own: the caller's may run an event loop (as notebooks do), and
    # waits here where a signal reaches it.
    thread = threading.Thread(target=meeting.run, daemon=True, name="tem_tf rendezvous")
    thread.start()
    say = say or _to_stderr
    began = time.monotonic()
    try:
        while not meeting.over.wait(
            min(SECONDS_BETWEEN_LINES, max(0.0, began + seconds - time.monotonic()))
        ):
            waited = time.monotonic() - began
            if waited >= seconds:
                raise TimeoutError(
                    f"After {seconds:g} s (`start_seconds`) not all workers are "
                    f"there. Missing: {meeting.missing()}. Start every worker with "
                    f"the same cluster, here that of {task.source}, but its own index, "
                    "and see that each can reach the others' addresses (firewalls, "
                    "host names, ports)."
                )
            say(
                f"tem_tf: {task.name} has waited {waited:.0f} of at most "
                f"{seconds:g} s for {meeting.missing()}"
            )
    finally:
        meeting.end()
        thread.join(_SECONDS_TO_END)
    if meeting.error is not None:
        raise meeting.error


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Meeting:
    """One worker's view of who is there; all but `missing` and `end` in its thread."""

    def __init__(self, task: Task, listener: socket.socket):
        self.over = threading.Event()
        self.error: Exception | None = None
        self._task, self._listener = task, listener
        self._others = {n: a for n, a in task.addresses.items() if n != task.name}
        # Why each has not answered yet; one that has is not in here.
        self._silent = dict.fromkeys(self._others, _NOT_CALLED)
        self._callers: dict[str, asyncio.StreamWriter] = {}
        self._told: set[str] = set()  # Whom we have told that all have answered us.
        # Whom all have answered, as they say, and by which connection.
        self._ready: dict[str, asyncio.StreamWriter] = {}
        self._gone: set[str] = set()  # Who has taken its leave.
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Event()

    def missing(self) -> str:
        """Who is not there, with the address and the reason, in words."""
        silent = [
            f"{name} at {self._others[name]} ({reason})"
            for name, reason in list(self._silent.items())
        ]
        waiting = [n for n in self._others if n not in {*self._silent, *self._ready}]
        if silent or not waiting:
            return ", ".join(silent)
        return f"what {', '.join(waiting)} wait for"

    def end(self) -> None:
        """Closes all; from another thread."""
        self._ended.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # It is closed already.
                self._loop.call_soon_threadsafe(self._changed.set)

    def run(self) -> None:
        """The thread's body."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        try:
            await self._meet()
        except Exception as error:  # For the caller's thread.
            self.error = error
        finally:
            # Not after the loop's end, which a hanging look-up of a name delays.
            self._listener.close()
            self.over.set()

    async def _meet(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Of connections that fail before they say anything, as by too many of them.
        self._loop.set_exception_handler(lambda *_: None)
        server = await asyncio.start_server(
            self._answer, sock=self._listener, limit=_LONGEST_LINE
        )
        calls = [asyncio.create_task(self._call(name)) for name in self._others]
        try:
            # All have said it to us, and we to all but those who have gone: they had
            # heard it. A connection that has ended counts for neither.
            everybody = set(self._others)
            while everybody - {*self._ready} or everybody - self._told - self._gone:
                if self.error is not None or self._ended.is_set():
                    return
                self._changed.clear()
                await self._changed.wait()
            for writer in self._callers.values():
                _send(writer, {"go": True})
        finally:
            server.close()
            for call in calls:
                call.cancel()
            for writer in list(self._callers.values()):
                writer.close()
                await _within(writer.wait_closed(), 1.0)

    async def _call(self, name: str) -> None:
        """Calls one worker, again after each end, unless it has taken its leave."""
        while True:
            try:
                if name not in self._gone:
                    await self._hold(name)
            except Exception as error:  # A name, too, can be wrong in many ways.
                if name not in self._gone:
                    self._silent[name] = _reason(error)
            self._callers.pop(name, None)
            self._told.discard(name)
            self._changed.set()
            await asyncio.sleep(_SECONDS_BETWEEN_CALLS)

    async def _hold(self, name: str) -> None:
        """One connection to a worker, until it ends."""
        host, port = split_address(self._others[name])
        if self._silent.get(name) == _NOT_CALLED:
            self._silent[name] = "its name is being looked up, or it is being called"
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(host, port, limit=_LONGEST_LINE), _SECONDS_TO_ANSWER
        )
        try:
            # On one machine the system may connect a call to the very port it comes
            # from, if nobody listens on that.
            own, theirs = map(writer.get_extra_info, ("sockname", "peername"))
            if own == theirs:
                raise ConnectionRefusedError
            self._silent[name] = _NO_HELLO  # Until we know better.
            _send(writer, self._hello())
            theirs = await _receive(reader)
            if not self._is_hello(theirs):
                return
            self._compare(name, theirs)
            self._callers[name] = writer
            self._silent.pop(name, None)
            self._tell_ready()
            self._changed.set()
            await reader.read()  # Until it hangs up; the next call tells why.
        finally:
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection from another worker, or from anybody."""
        name = ""
        try:
            theirs = await _receive(reader)
            if not self._is_hello(theirs):
                return
            name = theirs["name"]
            _send(writer, self._hello())
            if name in self._gone:  # It has ended since, and is here again.
                self._gone.discard(name)
                self._ready.pop(name, None)
                self._silent[name] = "it has come again"
            peer = writer.get_extra_info("peername") or ["an unknown place"]
            self._compare(name, theirs, f"who calls from {peer[0]}")
            while line := await _receive(reader, None):
                if "ready" in line:
                    self._ready[name] = writer
                if "go" in line:
                    self._gone.add(name)
                    self._tell_ready()  # It may have been the last we missed.
                self._changed.set()
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # It has hung up, or we do.
        finally:
            writer.close()
            if name not in self._gone and self._ready.get(name) is writer:
                del self._ready[name]

    def _tell_ready(self) -> None:
        if not set(self._others) - self._callers.keys() - self._gone:
            for name in set(self._callers) - self._told:
                _send(self._callers[name], {"ready": True})
                self._told.add(name)

    def _hello(self) -> dict:
        return {
            "tem_tf": _PROTOCOL,
            "name": self._task.name,
            "addresses": self._task.addresses,
        }

    def _is_hello(self, line: dict) -> bool:
        name, addresses = line.get("name"), line.get("addresses")
        is_ours = line.get("tem_tf") == _PROTOCOL and isinstance(addresses, dict)
        return is_ours and all(map(_is_text, [name, *addresses.values()]))

    def _compare(self, name: str, hello: dict, calls: str = "") -> None:
        """Notes what can never become right by waiting.

        Args:
            name: Who was called, or who calls.
            hello: What it says.
            calls: From where, if it calls.
        """
        ours, theirs = self._task.addresses, hello.get("addresses")
        if theirs != ours:
            self.error = ValueError(
                "All workers must be given the same cluster. "
                f"{self._task.name} has {json.dumps(ours)}; {hello['name']}"
                f"{calls and f', {calls},'} has {json.dumps(theirs)}"
            )
        elif not calls and hello["name"] != name:
            self.error = ValueError(
                "Every worker must answer at the address of its own index. The address "
                f"of {name}, {ours[name]}, is answered by {hello['name']}"
            )
        elif name not in self._others:
            self.error = ValueError(
                "Every worker must have an index of its own. Received: that of "
                f"{name} twice, here and of one {calls}"
            )
        self._changed.set()


def _send(writer: asyncio.StreamWriter, line: dict) -> None:
    writer.write(json.dumps(line).encode() + b"\n")


async def _receive(
    reader: asyncio.StreamReader, seconds: float | None = _SECONDS_TO_ANSWER
) -> dict:
    """The next line; empty at the end, or where it is none of ours."""
    try:
        line = json.loads(await asyncio.wait_for(reader.readline(), seconds) or b"{}")
    except (ValueError, RecursionError):  # No JSON, no text, too long or too deep.
        return {}
    return line if isinstance(line, dict) else {}


async def _within(awaitable: Awaitable, seconds: float) -> None:
    """Waits for something for so long, and goes on."""
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(awaitable, seconds)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):
        return f"the host's name is not known: {error.strerror}"
    if isinstance(error, UnicodeError):
        return "the host's name is none"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    return getattr(error, "strerror", None) or str(error)
