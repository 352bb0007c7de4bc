"""The launcher: output, exit codes, ends, and what it leaves behind.

The workers are short Python programs without TensorFlow, so each test takes a blink.
"""

import json
import os
import shlex
import signal
import socket
import sys
import time

import pytest

from tests.launch.launcher import INDEX, LAUNCHER, launch, running
from tests.processes import still_running

PYTHON = shlex.quote(sys.executable)  # For commands that a shell takes apart.
# Says its process id, then sleeps for longer than any test.
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
# The same, deaf to polite requests.
DEAF = (
    "import signal\n"
    "for number in (signal.SIGINT, signal.SIGTERM):\n"
    "    signal.signal(number, signal.SIG_IGN)\n"
) + SLEEP
# What a worker says before it fails: how long Python takes to start is left out.
FAILING = "import time; print(f'failing at {time.monotonic()}', flush=True)"


def seconds_since_failing(result):
    """From what a worker said with FAILING until now; the clock is the system's."""
    (line,) = (line for line in result.stdout.splitlines() if "failing at" in line)
    return time.monotonic() - float(line.split()[-1])


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --------------------------------------------------------------- what a worker gets


def test_workers_get_one_cluster_and_their_own_index():
    program = "import os; print(os.environ['TF_CONFIG'])"
    result = launch("--workers", 3, "--", "python", "-c", program)
    configs = [json.loads(line.split("] ")[1]) for line in result.stdout.splitlines()]
    assert sorted(config["task"]["index"] for config in configs) == [0, 1, 2]
    assert {config["task"]["type"] for config in configs} == {"worker"}
    addresses = configs[0]["cluster"]["worker"]
    assert all(config["cluster"] == {"worker": addresses} for config in configs)
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_base_port_fixes_the_ports():
    base = free_port()
    program = "import os; print(os.environ['TF_CONFIG'])"
    result = launch("--workers=1", f"--base_port={base}", "--", "python", "-c", program)
    assert f'"worker": ["127.0.0.1:{base}"]' in result.stdout


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        ([], {}, max(1, len(os.sched_getaffinity(0)) // 2)),
        (["--threads_per_worker=3"], {}, 3),
        ([], {"OMP_NUM_THREADS": "5"}, 5),
        (["--threads_per_worker=3"], {"OMP_NUM_THREADS": "5"}, 3),
    ],
)
def test_threads_are_shared_out(monkeypatch, flags, variables, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    program = "import os; print(os.environ['OMP_NUM_THREADS'])"
    command = ["python", "-c", program]
    result = launch("--workers=2", *flags, "--", *command, environment=variables)
    lines = {f"[worker {index}] {expected}" for index in range(2)}
    assert set(result.stdout.splitlines()) == lines


# -------------------------------------------------------------------------- output


def test_every_line_has_its_worker_in_front_and_keeps_its_stream():
    program = INDEX + (
        "import sys\n"
        "print('out', index); print('no end', index, end='')\n"
        "print('err', index, file=sys.stderr)"
    )
    result = launch("--workers", 2, "--", "python", "-c", program)
    assert result.returncode == 0
    assert sorted(result.stdout.splitlines()) == [
        "[worker 0] no end 0",
        "[worker 0] out 0",
        "[worker 1] no end 1",
        "[worker 1] out 1",
    ]
    assert sorted(result.stderr.splitlines()) == [
        "[worker 0] err 0",
        "[worker 1] err 1",
    ]


def test_a_carriage_return_ends_a_line_and_an_empty_line_stays_one():
    # The sleep parts the CR and the LF of one line's end.
    program = (
        "import os, time\n"
        "os.write(1, b'\\r10 %\\r20 %\\r\\n\\nlast\\r'); time.sleep(0.2)\n"
        "os.write(1, b'\\nend\\n')"
    )
    result = launch("--workers", 1, "--", "python", "-c", program)
    lines = [line.removeprefix("[worker 0] ") for line in result.stdout.split("\n")]
    assert lines == ["10 %", "20 %", "", "last", "end", ""]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_closed_from_the_start_is_as_one_sent_to_nothing(closed):
    program = (
        "import sys; print('out', flush=True); print('err', file=sys.stderr)\n"
        "raise SystemExit(3)"
    )
    shell = ["bash", "-c", f'exec "$@" {closed}', "bash"]
    command = ["--workers", "1", "--", "python", "-c", program]
    result = launch(*command, launcher=[*shell, *LAUNCHER])
    assert result.returncode == 3
    streams = closed.split()
    assert ("[worker 0] out" in result.stdout) == (">&-" not in streams)
    assert ("[worker 0] err" in result.stderr) == ("2>&-" not in streams)


def test_lines_arrive_whole_when_workers_write_at_once():
    program = INDEX + "[print(str(index) * 5000) for _ in range(200)]"
    result = launch("--workers", 3, "--", "python", "-c", program)
    expected = sorted(f"[worker {i}] {str(i) * 5000}" for i in range(3)) * 200
    assert sorted(result.stdout.splitlines()) == sorted(expected)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_nobody_reads_any_more_ends_the_workers(stream):
    program = (
        "import os, sys, time; print(os.getpid(), flush=True); time.sleep(0.5)\n"
        f"while True: print('more', file=sys.{stream}, flush=True); time.sleep(0.05)"
    )
    with running("--", "python", "-c", program) as (launcher, pids):
        getattr(launcher, stream).close()
        assert launcher.wait(timeout=10) == 128 + signal.SIGPIPE
        assert still_running(pids, seconds=5) == []


# ---------------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("raise SystemExit(7)", 7, "worker 1 failed with exit code 7"),
        ("os.kill(os.getpid(), 9)", 137, "worker 1 was ended by SIGKILL"),
    ],
)
def test_the_first_failure_ends_the_others_and_gives_the_exit_code(end, code, said):
    program = INDEX + (
        "import time\n"
        "print(f'pid {os.getpid()}', flush=True)\n"
        f"if index == 1: {FAILING}; print('why it failed', flush=True); {end}\n"
        "time.sleep(1000)"
    )
    result = launch("--workers", 3, "--", "python", "-c", program)
    assert seconds_since_failing(result) < 5
    assert result.returncode == code
    assert said in result.stderr
    assert "[launcher]     why it failed" in result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    pids = [int(words[-1]) for words in lines if "pid" in words]
    assert pids
    assert still_running(pids) == []


def test_workers_that_ignore_sigterm_are_killed_after_the_grace_period():
    program = INDEX + f"if index == 1: {FAILING}; raise SystemExit(4)\n{DEAF}"
    result = launch("--workers=2", "--grace_seconds=0.5", "--", "python", "-c", program)
    assert seconds_since_failing(result) < 5
    assert result.returncode == 4


def test_workers_may_finish_at_different_times():
    program = INDEX + "import time; time.sleep(0.3 * index); print('done')"
    result = launch("--workers", 2, "--", "python", "-c", program)
    assert result.returncode == 0
    assert result.stdout.count("done") == 2
    assert result.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_worker(number):
    with running("--", "python", "-c", SLEEP) as (launcher, pids):
        launcher.send_signal(number)
        assert launcher.wait(timeout=10) == 128 + number
        assert still_running(pids) == []


def test_workers_that_ignore_the_launchers_signal_are_told_and_killed():
    # As TensorFlow's do: its watch for preemption takes SIGTERM.
    with running("--grace_seconds=0.3", "--", "python", "-c", DEAF) as (launcher, pids):
        time.sleep(0.3)  # They have just printed; now they are deaf and asleep.
        launcher.send_signal(signal.SIGTERM)
        _, errors = launcher.communicate(timeout=10)
        assert launcher.returncode == 128 + signal.SIGTERM
        assert still_running(pids) == []
    assert errors.splitlines() == [
        "[launcher] SIGTERM: ending all workers.",
        "[launcher] worker 0, 1 did not end in 0.3 s: killing.",
    ]


def test_a_second_signal_does_not_wait_for_the_grace_period():
    with running("--grace_seconds=60", "--", "python", "-c", DEAF) as (launcher, pids):
        time.sleep(0.3)  # They have just printed; now they are deaf and asleep.
        launcher.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert launcher.poll() is None
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(timeout=10) == 128 + signal.SIGINT
        assert still_running(pids) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_a_worker_has_started_ends_with_the_launcher(number):
    command = ["bash", "-c", f"{PYTHON} -c '{SLEEP}'; true"]
    with running("--", *command) as (launcher, pids):
        launcher.send_signal(number)
        launcher.wait(timeout=10)
        assert still_running(pids, seconds=5) == []


def test_what_a_finished_worker_has_left_ends_too():
    program = f"{PYTHON} -c '{SLEEP}' & sleep 0.5"
    result = launch("--workers", 1, "--", "bash", "-c", program)
    assert result.returncode == 0
    assert still_running([int(result.stdout.split()[-1])]) == []


def test_a_killed_launcher_leaves_no_worker():
    with running("--", "python", "-c", DEAF) as (launcher, pids):
        launcher.send_signal(signal.SIGKILL)
        launcher.wait(timeout=10)
        assert still_running(pids, seconds=5) == []


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers=0", "--", "true"], "`--workers` must be at least 1. Received: 0"),
        (["--workers=two", "--", "true"], "invalid int value: 'two'"),
        (["--", "true"], "arguments are required: --workers"),
        (
            ["--workers=2", "--workers=3", "--", "true"],
            "given twice. Received: 2 and 3",
        ),
        (["--workers=2"], "The `--` in front of the command is missing"),
        (["--workers=2", "true"], "The `--` in front of the command is missing"),
        (["--workers=2", "--x", "--", "true"], "unrecognized arguments: --x"),
        (["--workers=2", "--"], "No command after `--`"),
        (["--workers=2", "--", "no-such-program"], "not found or not executable: no-"),
        (["--workers=2", "--base_port=65535", "--", "true"], "room for 2 ports in"),
        (["--workers=2", "--threads_per_worker=0", "--", "true"], "must be at least 1"),
        (["--workers=2", "--grace_seconds=nan", "--", "true"], "Received: nan"),
        (
            ["--workers=2", "--max_restarts=-1", "--", "true"],
            "`--max_restarts` must be 0 or more. Received: -1",
        ),
        (
            ["--workers=2", "--stall_seconds=0", "--", "true"],
            "`--stall_seconds` must be a number of seconds above 0. Received: 0",
        ),
        (["--workers=2", "--stall_seconds=inf", "--", "true"], "Received: inf"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments, message):
    result = launch(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_port_in_use_is_refused_before_the_start():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = launch("--workers=1", f"--base_port={port}", "--", "echo", "started")
    assert result.returncode == 2
    assert f"Port {port} cannot be used (Address already in use)" in result.stderr
    assert "started" not in result.stdout


def test_tf_config_that_is_already_set_is_refused():
    command = ["--workers", "1", "--", "echo", "started"]
    for unset in ("", "{}"):
        assert launch(*command, environment={"TF_CONFIG": unset}).returncode == 0
    result = launch(*command, environment={"TF_CONFIG": '{"task": {}}'})
    assert result.returncode == 2
    assert "TF_CONFIG is set already" in result.stderr
    assert "started" not in result.stdout
