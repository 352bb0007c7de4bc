"""One job: its workers' starts, one after the other, until it is done or given up."""

import argparse
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

from .events import Events
from .first_failure import heartbeat
from .guard import Guard, dying_with_this_process
from .options import THREAD_VARIABLES
from .stall import StallWatch
from .supervision import Outcome, Supervision
from .worker_processes import HOST, Worker, reserve_ports, say, watch

START_ERROR_CODE = 126  # A shell's for a command that was found but cannot be run.
MAX_PAUSE_SECONDS = 60.0


class RestartCount:
    """Whether and when to start anew after a failure.

    The pauses are 1, 2, 4 ... 60 s: time for what another process holds to come free,
    and for a file server to come back; what fails always is not tried without end.

    Args:
        at_most: Restarts in a row, without progress between them.

    Attributes:
        total: All restarts so far.
        in_a_row: Those since the last progress.
    """

    def __init__(self, at_most: int):
        self._at_most = at_most
        self.total = 0
        self.in_a_row = 0

    def pause_seconds(self, progress: bool) -> float | None:
        """Counts a failure; returns the seconds until the restart, None for no more.

        Args:
            progress: Whether a later checkpoint came since the last start.
        """
        if progress:
            self.in_a_row = 0
        if self.in_a_row >= self._at_most:
            return None
        self.total += 1
        self.in_a_row += 1
        # A shift of six is beyond the limit already.
        return min(MAX_PAUSE_SECONDS, float(1 << min(self.in_a_row - 1, 6)))


class Job:
    """The command as N workers, started until it has ended well or for good.

    Args:
        options: The launcher's.
        command: What every worker runs.
        guard: Told of every worker.
        events: What happens to workers and launcher.
        heartbeats: The workers' `Heartbeats`, or None.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        command: list[str],
        guard: Guard,
        events: Events,
        heartbeats: Any,
    ):
        self._options = options
        self._command = command
        self._guard = guard
        self._events = events
        self._heartbeats = heartbeats
        self._restarts = RestartCount(options.max_restarts)

    def run(self) -> int:
        """Runs to the end; returns the launcher's exit code."""
        ports = self._options.ports
        while True:
            outcome = self._run_once(ports)
            progress = self._heartbeats is not None and (
                self._heartbeats.has_progressed()
            )
            pause = None
            if outcome.failure is not None:
                pause = self._restarts.pause_seconds(progress)
            if pause is None:
                for line in outcome.lines:
                    say(line)
                if outcome.failure is not None and self._options.max_restarts:
                    say(f"no restart: {self._restarts.in_a_row} in a row did not help.")
                return outcome.code
            say(
                f"{outcome.failure}: restart {self._restarts.in_a_row} of "
                f"{self._options.max_restarts}, in {pause:g} s."
            )
            event = self._events.wait(self._guard, pause)
            if event is not None:  # A signal, or nobody reads our output any more.
                say(f"{signal.Signals(event.number).name}: no restart.")
                return 128 + event.number
            ports = None

    def _run_once(self, ports: list[int] | None) -> Outcome:
        """From one start of the workers to the end of all.

        Args:
            ports: None to find them.
        """
        if self._heartbeats is not None:
            self._heartbeats.begin()
        workers: list[Worker] = []
        try:
            if ports is None:
                ports = reserve_ports(self._options.workers, self._options.base_port)
            # All are started before any thread is: a fork copies no other threads. (On
            # a restart one may be left that reads what a process outside of its
            # worker's group holds open; a child of ours needs nothing of it.)
            for worker in self._start(ports):
                workers.append(worker)
        except (OSError, ValueError) as error:
            for worker in workers:
                worker.end_at_once()
            text = str(error)  # Of a port
            if isinstance(error, OSError):
                text = f"cannot start {self._command[0]}: {error.strerror}"
            outcome = Outcome(START_ERROR_CODE, [text], failure=text)
        else:
            watch(workers, self._events, self._options.tensorflow_logs)
            outcome = Supervision(
                workers, self._events, self._guard, self._options, self._stall_watch()
            ).run()
        for worker in workers:
            self._guard.toggle(worker.process.pid)
        return outcome

    def _stall_watch(self) -> StallWatch | None:
        seconds = self._options.stall_seconds
        return None if seconds is None else StallWatch(self._heartbeats, seconds)

    def _start(self, ports: list[int]) -> Iterator[Worker]:
        """Starts all workers, each with its own process group and pipes."""
        for index in range(self._options.workers):
            process = subprocess.Popen(
                self._command,
                env=self._environment(index, ports),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=dying_with_this_process(),
            )
            self._guard.toggle(process.pid)
            yield Worker(index, process)

    def _environment(self, index: int, ports: list[int]) -> dict[str, str]:
        """A worker's place in the cluster, its threads, and how to tell of itself."""
        environment = worker_environment(index, ports, self._options)
        environment[heartbeat.RESTART_VARIABLE] = str(self._restarts.total)
        environment.pop(heartbeat.HEARTBEAT_VARIABLE, None)
        if self._heartbeats is not None:
            environment |= self._heartbeats.environment(index)
        return environment


def worker_environment(
    index: int, ports: list[int], options: argparse.Namespace
) -> dict[str, str]:
    """The environment of worker `index`: its place in the cluster and its threads."""
    environment = dict(os.environ)
    environment["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": [f"{HOST}:{port}" for port in ports]},
            "task": {"type": "worker", "index": index},
        }
    )
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))  # What taskset and containers leave us.
    else:
        cores = os.cpu_count() or 1
    for name in THREAD_VARIABLES:
        if options.threads_per_worker is not None:
            environment[name] = str(options.threads_per_worker)
        else:
            environment.setdefault(name, str(max(1, cores // options.workers)))
    if options.tensorflow_logs:  # Programs may have silenced them at the source.
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
    # Into a pipe Python writes in blocks of 8 kB, so progress would come in lumps.
    environment.setdefault("PYTHONUNBUFFERED", "1")
    return environment
