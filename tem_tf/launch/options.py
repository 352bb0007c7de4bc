"""The launcher's command line: its options, checked, and the command of the workers."""

import argparse
import os
import shutil
import signal
import sys

from .first_failure import REQUEUE_CODE
from .supervision import STALL_CODE
from .worker_processes import reserve_ports

PROGRAM = "tem-tf-run"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
# What schedulers send before they end a job. SIGINT is Ctrl-C, and nothing else.
STOP_SIGNALS = (
    *("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGXCPU"),
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
        "that failed for the loss of another), 128 + n if signal n ended it or the "
        f"launcher, {REQUEUE_CODE} if the workers have stopped on wish and saved their "
        f"state (they end with {REQUEUE_CODE}, too: start the job again), {STALL_CODE} "
        "after a stall, 126 if a worker cannot be started, 2 if the command line is "
        "wrong. Workers find in TEM_TF_RESTART how often they were started anew.",
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
        help="between asking workers to end and killing them, and for the others "
        "after one has stopped on wish (default: %(default)s)",
    )
    parser.add_argument(
        "--max_restarts",
        type=int,
        action=Once,
        default=0,
        metavar="K",
        help="after a worker's failure or a stall start all workers anew, after 1, 2, "
        "4 ... 60 s, at most K times in a row; the count begins again when a worker "
        "has told of a later checkpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--stall_seconds",
        type=float,
        action=Once,
        metavar="S",
        help="end the workers if for S seconds none has written a line and no "
        "heartbeat has come; longer than their start takes (default: never)",
    )
    parser.add_argument(
        "--stop_signals",
        action=Once,
        default="SIGTERM,SIGUSR1",
        metavar="NAMES",
        help="the wish to stop: handed to each worker's process that has a handler, "
        "or SIGTERM instead where none has, and --grace_seconds are for saving "
        f"(default: %(default)s; of {', '.join(STOP_SIGNALS)}, or '')",
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
    if options.max_restarts < 0:
        parser.error(
            f"`--max_restarts` must be 0 or more. Received: {options.max_restarts}"
        )
    if options.stall_seconds is not None and not 0 < options.stall_seconds < float(
        "inf"
    ):
        parser.error(
            "`--stall_seconds` must be a number of seconds above 0. "
            f"Received: {options.stall_seconds}"
        )
    names = [name for name in options.stop_signals.split(",") if name]
    if unknown := [name for name in names if name not in STOP_SIGNALS]:
        parser.error(
            f"`--stop_signals` must be names of {', '.join(STOP_SIGNALS)}, with commas "
            f"between. Received: {', '.join(unknown)}"
        )
    options.stop_signals = {signal.Signals[name] for name in names}
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
