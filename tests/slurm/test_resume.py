"""Runs that SLURM stops and starts again end with the bits of an undisturbed one.

    python -m pytest tests/slurm/test_resume.py -m "slow or exhaustive"

tries all ways to be stopped, in five minutes; without -m it takes one way and a minute.
"""

import json
import pathlib
import re
import sys
import time

import h5py
import pytest

from tests.slurm.one_machine import missing

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = str(ROOT / "launch" / "slurm.sbatch")
MAIN = ROOT / "main.py"
STEPS, EVERY = 60, 5
pytestmark = [
    pytest.mark.exhaustive,  # Minutes, on a SLURM that is made for them.
    pytest.mark.multi_worker,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}"),
]

RUN = [
    *("--datasource=digits", "--batch_size=60", f"--train_iterations={STEPS}"),
    *("--check_interval=20", "--save_interval=30", "--compressor=topk"),
    *("--density=0.05", "--memory=dgc", "--memory_momentum=0.5"),
    *("--resume=auto", f"--resume_interval={EVERY}"),
]
# main.py with steps that take their time, whatever the machine does.
SLOW = """import runpy, time
from tem_studies.workloads.training import Trainer
run = Trainer.run
def slow(trainer, rows):
    run(trainer, rows)
    time.sleep(1.5 * len(rows))
Trainer.run = slow
"""
# main.py that waits, before the workers meet, for a signal.
WAITING = """import os, runpy, time
from tem_studies.workloads import command_line
finished = command_line.finished
def waiting(configuration):
    if "SLURM_RESTART_COUNT" not in os.environ:
        print("has started", flush=True)
        time.sleep(300)
    return finished(configuration)
command_line.finished = waiting
"""
# Of result.json; the rest is of settings, versions and times.
COMPARED = ("status", "steps", "history", "test", "communication", "pruning")


class Job:
    """A job of three workers, and where it writes."""

    def __init__(self, slurm, logdir, *options, program=MAIN):
        self._slurm, self.logdir = slurm, logdir
        self._log = logdir.with_suffix(".log")
        self.id = slurm.submit(
            *("--nodes=3", f"--output={self._log}", *options, SCRIPT),
            *(sys.executable, str(program), f"--logdir={logdir}", *RUN),
        )

    def log(self):
        return self._log.read_text() if self._log.exists() else ""

    def await_words(self, words, count, seconds=120):
        """Returns when its log has some words so often."""
        end = time.monotonic() + seconds
        while self.log().count(words) < count:
            assert time.monotonic() < end, self.log()
            time.sleep(0.05)

    def await_step(self, step, seconds=300):
        """Returns when a checkpoint of that step or a later one is whole."""
        end = time.monotonic() + seconds
        while True:
            manifests = self.logdir.glob("resume/step-*/manifest.json")
            steps = [int(path.parent.name.partition("-")[2]) for path in manifests]
            if max(steps, default=0) >= step:
                return
            assert time.monotonic() < end, self.log()
            assert not (self.logdir / "result.json").exists(), "ended before"
            time.sleep(0.05)

    def end(self):
        """Waits for its end; what must be the same however often it was stopped."""
        assert self._slurm.wait(self.id, 600) == "COMPLETED", self.log()
        result = json.loads((self.logdir / "result.json").read_text())
        weights = {}
        for path in sorted(self.logdir.glob("checkpoints/*.h5")):
            weights[path.name] = arrays(path)
        assert weights.keys() == {f"step-{n:06d}.weights.h5" for n in (30, STEPS)}
        assert not (self.logdir / "resume").exists()
        steps = (self.logdir / "steps.npz").read_bytes()
        return {name: result[name] for name in COMPARED}, steps, weights

    def went_on(self):
        """The steps after which it went on."""
        return [int(n) for n in re.findall(r"goes on after (\d+) steps", self.log())]


def altered(directory, alteration):
    """main.py, something in it replaced."""
    path = directory / "main.py"
    run = f"runpy.run_path({str(MAIN)!r}, run_name='__main__')"
    path.write_text(f"{alteration}{run}\n")
    return path


def arrays(path):
    """The bytes of all arrays; the file itself has times in it."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item.dtype.str, item.shape, item[...].tobytes()

    with h5py.File(path) as file:
        file.visititems(visit)
    assert found
    return found


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory):
    """What a job leaves that nobody has stopped."""
    return Job(slurm, tmp_path_factory.mktemp("whole") / "run").end()


def requeue(slurm, job):
    slurm.run("scontrol", "requeue", job)


def ask_the_script(slurm, job):
    """As SLURM does before the time is up."""
    slurm.run("scancel", "--batch", "--signal=USR1", job)


def ask_the_workers(slurm, job):
    slurm.run("scancel", "--signal=TERM", job)


@pytest.mark.parametrize(
    "stop",
    [
        requeue,
        pytest.param(ask_the_script, marks=pytest.mark.exhaustive),
        pytest.param(ask_the_workers, marks=pytest.mark.exhaustive),
    ],
)
def test_a_job_stopped_in_its_midst_ends_with_the_same_bits(
    slurm, undisturbed, tmp_path, stop
):
    job = Job(slurm, tmp_path / "run")
    job.await_step(10)
    stop(slurm, job.id)
    ended = job.end()
    log = job.log()
    (step,) = job.went_on()
    assert 10 <= step < STEPS
    assert "restart 1, has ended with exit code 0" in log
    if stop is not requeue:
        assert "restart 0, has ended with exit code 75" in log
    assert ended == undisturbed


@pytest.mark.exhaustive
def test_a_job_stopped_before_its_limit_ends_with_the_same_bits(
    slurm, undisturbed, tmp_path
):
    """SLURM looks at limits every 30 s, and sends signals so much earlier."""
    limit = ("--time=2", "--signal=B:USR1@30")
    job = Job(slurm, tmp_path / "run", *limit, program=altered(tmp_path, SLOW))
    ended = job.end()
    steps, log = job.went_on(), job.log()
    assert 0 < steps[0] < STEPS
    assert log.count("has ended with exit code 75") >= len(steps)
    assert "has ended with exit code 0" in log
    assert ended == undisturbed


@pytest.mark.exhaustive
def test_a_job_asked_to_stop_as_it_starts_is_put_back_in_the_queue(
    slurm, undisturbed, tmp_path
):
    """Nothing is saved yet: it begins anew."""
    job = Job(slurm, tmp_path / "run", program=altered(tmp_path, WAITING))
    job.await_words("has started", 3)
    ask_the_script(slurm, job.id)
    ended = job.end()
    log = job.log()
    assert job.went_on() == []
    assert "SIGUSR1: the same command, started again, goes on" in log
    assert "restart 0, has ended with exit code 75" in log
    assert ended == undisturbed
