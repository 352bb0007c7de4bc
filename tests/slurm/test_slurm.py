"""Workers as a real SLURM starts them: steps, arrays, requeues, the batch script."""

import json
import pathlib
import sys
import time

import pytest

from tests.slurm.one_machine import NODES, missing

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = str(ROOT / "launch" / "slurm.sbatch")
PYTHON = sys.executable
pytestmark = [
    pytest.mark.exhaustive,  # Minutes, on a SLURM that is made for them.
    pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}"),
]

# Appends what a process is, as one line.
TELL = """import json, os, sys
from tem_tf_run import load_part
task = load_part("cluster").find_task()
known = None if task is None else [task.index, list(task.addresses.values())]
line = [known, os.environ.get("SLURMD_NODENAME"), os.environ.get("SLURM_RESTART_COUNT")]
file = os.open(sys.argv[1], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
os.write(file, json.dumps(line).encode() + b"\\n")
"""


def tell(directory, name):
    """The command by which a process says what it is, and where to read that."""
    (directory / "tell.py").write_text(TELL)
    return f"{PYTHON} {directory / 'tell.py'} {directory / name}", directory / name


def told(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_workers(lines, number):
    """All have the same cluster, an index of their own, and their node's address."""
    assert sorted(task[0] for task, _, _ in lines) == list(range(number))
    (addresses,) = {tuple(task[1]) for task, _, _ in lines}
    for (index, _), node, _ in lines:
        assert addresses[index].split(":")[0] == node
    return set(addresses)


def test_a_batch_script_is_alone_and_its_steps_tasks_are_workers(slurm, tmp_path):
    alone, of_batch = tell(tmp_path, "batch")
    steps = {
        "uneven": (5, "-n5"),
        "cyclic": (4, "--nodes=2 -n4 --distribution=cyclic"),
        "later nodes": (3, "--nodes=2 --relative=1 -n3 --overcommit"),
        "one": (1, "--nodes=1 -n1"),
    }
    lines = ["#!/bin/bash", alone]
    for name, (_, options) in steps.items():
        lines.append(f"srun {options} {tell(tmp_path, name.replace(' ', '_'))[0]}")
    (tmp_path / "job").write_text("\n".join(lines))
    job = slurm.submit("--nodes=3", "--ntasks=5", "--time=2", str(tmp_path / "job"))
    assert slurm.wait(job, 90) == "COMPLETED"
    assert told(of_batch) == [[None, NODES[0], None]]
    seen = set()
    for name, (number, _) in steps.items():
        lines = told(tmp_path / name.replace(" ", "_"))
        if number == 1:
            assert [task for task, _, _ in lines] == [None]
            continue
        addresses = check_workers(lines, number)
        assert not addresses & seen, "steps of one job share ports"
        seen |= addresses


def test_the_jobs_of_an_array_are_clusters_of_their_own(slurm, tmp_path):
    (tmp_path / "job").write_text(
        f"#!/bin/bash\nsrun {tell(tmp_path, 'of')[0]}$SLURM_ARRAY_TASK_ID\n"
    )
    options = ("--array=4-5", "--nodes=1", "--ntasks=2", "--time=2")
    job = slurm.submit(*options, str(tmp_path / "job"))
    for index in (4, 5):
        assert slurm.wait(f"{job}_{index}", 60) == "COMPLETED"
    first, second = (check_workers(told(tmp_path / f"of{i}"), 2) for i in (4, 5))
    ports = [{address.split(":")[1] for address in one} for one in (first, second)]
    assert not ports[0] & ports[1]


@pytest.mark.parametrize("how", ["exit code", "signal", "scontrol"])
def test_the_batch_script_puts_a_stopped_run_back_in_the_queue(slurm, tmp_path, how):
    """By exit code 75 of its own, after SIGUSR1, and by an administrator."""
    command, path = tell(tmp_path, "told")
    sleep = "sleep 60 & wait" if how != "exit code" else "exit 75"
    (tmp_path / "worker").write_text(
        f"#!/bin/bash\ntrap 'kill $!; exit 75' USR1\n{command}\n"
        f"[[ -n ${{SLURM_RESTART_COUNT:-}} ]] || {{ {sleep}; }}\n"
    )
    job = slurm.submit(
        *("--nodes=3", "--time=3", f"--output={tmp_path}/log", SCRIPT),
        *("bash", str(tmp_path / "worker")),
    )
    if how != "exit code":
        end = time.monotonic() + 30
        while not path.exists() or len(told(path)) < 3:
            assert time.monotonic() < end, "the first workers have not started"
            time.sleep(0.1)
        if how == "signal":
            slurm.run("scancel", "--batch", "--signal=USR1", job)
        else:
            slurm.run("scontrol", "requeue", job)
    assert slurm.wait(job, 90) == "COMPLETED"
    lines = told(path)
    before = check_workers([line for line in lines if line[2] is None], 3)
    after = check_workers([line for line in lines if line[2] == "1"], 3)
    assert len(lines) == 6
    assert not before & after, "a restart has the ports of the run before"
    log = (tmp_path / "log").read_text()
    assert log.count("ended with exit code 75") == (how != "scontrol")
    assert "restart 1, has ended with exit code 0" in log


def test_the_batch_script_ends_as_its_workers_do(slurm, tmp_path):
    job = slurm.submit("--nodes=2", f"--output={tmp_path}/log", SCRIPT, "false")
    assert slurm.wait(job, 60) == "FAILED"
    assert "restart 0, has ended with exit code 1" in (tmp_path / "log").read_text()


def test_the_batch_script_without_a_command_says_how_it_is_called(slurm, tmp_path):
    job = slurm.submit(f"--output={tmp_path}/log", SCRIPT)
    assert slurm.wait(job, 60) == "FAILED"
    assert "usage: sbatch [OPTION...]" in (tmp_path / "log").read_text()


@pytest.mark.multi_worker
def test_three_workers_train(slurm, tmp_path):
    job = slurm.submit(
        *("--nodes=3", f"--chdir={tmp_path}", f"--output={tmp_path}/log", SCRIPT),
        *(PYTHON, str(ROOT / "examples" / "two_workers.py")),
    )
    state = slurm.wait(job, 240)
    log = (tmp_path / "log").read_text()
    assert state == "COMPLETED", log
    assert log.count("3 workers, 64 steps: ") == 3
