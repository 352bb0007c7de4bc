"""Worker processes that are driven turn by turn, every turn within a time limit.

Several groups may live at once, so that programs that cannot share a process take
turns in one run: a group that waits for its turn uses no processor. The worker's side
is `serve`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
START_SECONDS = 180
_PR_SET_PDEATHSIG = 1  # Of Linux's prctl: a signal at the parent's death.
# In a namespace of its own a worker finds every port free; each group takes the next.
_ports = itertools.count(21_345)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


class WorkerGroup:
    """N processes of one cluster; a context manager that ends them.

    Args:
        command: Program and its arguments. It gets the environment variable TF_CONFIG
            and as last argument the descriptor of its pipe, for `serve`.
        workers: Their number.
        links: None for loopback, or `ShapedLinks` in which they run.
        root: The checkout whose packages they import.
        are_alone: Whether each is a cluster of its own.
        are_pinned: Whether each stays on one core, worker i on the i-th, from the first
            again after the last: a scheduler would put one of four on the first of two
            cores and three on the other, for seconds.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        links: Any = None,
        root: pathlib.Path = ROOT,
        are_alone: bool = False,
        are_pinned: bool = False,
    ):
        # Here: workers of another Python, which are served by this file, too, may not
        # have what tem_tf needs.
        from tem_tf.launch.worker_processes import HOST, reserve_ports

        if links is None:
            addresses = [f"{HOST}:{port}" for port in reserve_ports(workers)]
        else:
            port = next(_ports)
            addresses = [f"{links.address(i)}:{port}" for i in range(workers)]
        self._processes: list[subprocess.Popen] = []
        self._connections: list[Connection] = []
        self._logs: list[Any] = []
        for index in range(workers):
            inside = [] if links is None else links.inside(index)
            cluster = ([addresses[index]], 0) if are_alone else (addresses, index)
            environment = _environment(*cluster, root)
            self._start([*inside, *command], environment, root)
            if are_pinned:
                cores = sorted(os.sched_getaffinity(0))
                # Threads come later, and inherit it.
                pid = self._processes[-1].pid
                os.sched_setaffinity(pid, {cores[index % len(cores)]})

    def _start(
        self, command: list[str], environment: Mapping[str, str], root: pathlib.Path
    ) -> None:
        ours, theirs = Pipe()
        log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        with theirs:
            process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                cwd=root,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        self._connections.append(ours)
        self._logs.append(log)

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kills the workers, by process group."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process, connection, log in zip(
            self._processes, self._connections, self._logs, strict=True
        ):
            process.wait()
            connection.close()
            log.close()
        self._processes, self._connections, self._logs = [], [], []

    def run(self, request: Any, seconds: float) -> list[Any]:
        """Sends a request to all workers and waits for their answers.

        Raises:
            RuntimeError: one of them ended, raised or did not answer in time. All are
                ended.
        """
        try:
            for connection in self._connections:
                with contextlib.suppress(BrokenPipeError):  # `_answers` says why.
                    connection.send(request)
            return self._answers(request, seconds)
        except BaseException:
            self.stop()
            raise

    def _answers(self, request: Any, seconds: float) -> list[Any]:
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + seconds
        waiting = {c: i for i, c in enumerate(self._connections)}
        while waiting:
            ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RuntimeError(f"{request}: no answer within {seconds:.0f} s")
            for connection in ready:
                index = waiting.pop(connection)
                try:
                    answers[index] = connection.recv()
                except (EOFError, ConnectionResetError):
                    raise RuntimeError(
                        f"{request}: worker {index} ended.\n{self._log_end(index)}"
                    ) from None
        return [answers[i] for i in range(len(answers))]

    def _log_end(self, index: int) -> str:
        log = self._logs[index]
        log.seek(max(0, log.seek(0, os.SEEK_END) - 4000))
        return log.read().decode(errors="replace")


def checkout(text: str) -> pathlib.Path:
    """The type of an option that names a checkout of this repository.

    Raises:
        argparse.ArgumentTypeError: it is none. An installed package would be measured.
    """
    root = pathlib.Path(text).resolve()
    if not (root / "tem_tf" / "__init__.py").exists():
        raise argparse.ArgumentTypeError(
            f"must be a checkout of this repository. Received: {text}. Make one by "
            "`git worktree add DIRECTORY COMMIT`."
        )
    return root


def serve(handle: Callable[[Any], Any]) -> None:
    """The worker's side: answers requests until the benchmark hangs up."""
    # Not only when a request is done, should the benchmark be killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    connection = Connection(int(sys.argv[-1]))
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        connection.send(handle(request))


def _environment(
    addresses: list[str], index: int, root: pathlib.Path
) -> Mapping[str, str]:
    task = {"type": "worker", "index": index}
    config = {"cluster": {"worker": addresses}, "task": task}
    inherited = {k: v for k, v in os.environ.items() if k.lower() not in _PROXIES}
    return {
        **inherited,
        "PYTHONPATH": str(root),
        "TF_CONFIG": json.dumps(config),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
        # One thread each: four workers may share two cores.
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    }
