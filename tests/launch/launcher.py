"""How tests start the launcher, to its end or to watch it run."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHER = [sys.executable, str(ROOT / "launch" / "local.py")]
# Opens the program of a worker that depends on its index.
INDEX = (
    "import json, os; index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
)


def launch(*arguments, environment=None, launcher=LAUNCHER, seconds=60):
    """Runs the launcher to its end, for so many seconds at most."""
    return subprocess.run(
        [*launcher, *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


@contextlib.contextmanager
def running(*arguments):
    """A launcher that is still running, and the ids that its two workers printed."""
    with subprocess.Popen(
        [*LAUNCHER, "--workers", "2", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        assert launcher.stdout is not None
        pids = [int(launcher.stdout.readline().split()[-1]) for _ in range(2)]
        try:
            yield launcher, pids
        finally:
            launcher.kill()
            for pid in pids:  # The guard's task, unless the test has killed it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
