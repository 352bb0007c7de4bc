"""A worker whose link is cut: rows of faults.py that need network namespaces.

The launcher starts workers on one machine's loopback, which cannot be cut. So here each
worker is started in a namespace of its own, and started anew, all of them together,
once all have ended, as a scheduler does it: by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time
from typing import Any

from shaped_links import ShapedLinks

from tests.faults.job import WORKERS, Job, differences
from tests.faults.others import AT_STEP, ROW

_RATE = "1gbit"
_PORT = 23_456  # Free in every namespace; the next start takes the next.
# Beyond any end that was seen. A worker that has not ended by then hangs.
LIMIT_SECONDS = 180.0
_CUT = 1  # Whose link.
_LAST_WORDS = 160  # Characters of a worker's last line.


class LinkedJob(Job):
    """A job whose workers have a link each.

    Args:
        scratch: See `Job`.
        links: The namespaces.
    """

    def __init__(self, scratch: pathlib.Path, links: ShapedLinks):
        super().__init__(scratch, ROW)
        self._links = links

    def start(self, restart: int) -> list[subprocess.Popen]:
        """Starts all workers; each writes into `output-RESTART-N.txt`."""
        addresses = [f"{self._links.address(i)}:{_PORT + restart}" for i in range(3)]
        processes = []
        for worker in range(WORKERS):
            config = {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": worker},
            }
            environment = self.environment() | {
                "TF_CONFIG": json.dumps(config),
                "TEM_TF_RESTART": str(restart),
                "TF_NUM_INTRAOP_THREADS": "1",
                "TF_NUM_INTEROP_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            }
            with self.log(restart, worker).open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        [*self._links.inside(worker), *self.worker_command()],
                        cwd=pathlib.Path(__file__).parents[1],
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
        return processes

    def log(self, restart: int, worker: int) -> pathlib.Path:
        """Where a worker writes."""
        return self.scratch / f"output-{restart}-{worker}.txt"


def cut(
    folder: pathlib.Path, seconds: float | None, wanted: list[dict]
) -> dict[str, Any]:
    """The link of worker 1 is cut for so long.

    Args:
        folder: Of the job; must not exist.
        seconds: None: until all workers have ended.
        wanted: Endings of the undisturbed run.

    Returns:
        As of tests/faults/others.py; `seen` has each worker's end.

    Raises:
        PermissionError: see `ShapedLinks`.
    """
    begun = time.monotonic()
    with ShapedLinks(WORKERS, _RATE) as links:
        job = LinkedJob(folder, links)
        at, ends = _first_start(job, links, seconds)
        restarts = 0
        if any(code for _, code in ends.values()):
            restarts = 1
            processes = job.start(1)
            _wait(processes, {}, time.monotonic() + LIMIT_SECONDS)
        job.end()
    other = differences(job.endings(), wanted)
    seen = [
        [round(ended - at, 1), _in_words(job, worker, code)]
        for worker, (ended, code) in sorted(ends.items(), key=lambda it: it[1][0])
        if code
    ]
    return {
        "code": 0 if job.endings() else 1,
        "same": not other,
        "differences": other[:5],
        "restarts": restarts,
        "seen": seen,
        "seconds_without_step": job.longest_gap(at),
        "left": job.left_behind(),
        "seconds": round(time.monotonic() - begun, 1),
    }


def _first_start(
    job: LinkedJob, links: ShapedLinks, seconds: float | None
) -> tuple[float, dict[int, tuple[float, int]]]:
    """When the link was cut, and of each worker when and how it has ended."""
    processes = job.start(0)
    ends: dict[int, tuple[float, int]] = {}
    try:
        deadline = time.monotonic() + LIMIT_SECONDS
        while len(job.events("step", 0)) < AT_STEP * WORKERS:
            if time.monotonic() > deadline or any(p.poll() for p in processes):
                raise RuntimeError(f"{job.scratch}: training does not begin")
            time.sleep(0.02)
        links.cut(_CUT)
        at = time.time()
        deadline = time.monotonic() + LIMIT_SECONDS
        if seconds is not None:
            _wait(processes, ends, time.monotonic() + seconds)
            links.join(_CUT)
        _wait(processes, ends, deadline)
        links.join(_CUT)
    finally:
        for worker, process in enumerate(processes):
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                ends[worker] = (time.time(), -signal.SIGKILL)
    return at, ends


def _wait(
    processes: list[subprocess.Popen],
    ends: dict[int, tuple[float, int]],
    deadline: float,
) -> None:
    """Until all have ended, or until the deadline; notes ends."""
    while len(ends) < len(processes) and time.monotonic() < deadline:
        for worker, process in enumerate(processes):
            code = process.poll()
            if code is not None and worker not in ends:
                ends[worker] = (time.time(), code)
        time.sleep(0.02)


def _in_words(job: LinkedJob, worker: int, code: int) -> str:
    lines = job.log(0, worker).read_text(errors="replace").strip().split("\n")
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    return f"worker {worker}: {how}: {lines[-1][:_LAST_WORDS]}"


FAULTS = {
    "cut_3": lambda folder, wanted: cut(folder, 3, wanted),
    "cut_30": lambda folder, wanted: cut(folder, 30, wanted),
    "cut": lambda folder, wanted: cut(folder, None, wanted),
}
