"""A whole SLURM on this machine: a controller and three nodes, from Debian's packages.

    apt-get install slurm-wlm munge
    python -m tests.slurm.one_machine -- sinfo

starts it, runs the command with it, and ends it. Nothing is installed and no file
outside a scratch directory changes. The nodes are daemons on ports of their own; their
names stand for this machine in a /etc/hosts that they alone see, which needs root.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

NODES = ("tem0", "tem1", "tem2")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "unshare")
_SECONDS_TO_START = 30.0
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def missing() -> str:
    """What this machine lacks, in words; empty if nothing."""
    lacking = [name for name in _PROGRAMS if _program(name) is None]
    if lacking:
        return f"{', '.join(lacking)} (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "root, for names of nodes in a namespace"


class Slurm:
    """A SLURM that runs.

    Attributes:
        directory: Where its files are.
        environment: In which its commands find it.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        self.environment = {**clean, "SLURM_CONF": str(directory / "slurm.conf")}

    def run(self, *command: str, seconds: float = 60.0, **variables: str) -> str:
        """A command's output; `subprocess.CalledProcessError` if it fails."""
        done = subprocess.run(
            command,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            cwd=self.directory,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout}")
        return done.stdout

    def submit(self, *arguments: str, **variables: str) -> str:
        """Gives a job to sbatch; returns its id."""
        return self.run("sbatch", "--parsable", *arguments, **variables).strip()

    def state(self, job: str) -> str:
        """A job's state, as "RUNNING"."""
        found = re.search(r"JobState=(\w+)", self.run("scontrol", "show", "job", job))
        assert found is not None
        return found[1]

    def wait(self, job: str, seconds: float) -> str:
        """The state in which a job ends; `TimeoutError` if it does not."""
        end = time.monotonic() + seconds
        while (state := self.state(job)) not in _OVER:
            if time.monotonic() > end:
                raise TimeoutError(f"Job {job} is {state} after {seconds:g} s")
            time.sleep(0.5)
        return state


@contextlib.contextmanager
def one_machine_slurm() -> Iterator[Slurm]:
    """Starts a SLURM of three nodes; at the end its jobs and daemons are ended.

    Raises:
        RuntimeError: it does not start.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as daemons:
        directory = pathlib.Path(name)
        slurm = Slurm(directory)
        _write_files(directory)

        def start(*command: str) -> None:
            log = daemons.enter_context((directory / "daemons").open("a"))
            process = subprocess.Popen(
                command, env=slurm.environment, stdout=log, stderr=log
            )
            daemons.callback(_end, process)

        munge = directory / "munge"
        start(
            *(_found("munged"), "--force", "--foreground"),
            *(f"--{kind}={munge / kind}" for kind in ("socket", "key-file")),
            *(f"--{kind}={munge / kind}" for kind in ("log-file", "pid-file")),
            f"--seed-file={munge / 'seed'}",
        )
        start(_found("slurmctld"), "-D", "-f", str(directory / "slurm.conf"))
        for node in NODES:
            script = 'mount --bind "$0" /etc/hosts && exec "$@"'
            slurmd = (_found("slurmd"), "-D", "-N", node)
            hosts = str(directory / "hosts")
            start("unshare", "--mount", "sh", "-c", script, hosts, *slurmd)
        _await_nodes(slurm)
        try:
            yield slurm
        finally:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                slurm.run("scancel", "--user", "root")
                _await_nodes(slurm)


def _write_files(directory: pathlib.Path) -> None:
    directory.chmod(0o755)  # munge refuses to trust others' directories.
    for name in ("state", "spool", "munge"):
        (directory / name).mkdir()
    (directory / "munge").chmod(0o755)
    key = directory / "munge" / "key-file"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(1024))
    hosts = pathlib.Path("/etc/hosts").read_text()
    (directory / "hosts").write_text(f"{hosts}\n127.0.0.1 {' '.join(NODES)}\n")
    host = socket.gethostname()
    with contextlib.ExitStack() as held:  # Distinct ones, free a moment ago.
        sockets = [held.enter_context(socket.create_server(("", 0))) for _ in range(4)]
        control, *ports = [one.getsockname()[1] for one in sockets]
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 "
        "RealMemory=1000"
        for node, port in zip(NODES, ports, strict=True)
    )
    # Credentials expire in 5 s, the least: before that no requeued job starts.
    (directory / "slurm.conf").write_text(
        f"""ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=5
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )


def _await_nodes(slurm: Slurm) -> None:
    """Returns when all nodes are idle."""
    end = time.monotonic() + _SECONDS_TO_START
    said = ""
    while time.monotonic() < end:
        with contextlib.suppress(RuntimeError):
            said = slurm.run("sinfo", "--noheader", "--Node", "--format=%N %t")
            if sorted(said.splitlines()) == [f"{node} idle" for node in NODES]:
                return
        time.sleep(0.2)
    logs = (slurm.directory / "daemons").read_text()
    raise RuntimeError(f"SLURM's nodes are not idle: {said}\n{logs[-4000:]}")


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _found(name: str) -> str:
    program = _program(name)
    assert program is not None, name  # `missing` has been asked.
    return program


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> int:
    """Runs the command that follows "--" beside a SLURM."""
    lacking = missing()
    if lacking or sys.argv[1:2] != ["--"] or len(sys.argv) < 3:
        print(f"missing: {lacking}" if lacking else __doc__, file=sys.stderr)
        return 2
    with one_machine_slurm() as slurm:
        return subprocess.run(sys.argv[2:], env=slurm.environment).returncode


if __name__ == "__main__":
    sys.exit(main())
