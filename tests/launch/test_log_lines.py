"""Which lines are TensorFlow's own, and what becomes of them."""

import pytest

from tem_tf.launch.log_lines import LogLines
from tests.launch.launcher import launch
from tests.launch.tensorflow_lines import ABSL, REMOTE, TENSORFLOWS

FATAL = "F0000 00:00:1795784650.325266   15230 tensor.cc:99] Check failed: dtype()"
PROGRAMS = [
    "",
    "loss 0.1",
    "  File train.py, line 12",
    f"the log has: {ABSL}",
    f" {ABSL}",
    ABSL.removesuffix("] oneDNN operations are on."),
    # Python's absl, which a user's program may log with.
    "I1127 13:03:20.123456 139876543210 train.py:30] loss 0.1",
    "2026-11-27 13:03:20.123456: I am here",
    "2026-11-27 13:03:20,123 INFO port.cc:153] oneDNN",
    "WARNING: All log messages before absl::InitializeLog() is called are written",
    "WARNING:tensorflow:5 out of the last 5 calls triggered tf.function retracing.",
    "train.py:3: UserWarning: the file is empty",
    FATAL,
    "2026-11-27 13:03:20.123456: F tensorflow/core/tensor.cc:99] Check failed",
]


@pytest.mark.parametrize("line", PROGRAMS)
def test_a_programs_line_is_not_tensorflows(line):
    lines = LogLines()
    assert not lines.recognise(line)
    assert lines.recognise(ABSL)
    assert not lines.recognise(line)  # Behind one of TensorFlow's neither.


def test_tensorflows_lines_are_recognised():
    lines = LogLines()
    assert [line for line in TENSORFLOWS if not lines.recognise(line)] == []


@pytest.mark.parametrize("before", ["Collective ops is aborted by:", FATAL])
def test_a_continuation_behind_a_shown_line_is_shown(before):
    lines = LogLines()
    texts = [ABSL, before, REMOTE, "/job:worker/replica:0/task:1"]
    assert [lines.recognise(text) for text in texts] == [True, False, False, False]


def test_a_continuation_behind_a_continuation_is_one():
    lines = LogLines()
    texts = [ABSL, REMOTE, REMOTE, "my own", REMOTE]
    expected = [True, True, True, False, False]
    assert [lines.recognise(text) for text in texts] == expected


# ------------------------------------------------------------- in the launcher's output

WRITES = f"""
import sys
for line in {TENSORFLOWS}:
    print(line, file=sys.stderr)
print("my own", file=sys.stderr)
raise SystemExit(3)
"""


def test_tensorflows_lines_are_left_out():
    result = launch("--workers", 1, "--", "python", "-c", WRITES)
    assert result.returncode == 3
    assert [line for line in TENSORFLOWS if line in result.stderr] == []
    assert "[worker 0] my own" in result.stderr


def test_tensorflow_logs_shows_them_but_not_among_the_last_lines():
    options = ["--workers", 1, "--tensorflow_logs"]
    lines = launch(*options, "--", "python", "-c", WRITES).stderr.split("\n")
    assert lines[: len(TENSORFLOWS)] == [f"[worker 0] {line}" for line in TENSORFLOWS]
    last = [line for line in lines if line.startswith("[launcher]    ")]
    assert last == ["[launcher]     my own"]


def test_on_stdout_they_are_the_programs():
    program = f"print({ABSL!r})"
    result = launch("--workers", 1, "--", "python", "-c", program)
    assert result.stdout == f"[worker 0] {ABSL}\n"
