"""Starts several workers of one training job on this machine, as torchrun does.

    tem-tf-run --workers 4 -- python train.py

Every worker gets its own TF_CONFIG on free loopback ports and its share of the
cores. Their output comes line by line with the worker's number in front, without what
TensorFlow writes for itself. The first worker that fails ends the others; its last
lines are shown once more, and its exit code becomes the launcher's. Ctrl-C ends all of
them, and nothing is left behind even if the launcher itself is killed.
"""

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

from .supervision import Supervision
from .worker_processes import HOST, Event, Guard, Worker, reserve_ports, say, watch

PROGRAM = "tem-tf-run"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


class Once(argparse.Action):
    """Stores a value, and refuses a second one, of which argparse keeps the last."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Takes the value of one mention of the option."""
        given = vars(namespace).setdefault("given", {})
        if self.dest in given:
            parser.error(
                f"`{self.option_strings[0]}` is given twice. "
                f"Received: {given[self.dest]} and {values}"
            )
        given[self.dest] = values
        setattr(namespace, self.dest, values)


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits the command line at `--` and checks both halves.

    Returns:
        The launcher's options and the command that every worker runs.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s --workers N [options] -- command [argument ...]",
        description="Runs one command as N workers of a TensorFlow cluster on this "
        "machine.",
        epilog="`python` as the command stands for the interpreter that runs the "
        "launcher. The exit code is that of the worker that failed first (not of one "
        "that failed for the loss of another), 128 + n if signal n ended it, 2 if the "
        "command line is wrong.",
    )
    parser.add_argument(
        "--workers",
        type=int,
        action=Once,
        required=True,
        metavar="N",
        help="processes to start",
    )
    parser.add_argument(
        "--threads_per_worker",
        type=int,
        action=Once,
        metavar="N",
        help="threads of each worker (default: cores // workers, at least 1; a "
        f"variable of {', '.join(THREAD_VARIABLES)} that is set already stays)",
    )
    parser.add_argument(
        "--base_port",
        type=int,
        action=Once,
        metavar="PORT",
        help="worker i listens on PORT + i (default: free ports)",
    )
    parser.add_argument(
        "--grace_seconds",
        type=float,
        action=Once,
        default=5.0,
        metavar="S",
        help="between asking workers to end and killing them (default: %(default)s)",
    )
    parser.add_argument(
        "--tensorflow_logs",
        action="store_true",
        help="show what TensorFlow's C++ logs to stderr for itself, such as `I0000 "
        "00:00:... port.cc:153] ...` ; sets TF_CPP_MIN_LOG_LEVEL=0 unless "
        "it is set (default: its fatal errors alone)",
    )
    if "--" in arguments:
        split = arguments.index("--")
        arguments, command = arguments[:split], arguments[split + 1 :]
        missing = "No command after `--`."
    else:
        command, missing = [], "The `--` in front of the command is missing."
    options, rest = parser.parse_known_args(arguments)
    if rest and command:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if not command:
        parser.error(f"{missing} For example: {PROGRAM} --workers 2 -- python train.py")
    if options.workers < 1:
        parser.error(f"`--workers` must be at least 1. Received: {options.workers}")
    if options.threads_per_worker is not None and options.threads_per_worker < 1:
        parser.error(
            "`--threads_per_worker` must be at least 1. "
            f"Received: {options.threads_per_worker}"
        )
    if not 0 <= options.grace_seconds < float("inf"):
        parser.error(
            "`--grace_seconds` must be a number of seconds, 0 or more. "
            f"Received: {options.grace_seconds}"
        )
    if os.environ.get("TF_CONFIG", "").strip() not in ("", "{}"):
        parser.error(
            "TF_CONFIG is set already, so this process is a worker of a cluster, or "
            "the variable was left over. The launcher writes TF_CONFIG itself: unset "
            f"it first. Received: TF_CONFIG={os.environ['TF_CONFIG'][:200]}"
        )
    # A virtual environment may be used without being active, and some systems have
    # no `python` at all.
    if command[0] == "python":
        command = [sys.executable, *command[1:]]
    elif shutil.which(command[0]) is None:
        parser.error(f"Command not found or not executable: {command[0]}")
    try:
        options.ports = reserve_ports(options.workers, options.base_port)
    except ValueError as error:
        parser.error(str(error))
    return options, command


def worker_environment(index: int, options: argparse.Namespace) -> dict[str, str]:
    """The environment of worker `index`: its place in the cluster and its threads."""
    environment = dict(os.environ)
    environment["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": [f"{HOST}:{port}" for port in options.ports]},
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


def start_workers(
    options: argparse.Namespace, command: list[str], guard: Guard
) -> Iterator[Worker]:
    """Starts all workers, each with its own process group and pipes."""
    for index in range(options.workers):
        process = subprocess.Popen(
            command,
            env=worker_environment(index, options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        guard.toggle(process.pid)
        yield Worker(index, process)


def open_standard_streams() -> None:
    """Opens those of stdin, stdout and stderr that are closed, on nothing.

    Else the next pipe that is opened would get a closed one's number, and the workers'
    output would go into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def main(arguments: list[str]) -> int:
    """Runs the launcher; returns its exit code."""
    open_standard_streams()
    options, command = parse_arguments(arguments)
    events: queue.SimpleQueue = queue.SimpleQueue()
    guard = Guard()
    # Before the start, so that a job in the background of a script, for which the
    # shell ignores SIGINT, does not hand that down. nohup's SIGHUP stays ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            # SimpleQueue.put may be called from a signal handler.
            signal.signal(number, lambda n, _: events.put(Event("signal", number=n)))
    # Where it is ignored, as a parent may hand it down, there are no exit codes.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    workers: list[Worker] = []
    try:
        # All are started before any thread is: a fork copies no other threads.
        for worker in start_workers(options, command, guard):
            workers.append(worker)
    except OSError as error:
        say(f"cannot start {command[0]}: {error.strerror}")
        for worker in workers:
            worker.signal_group(signal.SIGKILL)
        return 126
    watch(workers, events, options.tensorflow_logs)
    code = Supervision(workers, events, options.grace_seconds).run()
    for worker in workers:
        guard.toggle(worker.process.pid)
    guard.close()
    return code
