"""Real worker processes that stay alive from test to test and run laws on request.

Starting TensorFlow workers takes 4-14 s, so a group starts once and then serves calls:

    results = workers.run(laws.sum_over_workers, 3.0)   # one result per worker

calls `laws.sum_over_workers(strategy, 3.0)` on all workers at once.
"""

import contextlib
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, BinaryIO

from tem_tf.launch.worker_processes import HOST, reserve_ports

ROOT = pathlib.Path(__file__).parents[2]
START_SECONDS = 120  # They take 4-14 s on an idle machine with two cores.
# Between the first worker's error and the end of the others, which may well wait for
# it in a collective, but may also be about to raise the same.
ERROR_GRACE_SECONDS = 2.0
LOG_CHARACTERS = 4000  # How much of a worker's stderr a failure shows.


class WorkerError(Exception):
    """At least one worker raised, died or did not answer in time.

    Attributes:
        failures: What went wrong, by worker index: a traceback, "exited with …" or
            "no answer …"; workers that answered are not in it.
    """

    def __init__(self, what: str, failures: dict[int, str], logs: dict[int, str]):
        self.failures = failures
        parts = [what]
        for index, failure in sorted(failures.items()):
            parts.append(f"--- worker {index}: {failure.rstrip()}")
            if logs.get(index):
                parts.append(f"--- worker {index}, end of its stderr:\n{logs[index]}")
        super().__init__("\n".join(parts))


class _Member:
    """One started worker: its process, our end of its pipe, and its stderr."""

    def __init__(self, index: int, ports: list[int], environment: Mapping[str, str]):
        self.log: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self.connection: Connection
        self.connection, theirs = Pipe()
        config = {
            "cluster": {"worker": [f"{HOST}:{port}" for port in ports]},
            "task": {"type": "worker", "index": index},
        }
        command = [sys.executable, "-m", "tests.multi_worker.worker"]
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                cwd=ROOT,
                env={**environment, "TF_CONFIG": json.dumps(config)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Signals the worker's process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def log_end(self) -> str:
        """The last part of what the worker wrote to stderr and stdout."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - LOG_CHARACTERS))
        return self.log.read().decode(errors="replace").strip()


class WorkerGroup:
    """N worker processes of one cluster, each with a strategy made once.

    They start at the first `run` and, after an error on any of them, at the next one
    anew: workers that are out of step cannot run another collective.

    Args:
        size: Number of workers.
        environment: Variables that they get beside the tests' own.
    """

    def __init__(self, size: int, environment: Mapping[str, str] | None = None):
        self.size = size
        self._environment = {
            **os.environ,
            # Two or three workers share what may be two cores.
            "OMP_NUM_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "-1",
            **(environment or {}),
        }
        self._members: list[_Member] = []

    def __enter__(self) -> "WorkerGroup":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Process ids in worker order; empty while the group is not running."""
        return [member.process.pid for member in self._members]

    def start(self) -> None:
        """Starts the workers, unless they run; returns when all have a strategy."""
        if self._members:
            return
        ports = reserve_ports(self.size)
        try:
            for index in range(self.size):
                self._members.append(_Member(index, ports, self._environment))
            self._collect("The workers' start", START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills the workers and all that they have started, by process group."""
        for member in self._members:
            member.signal(signal.SIGKILL)
        for member in self._members:
            member.process.wait()
            member.connection.close()
            member.log.close()
        self._members = []

    def run(
        self,
        function: Callable,
        *arguments: Any,
        timeout: float = 60,
        per_worker: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Calls `function(strategy, *arguments)` on every worker at once.

        Args:
            function: A module-level function of an importable module.
            *arguments: The same for all workers; anything that can be pickled.
            timeout: Seconds until all must have answered, the workers' start apart.
            per_worker: One value for each worker, passed to it as the last positional
                argument.

        Returns:
            The results in worker order, tensors and variables as numpy arrays.

        Raises:
            WorkerError: A worker raised, died or did not answer in time. It holds all
                tracebacks. The group starts anew at the next call.
        """
        if per_worker is not None and len(per_worker) != self.size:
            raise ValueError(
                f"`per_worker` must have one value for each of {self.size} workers. "
                f"Received: {len(per_worker)} values"
            )
        name = f"{function.__module__}.{function.__qualname__}"
        messages = []
        for index in range(self.size):
            own = () if per_worker is None else (per_worker[index],)
            call = (function.__module__, function.__qualname__, (*arguments, *own))
            messages.append(pickle.dumps(call))  # All, before any worker begins.
        self.start()
        try:
            for member, message in zip(self._members, messages, strict=True):
                with contextlib.suppress(OSError):  # It died: its pipe says so below.
                    member.connection.send_bytes(message)
            return self._collect(name, timeout)
        except BaseException:  # Ctrl-C too: workers out of step are of no use.
            self.stop()
            raise

    def _collect(self, what: str, timeout: float) -> list[Any]:
        """Waits for one answer of each worker."""
        results: dict[int, Any] = {}
        failures: dict[int, str] = {}
        started = time.monotonic()
        deadline = started + timeout
        waiting = {m.connection: (i, m) for i, m in enumerate(self._members)}
        while waiting:
            ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for connection in ready:
                index, member = waiting.pop(connection)
                try:
                    succeeded, result = connection.recv()
                except (EOFError, ConnectionResetError):
                    code = member.process.wait()
                    succeeded, result = False, f"exited with code {code}"
                except Exception as error:  # What it sent cannot be unpickled here.
                    succeeded, result = False, f"unreadable answer: {error!r}"
                (results if succeeded else failures)[index] = result
            if failures:
                deadline = min(deadline, time.monotonic() + ERROR_GRACE_SECONDS)
        if not waiting and not failures:
            return [results[index] for index in range(self.size)]
        silent = list(waiting.values())
        seconds = time.monotonic() - started
        for index, member in silent:
            failures[index] = f"no answer after {seconds:.1f} s, so it was killed"
            member.signal(signal.SIGUSR1)  # It writes where it is to stderr.
        if silent:
            time.sleep(0.5)
        logs = {index: self._members[index].log_end() for index in failures}
        raise WorkerError(f"{what} failed on {self.size} workers.", failures, logs)
