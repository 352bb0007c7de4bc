"""How a cluster's start and end look to its user: lines, seconds, exit codes.

    python benchmarks/start_and_end.py                 # all cases: four minutes
    python benchmarks/start_and_end.py sigterm         # those whose name has it

Real processes on loopback. Each case prints what every worker said last, its exit code
and the seconds from the case's event (the start, or a signal) to its end. A worker that
does not end within its limit is killed and shown as such.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tem_tf_run import load_part  # noqa: E402  (after its place is known)

START_SECONDS = 35  # Long enough to see a line of those that come every 30 s.
LIMIT_SECONDS = START_SECONDS + 25  # Python's and TensorFlow's start included.

# A user's own script; it says where it is.
SCRIPT = """
import sys, time
import keras, numpy as np, tensorflow as tf
import tem_tf

print("waiting", flush=True)
strategy = tem_tf.MultiWorkerMirroredStrategy(start_seconds=float(sys.argv[1]))

class Slow(keras.layers.Dense):
    def call(self, inputs):
        # Worker 1 alone takes so long; worker 0 waits for it in a collective.
        slow = sys.argv[2] == "tracing" and strategy.cluster_resolver.task_id == 1
        if slow and not tf.executing_eagerly():
            print("tracing", flush=True)
            time.sleep(60)
        return super().call(inputs)

class Say(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 20:
            print("training", flush=True)

with strategy.scope():
    model = keras.Sequential([keras.layers.Input((4,)), Slow(3)])
    model.compile(
        tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.01), tem_tf.HardThreshold(0.01)
        ),
        loss="mse",
    )
data = tf.data.Dataset.from_tensors((np.ones((8, 4)), np.ones((8, 3)))).repeat()
model.fit(data, steps_per_epoch=10**7, verbose=0, callbacks=[Say()])
"""


class Process:
    """One started process whose output goes to a file."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]):
        self.name, self._file = name, tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=self._file,
            stderr=self._file,
            stdin=subprocess.DEVNULL,
        )

    def said(self) -> list[str]:
        """Its lines so far, TensorFlow's own left out."""
        self._file.seek(0)
        own = load_part("launch").log_lines.LogLines()
        return [x for x in self._file.read().splitlines() if not own.recognise(x)]

    def wait_until(self, word: str) -> None:
        """Returns when it has said a word."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not any(word in line for line in self.said()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} never said {word!r}: {self.said()}")
            time.sleep(0.1)

    def report(self, since: float | None = None) -> None:
        """Waits for its end, and prints code, seconds and last lines."""
        since, ended = since or self.began, "exit code"
        try:
            self.process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            ended = "NOT ENDED, killed:"
        seconds = time.monotonic() - since
        print(f"  {self.name}: {ended} {self.process.returncode}, {seconds:.1f} s")
        lines = [line for line in self.said() if not line.startswith("  ")]
        for line in [x for x in lines if "tem_tf: " in x][:1] + lines[-1:]:
            print(f"      {line[:300]}")


def ports(count: int) -> list[int]:
    """Free loopback ports."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def worker(index: int, addresses: list[str], until: str = "training") -> Process:
    """One worker with a TF_CONFIG of its own."""
    cluster = {"worker": addresses}
    config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
    command = [sys.executable, "-c", SCRIPT, str(START_SECONDS), until]
    return Process(f"worker {index}", command, {"TF_CONFIG": json.dumps(config)})


def launched(until: str) -> Process:
    """Two workers under the launcher."""
    options = ["-m", "tem_tf_run", "--workers", "2", "--"]
    command = [sys.executable, "-c", SCRIPT, str(START_SECONDS), until]
    return Process("launcher", [sys.executable, *options, *command], {})


def alone(index: int, other: str | None = None) -> None:
    """A worker whose only colleague never comes, or is not where it should be."""
    addresses = [f"127.0.0.1:{port}" for port in ports(2)]
    if other is not None:
        addresses[1 - index] = other
    worker(index, addresses).report()


def chief_alone() -> None:
    """The chief's worker never comes."""
    alone(0)


def worker_alone() -> None:
    """The worker's chief never comes."""
    alone(1)


def unresolvable_host() -> None:
    """Worker 1 has a host name that nobody knows."""
    alone(0, "no-such-host.invalid:2222")


def another_program_at_the_port() -> None:
    """At worker 1's address something listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        alone(0, f"127.0.0.1:{stranger.getsockname()[1]}")


def wrong_port() -> None:
    """Worker 1 was given another port for itself than the chief was."""
    chief, right, wrong = (f"127.0.0.1:{port}" for port in ports(3))
    both = [worker(0, [chief, right]), worker(1, [chief, wrong])]
    for process in both:
        process.report()


def sigterm(until: str) -> Callable[[], None]:
    """SIGTERM to the last of the workers at a moment of their lives."""

    def case() -> None:
        addresses = [f"127.0.0.1:{port}" for port in ports(2)]
        number = 1 if until == "waiting" else 2
        processes = [worker(index, addresses, until) for index in range(number)]
        processes[-1].wait_until(until)
        time.sleep(1)
        since = time.monotonic()
        processes[-1].process.terminate()
        for process in reversed(processes):
            process.report(since)

    return case


def sigterm_launcher(until: str) -> Callable[[], None]:
    """SIGTERM to the launcher of two workers."""

    def case() -> None:
        process = launched(until)
        process.wait_until(until)
        time.sleep(1)
        since = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        process.report(since)

    return case


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """All cases by name."""
    for case in (
        *(chief_alone, worker_alone, unresolvable_host),
        *(another_program_at_the_port, wrong_port),
    ):
        yield case.__name__.replace("_", " "), case
    for until in ("waiting", "tracing", "training"):
        yield f"sigterm to the last worker while {until}", sigterm(until)
    for until in ("tracing", "training"):
        yield f"sigterm to the launcher while {until}", sigterm_launcher(until)


def main() -> None:
    """Runs the cases that the command line names."""
    print(f"start_seconds {START_SECONDS}; seconds are of the whole process")
    for name, case in cases():
        if all(word in name for word in sys.argv[1:]):
            print(f"{name}:", flush=True)
            case()


if __name__ == "__main__":
    main()
