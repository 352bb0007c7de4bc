"""Which worker the launcher names as the first that failed.

The workers print what TensorFlow's print. The one that fails first waits before its end
for longer than the others take to theirs; on a slow machine the order may be another
one, but the answer is the same.
"""

import textwrap

import pytest

from tem_tf.launch.first_failure import End, Trace, awaited, causes
from tests.launch.launcher import INDEX, ROOT, launch, said
from tests.launch.tensorflow_lines import ABSL, REMOTE

TRACEBACK = """\
Traceback (most recent call last):
  File "train.py", line 29, in <module>
    model.fit(data)

"""
OWN = TRACEBACK + "ValueError: the loss is bad"
UNAVAILABLE = f"""\
{TRACEBACK}tensorflow.python.framework.errors_impl.UnavailableError: Graph error:

Detected at node CollectiveReduceV2 defined at (most recent call last):
  File "train.py", line 29, in <module>
"""
LOST_0 = UNAVAILABLE + f"\nCollective ops is aborted by: Socket closed\n{REMOTE}"
LOST_1 = LOST_0.replace("task:0", "task:1")
LOGGED_LOSS = f"{ABSL}\n{REMOTE}"
CRASHED_1 = (
    "E0000 00:00:1795785050.875561    5978 base_collective_executor.cc:252] StartAbort "
    "UNAVAILABLE: Error reported from /job:worker/task:1: The following tasks are bad:"
)


def read(text, index=2):
    """The trace of a worker that wrote this."""
    trace = Trace(index)
    for line in text.split("\n"):
        trace.read(line, of_tensorflow=line.startswith("E0000"))
    return trace


@pytest.mark.parametrize(
    ("text", "lost", "own_error"),
    [
        ("", None, False),
        (OWN, None, True),
        ("KeyboardInterrupt", None, False),
        (f"{TRACEBACK}KeyboardInterrupt", None, True),
        (LOST_0, 0, False),
        (CRASHED_1, 1, False),
        (f"{CRASHED_1}\n{LOST_0}", 1, False),
        # An error that may come from a lost worker, but names none.
        (UNAVAILABLE, None, False),
        # TensorFlow logs while Python prints its traceback.
        (OWN.replace("\n\n", f"\n{CRASHED_1}\n"), 1, True),
        (OWN.replace("\n\n", f"\n{ABSL.replace('I', 'E', 1)}\n"), None, True),
        # An error of its own, and what its shutdown shows of the others'.
        (f"{OWN}\n{LOGGED_LOSS}", 0, True),
        # One that was caught and logged before.
        (f"{OWN}\n{LOST_0}", 0, False),
        # A program's own exception from the loss of a worker.
        (f"{LOST_0}\n\nDuring handling of the above exception:\n\n{OWN}", 0, False),
        (f"{LOST_0}\nException ignored in: <function f>\n{OWN}", 0, False),
        (f"{OWN}\nException ignored in: <function f>\n{LOST_0}", 0, True),
        # Its own index; another job; a line that contains the words.
        (LOST_0.replace("task:0", "task:2"), None, False),
        (LOST_0.replace("/job:worker", "/job:ps"), None, False),
        (f"I saw: {REMOTE}", None, False),
    ],
)
def test_trace(text, lost, own_error):
    trace = read(text)
    assert (trace.lost, trace.own_error) == (lost, own_error)


@pytest.mark.parametrize(
    ("text", "code", "lost"),
    [
        (LOST_0, 1, 0),
        (LOST_0, -6, 0),  # Some errors that follow are fatal.
        (LOST_0, -9, None),  # Somebody killed it.
        (f"{OWN}\n{LOGGED_LOSS}", 1, None),
        (OWN, 1, None),
    ],
)
def test_an_end_follows_from_a_loss(text, code, lost):
    assert End.of(2, code, 1.0, False, read(text)).lost == lost


def test_causes_are_in_the_order_of_the_ends():
    ends = [
        End(index=0, code=1, seconds=1.0, asked=False, lost=3),
        End(index=1, code=4, seconds=3.0, asked=False, lost=None),
        End(index=2, code=5, seconds=2.0, asked=False, lost=None),
        End(index=3, code=0, seconds=0.5, asked=False, lost=None),
        End(index=4, code=-15, seconds=0.7, asked=True, lost=None),
    ]
    assert [end.index for end in causes(ends)] == [2, 1]
    assert awaited(ends, running={3, 5}) == {3}
    assert awaited(ends, running={5}) == set()


# ------------------------------------------------------------------------ the launcher


def run(*programs, options=()):
    """Runs one program per worker; `say` writes to stderr, `then` waits."""
    start = INDEX + (
        "import signal, sys, time\n"
        "def say(text): print(text, file=sys.stderr)\n"
        "def then(seconds=0.7): time.sleep(seconds)\n"
        "def end(code): sys.exit(code)\n"
        "def kill(number): os.kill(os.getpid(), number)\n"
    )
    choice = "".join(
        f"if index == {index}:\n{textwrap.indent(program, '    ')}\n"
        for index, program in enumerate(programs)
    )
    command = ["--", "python", "-c", start + choice]
    return launch("--workers", len(programs), *options, *command)


NOTICES_0 = f"say({LOST_0!r}); end(1)"
NOTICES_1 = f"say({LOST_1!r}); end(1)"


@pytest.mark.parametrize(
    ("last", "code", "end", "shown"),
    [
        (f"say({OWN!r}); then(); end(4)", 4, "failed with exit code 4", "ValueError: "),
        ("print('step 7'); then(); kill(9)", 137, "was ended by SIGKILL", "step 7"),
        ("say('x'); then(); os._exit(3)", 3, "failed with exit code 3", "x"),
    ],
    ids=["raises", "is killed", "exits"],
)
def test_the_first_failure_is_named_though_another_worker_ends_before(
    last, code, end, shown
):
    # The third has lost the second, which has lost the first.
    result = run(last, NOTICES_0, f"then(0.2); {NOTICES_1}")
    assert result.returncode == code
    lines = said(result.stderr)
    begin = next(i for i, line in enumerate(lines) if "Its last lines" in line)
    assert lines[begin].startswith(f"worker 0 {end} after ")
    assert any(line.strip().startswith(shown) for line in lines[begin:])
    assert "UnavailableError" not in "".join(lines)
    if "having lost" in lines[0]:
        assert lines[0].endswith("; waiting up to 3 s for that one's end.")


def test_an_error_of_ones_own_is_the_first_without_waiting():
    result = run("then(1000)", f"say({OWN!r}); end(4)")
    assert result.returncode == 4
    first, second, *_ = said(result.stderr)
    assert first.startswith("worker 1 failed with exit code 4 after ")
    assert first.endswith(" s; ending the others.")
    assert second == first.replace("; ending the others", "") + " Its last lines:"


def test_a_worker_that_raised_and_does_not_end_is_named():
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    result = run(
        f"{deaf}say({OWN!r}); then(1000)",
        f"then(); {NOTICES_0}",
        options=["--grace_seconds=0.3"],
    )
    assert result.returncode == 1
    lines = said(result.stderr)
    assert "worker 0 raised an exception, but did not end. Its last lines:" in lines
    assert "    ValueError: the loss is bad" in lines


def test_a_worker_that_ended_well_before_the_others_is_told():
    result = run("pass", f"then(); {NOTICES_0}")
    assert result.returncode == 1
    _, title, first, second, *_ = said(result.stderr)
    assert title == "It is not certain which worker failed first:"
    assert first.startswith("    worker 0 ended with exit code 0 after ")
    assert second.startswith("    worker 1 failed with exit code 1 after ")
    assert second.endswith(", having lost worker 0")


def test_what_is_known_is_said_where_the_cause_is_not():
    result = run("then(1000)", NOTICES_0, options=["--grace_seconds=0.5"])
    assert result.returncode == 1
    lines = said(result.stderr)
    assert "worker 0 did not end: ending all." in lines
    assert "    worker 0 still ran" in lines
    assert "worker 1 was the first to end so. Its last lines:" in lines


def test_a_worker_that_says_nothing_has_no_last_lines():
    result = run("os._exit(3)")
    assert said(result.stderr)[-1].endswith(". It wrote nothing.")


# --------------------------------------------------------------------- with TensorFlow

TRAINING = """
import keras, numpy as np, tensorflow as tf, tem_tf
strategy = tem_tf.MultiWorkerMirroredStrategy()
class Raise(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5 and index == 0:
            raise ValueError("the loss is bad")
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    inner = keras.optimizers.SGD(0.01)
    model.compile(tem_tf.SparsifiedOptimizer(inner, tem_tf.TopK(0.5)), "mse")
x = np.ones((80, 4), np.float32)
data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(4)
model.fit(data, shuffle=False, verbose=0, callbacks=[Raise()])
"""


@pytest.mark.multi_worker
@pytest.mark.timeout(120)
def test_a_training_is_quiet_and_its_first_failure_is_named(monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")  # Which the tests set.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = ["--workers", 2, "--grace_seconds", 2]
    result = launch(*options, "--", "python", "-c", INDEX + TRAINING, seconds=110)
    assert result.returncode == 1
    lines = said(result.stderr)
    begin = next(i for i, line in enumerate(lines) if "Its last lines" in line)
    assert lines[begin].startswith("worker 0 failed with exit code 1 after ")
    assert lines[-1].strip() == "ValueError: the loss is bad"
    # What the first worker prints until it fails is for the user, all of it.
    printed = [line for line in result.stderr.split("\n") if "[worker 0]" in line]
    assert printed[0] == "[worker 0] Traceback (most recent call last):"
    assert printed[-1].endswith("] ValueError: the loss is bad")
