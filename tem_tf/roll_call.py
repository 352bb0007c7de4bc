"""How workers that know but the first one's address learn the others'.

Under torchrun and Open MPI on several nodes (`cluster.Rank`).

1. Worker 0 listens on its address.
2. Each other calls it until it answers, and says its index, the number of workers and
   the port on which it will listen.
3. Once all have called, worker 0 tells all of them every address: the host that each
   has called from, with its port. Who called from worker 0's own host, by loopback, is
   at the host by which all know that.

Lines are JSON. Nothing in them is executed, and what is no call is hung up on; but a
call is believed, as in the rendezvous that follows.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import selectors
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from tem_tf.cluster import Rank, Task, split_address
from tem_tf.rendezvous import SECONDS_BETWEEN_LINES, listen

_PROTOCOL = 1
_LONGEST_LINE = 2**20  # Bytes; an answer holds the whole cluster.
_SECONDS_BETWEEN_CALLS = 0.5
_SECONDS_TO_CONNECT = 10.0


def answer(
    rank: Rank, seconds: float, say: Callable[[str], None] | None = None
) -> Task:
    """Returns this worker's task once all have called. Collective.

    Args:
        rank: This process's.
        seconds: How long to wait for the others.
        say: Takes a line that says who is missing, every `SECONDS_BETWEEN_LINES`.
            Default: it is written to stderr.

    Raises:
        OSError: worker 0 cannot open its port.
        TimeoutError: somebody is still missing.
        ValueError: workers disagree about their number, or two have one index.
    """
    wait = _Wait(rank, seconds, say or _to_stderr)
    addresses = (_call_roll if rank.is_chief else _call_first)(rank, wait)
    return Task({"worker": tuple(addresses)}, "worker", rank.index, rank.source)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Wait:
    """How long is left, and what is said meanwhile."""

    def __init__(self, rank: Rank, seconds: float, say: Callable[[str], None]):
        self._rank, self._seconds, self._say = rank, seconds, say
        self._began = time.monotonic()
        self._next_line = SECONDS_BETWEEN_LINES

    def step(self, missing: str) -> float:
        """Seconds until something is to be said, or it is over.

        Raises:
            TimeoutError: it is over.
        """
        waited = time.monotonic() - self._began
        if waited >= self._seconds:
            raise TimeoutError(
                f"After {self._seconds:g} s (`start_seconds`) not all workers are "
                f"there. Missing: {missing}. See that all are started and reach "
                f"{self._rank.first}, the host of rank 0 in {self._rank.source} "
                "(firewalls, host names, ports)."
            )
        if waited >= self._next_line:
            self._next_line += SECONDS_BETWEEN_LINES
            self._say(
                f"tem_tf: {self._rank.name} has waited {waited:.0f} of at most "
                f"{self._seconds:g} s for {missing}"
            )
        return max(0.0, min(self._next_line, self._seconds) - waited)


def _call_roll(rank: Rank, wait: _Wait) -> list[str]:
    """Worker 0's part: the addresses, once all have called."""
    host, _, _ = rank.first.rpartition(":")
    present: dict[int, tuple[socket.socket, str]] = {}
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(listen(rank.first, rank.source))
        selector = open_sockets.enter_context(selectors.DefaultSelector())
        selector.register(listener, selectors.EVENT_READ)
        listener.setblocking(False)
        while missing := [i for i in range(1, rank.size) if i not in present]:
            for key, _ in selector.select(wait.step(_names(missing))):
                caller = key.fileobj
                assert isinstance(caller, socket.socket)  # For the type checker.
                if caller is listener:
                    with contextlib.suppress(OSError):  # It has hung up already.
                        caller = open_sockets.enter_context(listener.accept()[0])
                        caller.setblocking(False)
                        selector.register(caller, selectors.EVENT_READ, bytearray())
                    continue
                call = _read(caller, key.data)
                if call is None:  # Not the whole line yet.
                    continue
                # Whoever has called and says more has hung up, or is none of ours.
                present = {i: it for i, it in present.items() if it[0] is not caller}
                if not _is_call(call):
                    selector.unregister(caller)
                    caller.close()
                    continue
                refusal = _refusal(rank, call, present)
                if refusal:
                    _tell([caller, *(it[0] for it in present.values())], error=refusal)
                    raise ValueError(refusal)
                present[call["index"]] = caller, _address(caller, call["port"], host)
        addresses = [rank.first, *(present[i][1] for i in range(1, rank.size))]
        _tell([it[0] for it in present.values()], addresses=addresses)
    return addresses


def _names(indices: list[int]) -> str:
    shown = ", ".join(f"worker {index}" for index in indices[:20])
    return shown + (f" and {len(indices) - 20} more" if len(indices) > 20 else "")


def _is_call(call: dict) -> bool:
    whole = [call.get(name) for name in ("index", "size", "port")]
    return call.get("tem_tf_roll") == _PROTOCOL and all(type(v) is int for v in whole)


def _refusal(rank: Rank, call: dict, present: dict) -> str:
    """What can never become right by waiting."""
    index, size, port = call["index"], call["size"], call["port"]
    if size != rank.size or not 0 < index < size or not 0 < port < 2**16:
        return (
            "All workers must belong to one job. Worker 0 is one of "
            f"{rank.size}; one that called says it is {index} of {size}, port {port}"
        )
    if index in present and not _has_hung_up(present[index][0]):
        return (
            "Every worker must have a rank of its own. Received: rank "
            f"{index} twice, from {present[index][1]} and another"
        )
    return ""


def _has_hung_up(caller: socket.socket) -> bool:
    try:
        return not caller.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _address(caller: socket.socket, port: int, first_host: str) -> str:
    """A caller's "host:port"."""
    number = ipaddress.ip_address(caller.getpeername()[0].partition("%")[0])
    mapped = getattr(number, "ipv4_mapped", None)  # IPv4, on a socket for both.
    number = mapped or number
    host = f"[{number}]" if number.version == 6 else str(number)
    return f"{first_host if number.is_loopback else host}:{port}"


def _call_first(rank: Rank, wait: _Wait) -> list[str]:
    """The others' part: the addresses, as worker 0 tells them."""
    host, port = split_address(rank.first)
    call = {
        "tem_tf_roll": _PROTOCOL,
        "index": rank.index,
        "size": rank.size,
        "port": rank.port,
    }
    reason = "not called yet"
    while True:
        wait.step(f"worker 0 at {rank.first} ({reason})")
        reason = "it has hung up: another program, or it has ended"
        try:
            with socket.create_connection(
                (host, port), _SECONDS_TO_CONNECT
            ) as to_first:
                _tell([to_first], **call)
                told = _hear(to_first, wait)
        except OSError as error:
            told, reason = {}, error.strerror or str(error)
        if told.get("error"):
            raise ValueError(str(told["error"]))
        addresses = told.get("addresses")
        if isinstance(addresses, list) and len(addresses) == rank.size:
            return [str(address) for address in addresses]
        time.sleep(_SECONDS_BETWEEN_CALLS)


def _hear(to_first: socket.socket, wait: _Wait) -> dict:
    """Worker 0's answer, which comes when all have called; empty if it hangs up."""
    read = bytearray()
    while True:
        left = wait.step("what worker 0 waits for")
        to_first.settimeout(max(left, 0.01))
        line = _read(to_first, read)
        if line is not None:
            return line


def _tell(others: list[socket.socket], **line: Any) -> None:
    for one in others:
        with contextlib.suppress(OSError):  # It has gone; the rendezvous will miss it.
            one.settimeout(_SECONDS_TO_CONNECT)
            one.sendall(json.dumps(line).encode() + b"\n")


def _read(caller: socket.socket, read: bytearray) -> dict | None:
    """The line that has come; None if not all of it; empty if none will."""
    try:
        chunk = caller.recv(2**16)
    except (TimeoutError, BlockingIOError):
        return None
    except OSError:
        return {}
    read += chunk
    if not chunk or len(read) > _LONGEST_LINE:
        return {}
    if b"\n" not in read:
        return None
    try:
        line = json.loads(read[: read.index(b"\n")])
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}
