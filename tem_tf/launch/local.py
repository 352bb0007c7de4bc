"""Starts several workers of one training job on this machine, as torchrun does.

    tem-tf-run --workers 4 -- python train.py
    tem-tf-run --workers 4 --max_restarts 3 --stall_seconds 600 -- python train.py

Every worker gets its own TF_CONFIG on free loopback ports and its share of the
cores. Their output comes line by line with the worker's number in front, without what
TensorFlow writes for itself. The first worker that fails ends the others; its last
lines are shown once more, and its exit code becomes the launcher's, or all are started
anew. Ctrl-C ends all of them, SIGTERM and SIGUSR1 ask them to save and to stop, and
nothing is left behind even if the launcher itself is killed.
"""

import os

from .events import Events
from .first_failure import heartbeat
from .guard import Guard
from .job import Job
from .options import parse_arguments
from .worker_processes import say


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
    events = Events(options.stop_signals)
    guard = Guard()
    try:
        heartbeats = heartbeat.Heartbeats(options.workers)
    except OSError as error:  # The workers need none.
        say(f"no heartbeats: {error.strerror}")
        heartbeats = None
    try:
        if heartbeats is not None:
            guard.remove_in_the_end(heartbeats.directory)
        return Job(options, command, guard, events, heartbeats).run()
    finally:
        if heartbeats is not None:
            heartbeats.remove()
        guard.close()
