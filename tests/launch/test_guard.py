"""The guard, and what else must not depend on who started or watches the launcher."""

import os
import pathlib
import signal
import sys

import pytest

from tests.launch.launcher import LAUNCHER, ROOT, launch, running
from tests.processes import still_running

# The launcher with something changed in it first; `local` is its module.
CHANGED = """
import errno, os, signal, subprocess, sys
sys.path.insert(0, {root!r})
import tem_tf_run
local = tem_tf_run.load_part("launch").local
{change}
sys.exit(local.main(sys.argv[1:]))
"""
WITHOUT_GUARD = """
class KilledGuard(local.Guard):
    def __init__(self):
        super().__init__()
        os.kill(self._pid, signal.SIGKILL)
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
local.Guard = KilledGuard
"""
WITHOUT_SECOND_WORKER = """
start, started = subprocess.Popen, []
def start_one(*arguments, **options):
    if started:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    started.append(start(*arguments, **options))
    print(started[0].pid, flush=True)
    return started[0]
subprocess.Popen = start_one
"""


def changed(*changes):
    """The command of a launcher with changes."""
    program = CHANGED.format(root=str(ROOT), change="".join(changes))
    return [sys.executable, "-c", program]


def guard_of(launcher, pids):
    """The process id of a running launcher's guard: its child that is no worker."""
    path = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    (guard,) = set(map(int, path.read_text().split())) - set(pids)
    return guard


def test_a_killed_guard_leaves_a_run_as_it_is(tmp_path):
    program = (
        "import os, pathlib, time; print(os.getpid(), flush=True)\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.02)\n"
        "print('done')"
    )
    with running("--", "python", "-c", program) as (launcher, pids):
        guard = guard_of(launcher, pids)
        os.kill(guard, signal.SIGKILL)
        assert still_running([guard], seconds=5) == []
        (tmp_path / "go").touch()
        output, errors = launcher.communicate(timeout=10)
    assert output.count("done") == 2
    assert errors == ""
    assert launcher.returncode == 0


@pytest.mark.parametrize("code", [0, 3])
def test_a_guard_killed_before_the_workers_start_leaves_the_exit_code(code):
    command = ["--workers", 2, "--", "python", "-c", f"raise SystemExit({code})"]
    result = launch(*command, launcher=changed(WITHOUT_GUARD))
    assert result.returncode == code
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("changes", [[], [WITHOUT_GUARD]], ids=["guarded", "alone"])
def test_a_worker_that_cannot_be_started_leaves_none(changes):
    program = "import time; time.sleep(1000)"
    result = launch(
        *("--workers", 2, "--", "python", "-c", program),
        launcher=changed(*changes, WITHOUT_SECOND_WORKER),
    )
    left = still_running([int(result.stdout)], seconds=5)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert result.returncode == 126
    assert "[launcher] cannot start" in result.stderr


def test_exit_codes_are_seen_where_the_parent_ignores_ended_children():
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    result = launch(
        *("--workers", 2, "--", "python", "-c", "raise SystemExit(3)"),
        launcher=[sys.executable, "-c", ignoring, *LAUNCHER],
    )
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
