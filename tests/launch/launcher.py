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
# Opens one that tells the launcher of itself, as `heartbeat`.
HEARTBEAT = INDEX + (
    f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    "import tem_tf_run; heartbeat = tem_tf_run.load_part('heartbeat')\n"
    "restart = int(os.environ['TEM_TF_RESTART'])\n"
)
# The launcher with something changed in it first; `local` is its module.
CHANGED = """
import errno, os, signal, subprocess, sys
sys.path.insert(0, {root!r})
import tem_tf_run
launch = tem_tf_run.load_part("launch")
local = launch.local
{change}
sys.exit(local.main(sys.argv[1:]))
"""
# So that no test waits for a second.
SHORT_PAUSES = "launch.job.MAX_PAUSE_SECONDS = 0.02\n"


def changed(*changes):
    """The command of a launcher with changes."""
    program = CHANGED.format(root=str(ROOT), change="".join(changes))
    return [sys.executable, "-c", program]


def said(errors):
    """The launcher's own lines, without its name, of what was written to stderr."""
    lines = [line for line in errors.split("\n") if line.startswith("[launcher]")]
    return [line.removeprefix("[launcher] ") for line in lines]


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
def running(*arguments, launcher=LAUNCHER):
    """A launcher that is still running, and the ids that its two workers printed."""
    with subprocess.Popen(
        [*launcher, "--workers", "2", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline().split()[-1]) for _ in range(2)]
        try:
            yield process, pids
        finally:
            process.kill()
            for pid in pids:  # The guard's task, unless the test has killed it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def wait_until_said(launcher, text):
    """Reads a running launcher's stderr up to a line with this text, and returns it."""
    while text not in (line := launcher.stderr.readline()):
        assert line, f"ended without saying: {text}"
    return line
