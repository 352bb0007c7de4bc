"""What the processes of a study say when they fail."""

import pickle
import sys

import pytest
import tensorflow as tf

from tem_studies.refusal import Refusal
from tem_studies.workloads import processes


def fail(study, keep_on):
    """Work that fails with what it is given."""
    raise study


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refusal("`budgets` 0.1 cannot"), "main.py: error: `budgets` 0.1 cannot"),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_a_user_can_set_right_is_one_line(monkeypatch, error, code):
    for name in ("intra", "inter"):
        name = f"set_{name}_op_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, name, lambda _: None)
    monkeypatch.setattr(sys, "argv", ["somewhere/main.py"])

    with pytest.raises(SystemExit) as ended:
        processes._work_as_child(pickle.dumps((fail, error)), 1, 0)
    # Python prints a text and ends with exit code 1.
    assert ended.value.code == code
