"""A job that stands still is noticed, named and ended."""

import os
import signal
import types

import pytest

from tem_tf.launch import stall
from tests.launch.launcher import (
    HEARTBEAT,
    INDEX,
    SHORT_PAUSES,
    changed,
    launch,
    running,
    said,
)
from tests.processes import still_running

SILENT = "import time; time.sleep(1000)"
# To stderr: the ids alone are on stdout.
STEPS = "import sys\nwhile True: print('step', file=sys.stderr); time.sleep(0.05)"


class Clock:
    """A time that goes on when it is told to, and files of heartbeats in it."""

    def __init__(self, monkeypatch, workers=2):
        self.now = 100.0
        monkeypatch.setattr(
            stall,
            "time",
            types.SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now),
        )
        self.beats: list[float | None] = [None] * workers
        self.workers = [
            types.SimpleNamespace(index=index, heard=0.0) for index in range(workers)
        ]

    def last_beat(self, index):
        return self.beats[index]

    def go(self, watch, seconds):
        """Goes on, looking as often as the watch wants; returns the first answer."""
        for _ in range(round(seconds / watch.interval)):
            self.now += watch.interval
            if answer := watch.look(self.workers):
                return answer
        return None


def test_a_stall_is_found_after_so_many_seconds(monkeypatch):
    clock = Clock(monkeypatch)
    watch = stall.StallWatch(clock, 10.0)
    assert clock.go(watch, 10.0) is None  # The first look makes the beginning.
    assert clock.go(watch, 1.0) == (
        "no line and no heartbeat of any worker for 10 s (none has had a heartbeat)"
    )


def test_looks_are_a_second_apart_at_most(monkeypatch):
    seconds = {each: stall.StallWatch(Clock(monkeypatch), each) for each in (2, 600)}
    assert {each: watch.interval for each, watch in seconds.items()} == {2: 0.2, 600: 1}


@pytest.mark.parametrize("sign", ["line", "heartbeat", "end"])
def test_a_sign_of_life_of_one_worker_begins_the_time_again(monkeypatch, sign):
    clock = Clock(monkeypatch)
    watch = stall.StallWatch(clock, 10.0)
    for _ in range(3):
        assert clock.go(watch, 9.0) is None
        if sign == "line":
            clock.workers[1].heard = clock.now
        elif sign == "heartbeat":
            clock.beats[1] = clock.now
        else:
            clock.workers = clock.workers[:-1]
            break
    assert clock.go(watch, 9.0) is None
    assert clock.go(watch, 3.0) is not None


def test_the_oldest_heartbeat_is_named(monkeypatch):
    clock = Clock(monkeypatch, workers=3)
    watch = stall.StallWatch(clock, 10.0)
    clock.beats = [99.0, None, 98.0]
    assert clock.go(watch, 20.0).endswith(" for 10 s (worker 1 has had none)")
    clock.beats[1] = 100.0
    assert clock.go(watch, 20.0).endswith(" (the oldest is worker 2's, 24 s ago)")


def test_time_in_which_the_launcher_was_stopped_does_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    watch = stall.StallWatch(clock, 10.0)
    assert clock.go(watch, 5.0) is None
    clock.now += 1000
    assert watch.look(clock.workers) is None
    assert clock.go(watch, 2.0) is None
    assert clock.go(watch, 4.0) is not None


# ---------------------------------------------------------------------- the launcher


def test_a_stall_ends_the_job_with_its_own_code():
    command = ["--workers=2", "--stall_seconds=0.5", "--", "python", "-c", SILENT]
    result = launch(*command)
    assert result.returncode == 124
    text = "no line and no heartbeat of any worker for 0.5 s (none has had a heartbeat)"
    assert said(result.stderr) == [f"{text}; ending all.", f"{text}."]


def test_without_the_option_silence_is_no_stall():
    result = launch("--workers=1", "--", "python", "-c", "import time; time.sleep(2)")
    assert (result.returncode, result.stderr) == (0, "")


def test_heartbeats_alone_keep_a_job_alive():
    # A beat a second is what there is at most; a start takes some tenths.
    program = "import time\nfor _ in range(60): heartbeat.beat(); time.sleep(0.1)\n"
    command = ["--workers=1", "--stall_seconds=5", "--", "python", "-c"]
    result = launch(*command, HEARTBEAT + program)
    assert (result.returncode, result.stderr) == (0, "")


def test_stopped_workers_are_a_stall_and_leave_none():
    program = INDEX + f"import time\nprint(os.getpid(), flush=True)\n{STEPS}"
    options = ["--stall_seconds=2", "--grace_seconds=0.5"]
    with running(*options, "--", "python", "-c", program) as (launcher, pids):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        _, errors = launcher.communicate(timeout=30)
        assert launcher.returncode == 124
        assert still_running(pids) == []
    assert "worker 0, 1 did not end in 0.5 s: killing." in said(errors)


def test_a_stall_is_a_failure_that_is_tried_anew():
    program = HEARTBEAT + "import time; time.sleep(0 if restart else 1000)"
    options = ["--workers=2", "--stall_seconds=1.5", "--max_restarts=1"]
    launcher = changed(SHORT_PAUSES)
    result = launch(*options, "--", "python", "-c", program, launcher=launcher)
    assert result.returncode == 0
    assert said(result.stderr)[-1] == (
        "no line and no heartbeat of any worker for 1.5 s (none has had a heartbeat): "
        "restart 1 of 1, in 0.02 s."
    )


def test_the_grace_period_after_a_wish_is_no_stall():
    program = (
        "import signal, time\n"
        "def stop(*_): time.sleep(2); os._exit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print(os.getpid(), flush=True)\n"
        f"{STEPS}"
    )
    options = ["--stall_seconds=1", "--grace_seconds=30"]
    with running(*options, "--", "python", "-c", INDEX + program) as (launcher, _):
        launcher.send_signal(signal.SIGTERM)
        launcher.communicate(timeout=30)
    assert launcher.returncode == 75
