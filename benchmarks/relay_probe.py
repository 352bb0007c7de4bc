"""One worker of relay.py's check: what TCP sees of the links."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time

from worker_group import serve

TRIPS = 20
WINDOW_SECONDS = 2.0  # In which bytes are counted.
PIECE = 1 << 16
FLOWS = 4  # Connections of a pair of workers.
# Linux's, which Python does not name: bytes per second that a connection sends at most.
SO_MAX_PACING_RATE = 47
WAIT_SECONDS = 30.0  # Longest wait for anything.
# An IP packet's bytes by those of its payload, with TCP's timestamps.
WITH_HEADERS = 1500 / 1448


class Probe:
    """Answers relay.py's requests; see `handle`."""

    def __init__(self):
        config = json.loads(os.environ["TF_CONFIG"])
        self._addresses = [a.split(":") for a in config["cluster"]["worker"]]
        self._index = config["task"]["index"]
        port = int(self._addresses[self._index][1])
        self._server = socket.create_server(("", port))
        self._server.settimeout(WAIT_SECONDS)

    def handle(self, request: tuple[str, float, float]) -> float | None:
        """Measures, all workers together.

        Args:
            request: "listen", "trips", or "flows"; of flows after how many seconds
                counting begins, and bits per second that each worker sends. What TCP
                would find by itself swings around what the link carries.

        Returns:
            Seconds of the shortest trip from worker 0 to 1 and back, on worker 0; or
            bits per second that come here.
        """
        kind, begin, rate = request
        if kind == "listen":
            return None
        if kind == "trips":
            return self._trips()
        return self._flows(begin, rate)

    def _trips(self) -> float | None:
        if self._index == 1:
            with self._accepted() as connection:
                while byte := connection.recv(1):
                    connection.sendall(byte)
        if self._index != 0:
            return None
        seconds = []
        with self._connected(1) as connection:
            for _ in range(TRIPS):
                began = time.perf_counter()
                connection.sendall(b"x")
                connection.recv(1)
                seconds.append(time.perf_counter() - began)
        return min(seconds)

    def _flows(self, begin: float, rate: float) -> float:
        """All workers send to the next one, and receive from the one before."""
        began = time.monotonic() + begin
        end = began + WINDOW_SECONDS
        received = [0] * FLOWS
        threads = [
            threading.Thread(target=self._send, args=(end, rate / FLOWS))
            for _ in received
        ]
        for i in range(FLOWS):
            arguments = (i, received, began, end)
            threads.append(threading.Thread(target=self._receive, args=arguments))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        return 8 * sum(received) * WITH_HEADERS / WINDOW_SECONDS

    def _send(self, end: float, rate: float) -> None:
        piece = bytes(PIECE)
        with self._connected((self._index + 1) % len(self._addresses)) as connection:
            # What has not been sent by then is thrown away.
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            pace = struct.pack("Q", int(rate / 8))
            connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace)
            # The receiver may have seen enough before.
            with contextlib.suppress(OSError):
                while time.monotonic() < end + 1:
                    connection.send(piece)

    def _receive(
        self, index: int, received: list[int], began: float, end: float
    ) -> None:
        with self._accepted() as connection:
            while (now := time.monotonic()) < end:
                piece = connection.recv(PIECE)
                if now >= began:
                    received[index] += len(piece)

    def _accepted(self) -> socket.socket:
        connection, _ = self._server.accept()
        connection.settimeout(WAIT_SECONDS)
        return connection

    def _connected(self, worker: int) -> socket.socket:
        address, port = self._addresses[worker]
        connection = socket.create_connection((address, int(port)), WAIT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


if __name__ == "__main__":
    serve(Probe().handle)
