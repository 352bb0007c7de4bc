"""One training on three workers under the launcher, which starts it anew after faults.

Everything of a job is in one folder: settings, events, endings, the launcher's output,
the temporary files of all its processes, and, unless it is elsewhere, the checkpoints.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.processes import still_running

ROOT = pathlib.Path(__file__).parents[2]
WORKERS = 3
EPOCHS, STEPS = 5, 40  # Of training, in all.
# So that moments drawn at random fall into steps as well as into starts.
PAUSE = 0.1  # Seconds, after each step.
# A start takes some ten seconds on a quiet machine with two cores.
LONGEST = 600.0  # Seconds of a job. Beyond them it hangs, and is ended.
POLL = 0.02
RESTARTS = 20  # In a row, without a new checkpoint.
OF_AUTOGRAPH = "__autograph_generated_file"


class Job:
    """A training and its folder.

    Args:
        scratch: The folder, which must not exist.
        row: A name in rows.ROWS.
        faults: What happens in each start: None, or `worker`, `action` and `moment`
            (of points.Moment). A moment of None is left to `disturb`.
        directory: Of the checkpoints.
        synced: Whether `os.fsync` does anything.
        workers: How many.
    """

    def __init__(
        self,
        scratch: pathlib.Path,
        row: str,
        faults: Sequence[Mapping[str, Any] | None] = (),
        directory: pathlib.Path | None = None,
        synced: bool = True,
        workers: int = WORKERS,
    ):
        self.scratch = scratch.resolve()
        self.directory = directory or self.scratch / "checkpoints"
        self.temporary = self.scratch / "temporary"
        self.temporary.mkdir(parents=True)
        self.workers = workers
        self._process: subprocess.Popen | None = None
        settings = {
            "row": row,
            "directory": str(self.directory),
            "epochs": EPOCHS,
            "pause": PAUSE,
            "synced": synced,
            "faults": list(faults),
        }
        (self.scratch / "settings.json").write_text(json.dumps(settings))

    def run(self, disturb: Callable[[Job], None] = lambda job: None) -> int:
        """Trains; returns the launcher's exit code.

        Args:
            disturb: Called again and again while the job runs.

        Raises:
            TimeoutError: it has taken longer than `LONGEST`.
        """
        deadline = time.monotonic() + LONGEST
        with (self.scratch / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                self._command(),
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            while (code := self._process.poll()) is None:
                disturb(self)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.scratch}: no end in {LONGEST:g} s")
                time.sleep(POLL)
            return code
        finally:
            self.end()

    def end(self) -> None:
        """Kills what of the job still runs, the launcher first."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pid in still_running(self.pids(), 0.5):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def events(self, name: str | None = None, restart: int | None = None) -> list[dict]:
        """What has happened so far, in the order of time.

        Args:
            name: Of the events; default: all.
            restart: Of the start; default: all.
        """
        found = []
        for path in self.scratch.glob("events-*.jsonl"):
            # The last line may be on its way.
            lines = path.read_text().split("\n")[:-1]
            found += [json.loads(line) for line in lines]
        return sorted(
            (
                event
                for event in found
                if (name is None or event["event"] == name)
                and (restart is None or event["restart"] == restart)
            ),
            key=lambda event: event["time"],
        )

    def starts(self) -> int:
        """How often all workers were started."""
        return len({event["restart"] for event in self.events("started")})

    def pids(self) -> list[int]:
        """Of all workers that there were."""
        return [event["pid"] for event in self.events("started")]

    def output(self) -> str:
        """What launcher and workers have written."""
        return (self.scratch / "output.txt").read_text(errors="replace")

    def endings(self) -> list[dict] | None:
        """What each worker has ended with; None if one has not."""
        paths = [self.scratch / f"ending-{i}.json" for i in range(self.workers)]
        if not all(path.exists() for path in paths):
            return None
        return [json.loads(path.read_text()) for path in paths]

    def left_behind(self) -> list[str]:
        """Processes, temporary files and unfinished checkpoints that are still there.

        Without the files into which TensorFlow's AutoGraph writes the functions that it
        converts: it removes them as a process ends, and of a killed one cannot.
        """
        left = [f"process {pid}" for pid in still_running(self.pids(), 3.0)]
        left += [
            f"temporary {path.name}"
            for path in self.temporary.iterdir()
            if not path.name.startswith(OF_AUTOGRAPH)
        ]
        for path in sorted(self.directory.rglob("*")):
            hidden = path.name.startswith((".partial-", ".start-"))
            unfinished = path.is_dir() and not (path / "manifest.json").exists()
            said = path.suffix == ".json" and path.name != "manifest.json"
            if hidden or unfinished or said:
                left.append(str(path.relative_to(self.directory)))
        return left

    def longest_gap(self, moment: float | None) -> float | None:
        """The most seconds without a step, from a moment on."""
        if moment is None:
            return None
        times = [event["time"] for event in self.events("step")]
        gaps = [b - a for a, b in itertools.pairwise(times) if b > moment]
        return round(max(gaps, default=0.0), 1)

    def worker_command(self) -> list[str]:
        """What every worker runs."""
        return [sys.executable, "-m", "tests.faults.worker", str(self.scratch)]

    def _command(self) -> list[str]:
        launcher = [sys.executable, "-m", "tem_tf_run", "--workers", str(self.workers)]
        launcher += ["--max_restarts", str(RESTARTS), "--"]
        return launcher + self.worker_command()

    def environment(self) -> dict[str, str]:
        """What every process of the job has."""
        inherited = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        return inherited | {
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "-1",
            "TEM_TF_NATIVE": "built",
        }


def differences(ending: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two nests of dictionaries and lists differ, in words."""
    if isinstance(wanted, dict) and isinstance(ending, dict):
        keys = sorted(wanted.keys() | ending.keys())
        pairs = [(key, ending.get(key), wanted.get(key)) for key in keys]
    elif isinstance(wanted, list) and isinstance(ending, list):
        if len(ending) != len(wanted):
            return [f"{name}: {len(ending)} instead of {len(wanted)}"]
        pairs = [(i, *pair) for i, pair in enumerate(zip(ending, wanted, strict=True))]
    else:
        return [] if ending == wanted else [name]
    return [text for key, a, b in pairs for text in differences(a, b, f"{name}/{key}")]
