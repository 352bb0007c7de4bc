"""The wish to stop: who gets it, what the launcher ends with, and who is not killed."""

import shlex
import signal
import sys

import pytest

from tests.launch.launcher import (
    HEARTBEAT,
    INDEX,
    launch,
    running,
    said,
    wait_until_said,
)
from tests.processes import still_running

STOPPED = (
    "the workers have stopped on wish and saved their state: the same command goes on "
    "from there (exit code 75)."
)
# Takes the signals of the list `numbers`, prints its id, and ends with 75 some time
# after one came, as a program that saves its state at the end of the step.
SAVES = (
    "import os, signal, sys, time\n"
    "got = []\n"
    "for number in {numbers}: signal.signal(number, lambda n, _: got.append(n))\n"
    "print(os.getpid(), flush=True)\n"
    "while not got: time.sleep(0.02)\n"
    "print('saving', got, file=sys.stderr, flush=True)\n"
    "time.sleep({seconds})\n"
    "print('saved', file=sys.stderr, flush=True)\n"
    "sys.exit(75)"
)
BOTH = [int(signal.SIGTERM), int(signal.SIGUSR1)]
PLAIN = ["python", "-c", SAVES.format(numbers=BOTH, seconds=0.2)]
GRACE = "--grace_seconds=30"


def in_a_shell(program, python=sys.executable):
    """A shell's line that runs a program of Python's and hands its exit code on."""
    return f"{shlex.quote(str(python))} -c {shlex.quote(program)}; exit $?"


SHELL_LINE = in_a_shell(PLAIN[2]).removesuffix("; exit $?")


def stop(launcher, *numbers):
    """Sends the signals; returns what was said until the launcher's end."""
    for number in numbers:
        launcher.send_signal(number)
    return launcher.communicate(timeout=60)[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    "command",
    [
        PLAIN,
        # The shell waits, and would die of the signal if it got it, too.
        ["bash", "-c", f"{SHELL_LINE}; exit $?"],
        ["sh", "-c", f"(cd /; {SHELL_LINE}); exit $?"],
        ["bash", "-c", f"cd / && {SHELL_LINE}"],
    ],
    ids=["plain", "bash", "a shell in a shell", "the last command"],
)
def test_workers_save_and_the_job_can_be_started_again(number, command):
    options = [GRACE, "--max_restarts=3"]
    with running(*options, "--", *command) as (launcher, pids):
        errors = stop(launcher, number)
        assert launcher.returncode == 75
        assert still_running(pids) == []
    assert said(errors) == [f"{number.name}: ending all workers.", STOPPED]
    assert errors.count(f"saving [{int(number)}]\n") == 2


def test_what_a_worker_has_started_lives_until_it_has_saved():
    program = (
        "import subprocess\nhelper = subprocess.Popen(['sleep', '1000'])\n"
        + SAVES.format(numbers=BOTH, seconds=0.3).replace(
            "'saved'", "'helper', helper.poll()"
        )
    )
    with running(GRACE, "--", "python", "-c", program) as (launcher, _):
        errors = stop(launcher, signal.SIGUSR1)
    assert launcher.returncode == 75
    assert errors.count("helper None\n") == 2


def test_sigterm_comes_where_the_signal_is_not_known():
    # To the same process alone: the shell, which would die of it, hands its code on.
    program = SAVES.format(numbers=BOTH[:1], seconds=0)
    with running(GRACE, "--", "bash", "-c", in_a_shell(program)) as (launcher, _):
        errors = stop(launcher, signal.SIGUSR1)
    assert launcher.returncode == 75
    assert errors.count(f"saving [{int(signal.SIGTERM)}]\n") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_workers_without_a_handler_end_at_once_by_sigterm(number):
    sleep = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    with running("--grace_seconds=600", "--", "python", "-c", sleep) as (
        launcher,
        pids,
    ):
        errors = stop(launcher, number)
        assert launcher.returncode == 128 + number
        assert still_running(pids) == []
    assert said(errors) == [f"{number.name}: ending all workers."]


def test_a_worker_that_does_not_stop_in_time_is_killed():
    deaf = SAVES.format(numbers=BOTH, seconds="1000 if index == 0 else 0")
    options = ["--grace_seconds=1", "--max_restarts=3"]
    with running(*options, "--", "python", "-c", INDEX + deaf) as (launcher, pids):
        errors = stop(launcher, signal.SIGTERM)
        assert launcher.returncode == 128 + signal.SIGTERM
        assert still_running(pids) == []
    assert said(errors)[1:] == ["worker 0 did not end in 1 s: killing."]


def test_a_repeated_wish_does_not_cut_the_time_to_save_but_ctrl_c_does():
    program = SAVES.format(numbers=BOTH, seconds=1)
    with running(GRACE, "--", "python", "-c", program) as (launcher, _):
        launcher.send_signal(signal.SIGUSR1)
        wait_until_said(launcher, "SIGUSR1: ending")
        assert stop(launcher, signal.SIGTERM, signal.SIGUSR1).count("saved\n") == 2
    assert launcher.returncode == 75
    program = SAVES.format(numbers=BOTH, seconds=1000)
    with running("--grace_seconds=600", "--", "python", "-c", program) as (
        launcher,
        pids,
    ):
        launcher.send_signal(signal.SIGUSR1)
        wait_until_said(launcher, "saving")
        stop(launcher, signal.SIGINT)
        assert launcher.returncode == 128 + signal.SIGUSR1
        assert still_running(pids) == []


def test_ctrl_c_is_no_wish():
    program = SAVES.format(numbers=[int(signal.SIGINT)], seconds=0)
    with running(GRACE, "--", "python", "-c", program) as (launcher, _):
        errors = stop(launcher, signal.SIGINT)
    assert launcher.returncode == 128 + signal.SIGINT
    assert said(errors) == ["SIGINT: ending all workers."]


@pytest.mark.parametrize(
    ("stop_signals", "number", "code"),
    [
        ("SIGUSR2,SIGHUP", signal.SIGUSR2, 75),
        ("SIGUSR2,SIGHUP", signal.SIGHUP, 75),
        # As it was before there were wishes: to all processes of a worker.
        ("SIGUSR2", signal.SIGTERM, 143),
        ("", signal.SIGTERM, 143),
    ],
)
def test_the_signals_can_be_chosen(stop_signals, number, code):
    program = SAVES.format(numbers=[int(number)], seconds=0)
    option = f"--stop_signals={stop_signals}"
    with running(GRACE, option, "--", "python", "-c", program) as (launcher, _):
        stop(launcher, number)
    assert launcher.returncode == code


@pytest.mark.parametrize("names", ["SIGINT", "SIGKILL", "TERM", "SIGTERM, SIGUSR1"])
def test_other_names_are_refused(names):
    result = launch("--workers=1", f"--stop_signals={names}", "--", "true")
    assert result.returncode == 2
    assert "`--stop_signals` must be names of SIGTERM, SIGUSR1, " in result.stderr
    assert f"Received: {names.split(',')[-1]}" in result.stderr


# ------------------------------------------------------------ a worker's own scheduler


def run(*programs, options=()):
    """Runs one program per worker, with `save` to end as one that has saved."""
    start = HEARTBEAT + "import time\ndef save(): sys.exit(75)\n"
    choice = "".join(
        f"if index == {index}: {program}\n" for index, program in enumerate(programs)
    )
    options = ["--workers", len(programs), *options]
    return launch(*options, "--", "python", "-c", start + choice)


def test_workers_that_were_told_by_others_stop_the_job():
    result = run("save()", "time.sleep(0.5); save()", options=["--max_restarts=2"])
    assert result.returncode == 75
    first, *others = said(result.stderr)
    assert first.startswith("worker 0 stopped on wish (exit code 75) after ")
    assert first.endswith(" s; waiting up to 5 s for the others.")
    assert others == [STOPPED]


def test_one_that_was_through_before_has_nothing_to_save():
    result = run("pass", "time.sleep(0.5); save()")
    assert result.returncode == 75
    assert said(result.stderr)[-1] == STOPPED


def test_others_are_waited_for_no_longer_than_the_grace_period():
    options = ["--grace_seconds=0.5", "--max_restarts=2"]
    result = run("save()", "time.sleep(1000)", options=options)
    assert result.returncode == 75
    assert said(result.stderr)[1:] == ["worker 1 did not end: ending all.", STOPPED]


def test_a_failure_beside_it_is_a_failure():
    result = run("save()", "time.sleep(0.5); sys.exit(4)")
    assert result.returncode == 4
    assert said(result.stderr)[-1].startswith("worker 1 failed with exit code 4 after ")


def test_a_worker_with_a_blank_and_parentheses_in_its_name_is_found(tmp_path):
    # As /proc shows it, between the parentheses of its own.
    odd = tmp_path / "a) R (b"
    odd.symlink_to(sys.executable)
    environment = {"PYTHONHOME": sys.base_prefix}
    command = in_a_shell(PLAIN[2], odd)
    with running(
        GRACE,
        "--",
        "env",
        *(f"{k}={v}" for k, v in environment.items()),
        "bash",
        "-c",
        command,
    ) as (launcher, _):
        stop(launcher, signal.SIGUSR1)
    assert launcher.returncode == 75
