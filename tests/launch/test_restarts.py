"""All workers started anew after a failure: when, how often, and with what."""

import json
import os
import signal
import socket

import pytest

from tem_tf.launch.job import RestartCount
from tests.launch.launcher import (
    HEARTBEAT,
    INDEX,
    SHORT_PAUSES,
    changed,
    launch,
    running,
    said,
    wait_until_said,
)
from tests.processes import still_running

SHORT = changed(SHORT_PAUSES)


def run(program, *options, workers=2, launcher=SHORT):
    command = ["--", "python", "-c", HEARTBEAT + program]
    return launch("--workers", workers, *options, *command, launcher=launcher)


def restarts(result):
    """The launcher's lines about starts, without the indented ones of workers."""
    lines = said(result.stderr)
    return [line for line in lines if "restart" in line and line[0] != " "]


# ------------------------------------------------------------------------- the count


def test_pauses_double_up_to_a_minute():
    count = RestartCount(9)
    pauses = [count.pause_seconds(progress=False) for _ in range(10)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, None]
    assert count.total == 9


def test_the_count_begins_again_after_progress():
    count = RestartCount(2)
    told = [False, False, True, False, False]
    assert [count.pause_seconds(each) for each in told] == [1, 2, 1, 2, None]
    assert (count.total, count.in_a_row) == (4, 2)
    # Of no use where none is allowed.
    assert RestartCount(0).pause_seconds(progress=True) is None


# ---------------------------------------------------------------------- the launcher


def test_without_the_option_nothing_is_started_anew():
    result = run("print('restart', restart); raise SystemExit(3)", workers=1)
    assert result.returncode == 3
    assert result.stdout == "[worker 0] restart 0\n"
    assert restarts(result) == []


@pytest.mark.parametrize(
    ("end", "code", "how"),
    [
        ("raise SystemExit(3)", 3, "failed with exit code 3"),
        ("raise SystemExit(2)", 2, "failed with exit code 2"),
        ("import os; os.kill(os.getpid(), 9)", 137, "was ended by SIGKILL"),
    ],
)
def test_a_failure_is_tried_anew_so_many_times(end, code, how):
    result = run(f"print('restart', restart); {end}", "--max_restarts=2", workers=1)
    assert result.returncode == code
    assert result.stdout.splitlines() == [f"[worker 0] restart {i}" for i in range(3)]
    lines = said(result.stderr)
    assert [line for line in lines if ": restart" in line] == restarts(result)[:2]
    first, second, last = restarts(result)
    assert first.startswith(f"worker 0 {how} after ")
    assert first.endswith(" s: restart 1 of 2, in 0.02 s.")
    assert second.endswith(" s: restart 2 of 2, in 0.02 s.")
    assert last == lines[-1] == "no restart: 2 in a row did not help."
    # What it said last is shown in the end alone.
    assert lines[-2] == "    restart 2"
    assert lines.count("    restart 2") == 1


def test_the_second_start_may_go_well():
    # The others are ended before, and have their own variables afterwards.
    program = (
        "import time\n"
        "print(restart, index, flush=True)\n"
        "if restart == 0: time.sleep(0 if index == 1 else 1000)\n"
        "raise SystemExit(1 if restart == 0 else 0)"
    )
    result = run(program, "--max_restarts=1", workers=3)
    assert result.returncode == 0
    words = {tuple(line.split()[2:]) for line in result.stdout.splitlines()}
    assert {("1", "0"), ("1", "1"), ("1", "2"), ("0", "1")} <= words
    (line,) = restarts(result)
    assert line.startswith("worker 1 failed with exit code 1 after ")


def test_a_later_checkpoint_begins_the_count_again():
    program = (
        "heartbeat.committed(10 + restart)\nraise SystemExit(0 if restart == 3 else 1)"
    )
    result = run(program, "--max_restarts=1", workers=1)
    assert result.returncode == 0
    assert [line.split(": ")[1] for line in restarts(result)] == [
        "restart 1 of 1, in 0.02 s."
    ] * 3


def test_the_same_checkpoint_is_no_progress():
    # Nor is an earlier one, which is gone back to where the last was torn, nor is the
    # way from there to where all have been before. The first start's is.
    program = "heartbeat.committed([10, 4, 10][restart]); raise SystemExit(1)"
    result = run(program, "--max_restarts=2", workers=1)
    assert result.returncode == 1
    first, second, last = restarts(result)
    assert first.endswith(": restart 1 of 2, in 0.02 s.")
    assert second.endswith(": restart 2 of 2, in 0.02 s.")
    assert last == "no restart: 2 in a row did not help."


def test_the_pause_is_a_second_at_first():
    program = "import time; print(time.monotonic()); raise SystemExit(1)"
    command = ["--", "python", "-c", program]
    result = launch("--workers=1", "--max_restarts=1", *command)
    (line, _) = restarts(result)
    assert line.endswith(": restart 1 of 1, in 1 s.")
    first, second = (float(line.split()[-1]) for line in result.stdout.splitlines())
    assert second - first >= 1


PORTS = "print(os.environ['TF_CONFIG']); raise SystemExit(1)"


def test_each_start_has_ports_of_its_own():
    result = run(PORTS, "--max_restarts=1", workers=1)
    configs = [json.loads(line.split("] ")[1]) for line in result.stdout.splitlines()]
    first, second = (config["cluster"]["worker"][0] for config in configs)
    assert first != second


def test_base_port_stays():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    result = run(PORTS, "--max_restarts=1", f"--base_port={port}", workers=1)
    assert result.stdout.count(f'"127.0.0.1:{port}"') == 2


def test_a_port_that_is_taken_meanwhile_is_a_failure():
    # By a process that has left the worker's group, and that the test ends.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    program = (
        "import socket, subprocess, sys\n"
        "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "os.set_inheritable(listener.fileno(), True)\n"
        "left = subprocess.Popen(['sleep', '1000'], close_fds=False,\n"
        "    start_new_session=True, stdout=subprocess.DEVNULL,\n"
        "    stderr=subprocess.DEVNULL)\n"
        "print(left.pid); raise SystemExit(1)"
    )
    options = ["--workers=1", "--max_restarts=1", f"--base_port={port}"]
    command = ["--", "python", "-c", HEARTBEAT + program, port]
    result = launch(*options, *command, launcher=SHORT)
    (line,) = result.stdout.splitlines()
    os.kill(int(line.split()[-1]), signal.SIGKILL)
    assert result.returncode == 126
    assert "Address already in use" in said(result.stderr)[-2]
    assert said(result.stderr)[-1] == "no restart: 1 in a row did not help."


TWICE = """
start, starts = subprocess.Popen, []
def start_one(*arguments, **options):
    starts.append(arguments)
    if len(starts) == 2:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return start(*arguments, **options)
subprocess.Popen = start_one
"""


def test_a_worker_that_cannot_be_started_is_a_failure():
    program = "import time; print(restart, index); time.sleep(0 if restart else 1000)"
    result = run(program, "--max_restarts=1", launcher=changed(SHORT_PAUSES, TWICE))
    assert result.returncode == 0
    (line,) = said(result.stderr)
    assert line.startswith("cannot start ")
    assert line.endswith("Resource temporarily unavailable: restart 1 of 1, in 0.02 s.")
    assert sorted(result.stdout.splitlines()) == ["[worker 0] 1 0", "[worker 1] 1 1"]


def both_then(folder, program):
    """Both workers print their ids; then the first one does this, the other sleeps."""
    return INDEX + (
        "import pathlib, time; print(os.getpid(), flush=True)\n"
        f"there = pathlib.Path({str(folder)!r}, 'there')\n"
        "if index == 1: there.touch(); time.sleep(1000)\n"
        "while not there.exists(): time.sleep(0.02)\n"
        f"{program}"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_no_failure(number):
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    options = ["--max_restarts=3", "--", "python", "-c", program]
    with running(*options) as (launcher, pids):
        launcher.send_signal(number)
        _, errors = launcher.communicate(timeout=20)
        assert launcher.returncode == 128 + number
        assert still_running(pids) == []
    assert "restart" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_pause(number, tmp_path):
    program = both_then(tmp_path, "raise SystemExit(1)")
    options = ["--max_restarts=3", "--", "python", "-c", program]
    pause = changed(
        "launch.job.RestartCount.pause_seconds = lambda self, progress: 1000.0"
    )
    with running(*options, launcher=pause) as (launcher, _):
        wait_until_said(launcher, ": restart")
        launcher.send_signal(number)
        _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 128 + number
    assert errors == f"[launcher] {number.name}: no restart.\n"


def test_a_signal_while_the_others_end_cancels_the_restart(tmp_path):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    program = deaf + both_then(tmp_path, "raise SystemExit(4)")
    options = ["--max_restarts=3", "--grace_seconds=60"]
    command = ["--", "python", "-c", program]
    with running(*options, *command, launcher=SHORT) as (launcher, pids):
        wait_until_said(launcher, "ending the others")
        launcher.send_signal(signal.SIGTERM)
        _, errors = launcher.communicate(timeout=20)
        assert launcher.returncode == 4
        assert still_running(pids) == []
    assert "restart" not in errors
