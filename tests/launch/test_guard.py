"""The guard, and what else must not depend on who started or watches the launcher."""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.launcher import LAUNCHER, ROOT, changed, launch, running
from tests.processes import gone, still_running

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


SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
# A worker that is a shell, and one of its own.
IN_A_SHELL = ["bash", "-c", f"{shlex.quote(sys.executable)} -c '{SLEEP}'; true"]


def guard_of(launcher, pids):
    """The process id of a running launcher's guard: its child that is no worker."""
    path = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    (guard,) = set(map(int, path.read_text().split())) - set(pids)
    return guard


def guards_of(launcher):
    """The guards among a running launcher's children, by what they run."""
    path = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    guards = []
    for pid in map(int, path.read_text().split()):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            if b"guard_process.py" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                guards.append(pid)
    return guards


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


def test_another_guard_takes_a_killed_ones_place(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running("--", *IN_A_SHELL) as (launcher, pids):
        # The launcher's children are the shells here; the guard alone is Python.
        (guard,) = guards_of(launcher)
        os.kill(guard, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while guards_of(launcher) in ([], [guard]) and time.monotonic() < deadline:
            time.sleep(0.02)
        (folder,) = tmp_path.iterdir()
        launcher.kill()
        launcher.wait(timeout=10)
        assert still_running(pids, seconds=5) == []
        assert gone(folder)


def test_workers_die_with_a_launcher_that_is_killed_right_after_its_guard(
    monkeypatch, tmp_path
):
    monkeypatch.setenv(
        "TMPDIR", str(tmp_path)
    )  # Nobody removes the heartbeats' folder.
    with running("--", "python", "-c", SLEEP) as (launcher, pids):
        launcher.send_signal(signal.SIGSTOP)  # So that it makes no other guard.
        os.kill(guard_of(launcher, pids), signal.SIGKILL)
        launcher.kill()
        launcher.wait(timeout=10)
        assert still_running(pids, seconds=5) == []


def test_a_worker_whose_launcher_has_ended_before_it_could_ask_does_not_start():
    # The child's parent is another process than the one that made the function.
    program = (
        "import os, tem_tf_run\n"
        "guard = tem_tf_run.load_part('launch').guard\n"
        "ask = guard.dying_with_this_process()\n"
        "if os.fork():\n"
        "    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "if os.fork():\n"
        "    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "ask()\n"
        "os._exit(7)"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 1


@pytest.mark.parametrize("code", [0, 3])
def test_a_guard_killed_before_the_workers_start_leaves_the_exit_code(code):
    command = ["--workers", 2, "--", "python", "-c", f"raise SystemExit({code})"]
    result = launch(*command, launcher=changed(WITHOUT_GUARD))
    assert result.returncode == code
    assert "Traceback" not in result.stderr


NO_PROCESS = """
def none(*arguments, **options):
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
os.posix_spawn = none
"""


def test_a_job_runs_where_no_guard_can_be_had():
    command = ["--workers", 2, "--", "python", "-c", "raise SystemExit(3)"]
    result = launch(*command, launcher=changed(NO_PROCESS))
    assert result.returncode == 3
    assert "Traceback" not in result.stderr


def test_guards_are_not_renewed_without_end():
    dying = "launch.guard.PROGRAM = os.devnull\n"  # Ends as soon as it has begun.
    counting = (
        "spawn, count = os.posix_spawn, []\n"
        "def one(*arguments, **options):\n"
        "    count.append(1)\n"
        "    return spawn(*arguments, **options)\n"
        "os.posix_spawn = one\n"
        "code = local.main(sys.argv[1:])\n"
        "print(len(count))\n"
        "sys.exit(code)\n"
    )
    command = ["--workers", 1, "--", "python", "-c", "import time; time.sleep(2)"]
    result = launch(*command, launcher=changed(dying, counting))
    assert (result.returncode, result.stderr) == (0, "")
    assert 1 < int(result.stdout) <= 10


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
