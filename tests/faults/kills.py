"""Kills of workers, half at points of the program, half at moments drawn at random.

A training takes several kills, one in each start. A kill that does not happen, since
the training has ended before, is tried again in another training: what counts are kills
that have happened, by the events of the worker or of `Disturber`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tests.faults.job import PAUSE, STEPS, WORKERS, Job, differences
from tests.faults.points import POINTS, Moment

FAILURES = 3  # Trainings of a row in a row without a single kill: something is wrong.


class Kill(NamedTuple):
    """One SIGKILL.

    Attributes:
        number: Names it.
        row: Of which training.
        worker: Who is killed.
        moment: Where, of points.Moment; None: at `share`.
        share: In [0, 1]: of the time that the training still takes, from its start.
    """

    number: int
    row: str
    worker: int
    moment: Moment | None
    share: float


class Lengths(NamedTuple):
    """Of an undisturbed training.

    Attributes:
        start_seconds: From the first process's begin to the end of the first step.
        rest_seconds: From there to the end.
    """

    start_seconds: float
    rest_seconds: float

    @classmethod
    def of(cls, job: Job) -> Lengths:
        """As measured in a job that has ended."""
        begun = job.events("started")[0]["time"]
        stepped = job.events("step")[0]["time"]
        return cls(stepped - begun, job.events("ended")[-1]["time"] - stepped)


def plan(seed: int, number: int, rows: Sequence[str]) -> list[Kill]:
    """So many kills over rows: every other one at a point, in turn.

    Args:
        seed: Of all that is drawn.
        number: Of kills.
        rows: Their names.
    """
    draw = random.Random(seed)
    points, kills = list(POINTS), []
    for i in range(number):
        moment = None
        if i % 2 == 0:
            point = points[i // 2 % len(points)]
            after = bool(draw.getrandbits(1))
            times = POINTS[point]
            if point in ("start", "before exchange", "after exchange"):
                after = False
            moment = Moment(point, after, draw.randint(1, times))
        # Both halves go through all rows.
        row = rows[i // 2 % len(rows)]
        kills.append(Kill(i, row, draw.randrange(WORKERS), moment, draw.random()))
    return kills


class Disturber:
    """Kills workers from outside, at a share of the time that is still to come.

    Args:
        kills: In their order: of each start.
        lengths: Of the undisturbed training.
    """

    def __init__(self, kills: Sequence[Kill], lengths: Lengths):
        self._kills, self._lengths = kills, lengths
        self._restart = 0
        self.killed: dict[int, float] = {}  # When, by the kill's number.

    def __call__(self, job: Job) -> None:
        """Looks whether it is time."""
        if self._restart >= len(self._kills):
            return
        kill = self._kills[self._restart]
        started = job.events("started", self._restart)
        if kill.moment is not None or kill.number in self.killed:
            if job.events("started", self._restart + 1):
                self._restart += 1
            return
        if len(started) < job.workers:
            return
        if job.events("started", self._restart + 1):  # It failed before.
            self._restart += 1
            return
        committed = [event["step"] for event in job.events("committed")]
        left = 1 - max(committed, default=0) / STEPS
        seconds = self._lengths.start_seconds + left * self._lengths.rest_seconds
        if time.time() < started[0]["time"] + kill.share * seconds:
            return
        (pid,) = (each["pid"] for each in started if each["worker"] == kill.worker)
        ended = {e["worker"] for e in job.events("ended", self._restart)}
        if kill.worker not in ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.killed[kill.number] = time.time()
                return
        self._restart += 1  # Too late.


class Matrix:
    """All kills, training by training, with a file of results that grows.

    Args:
        folder: Where jobs run, and of `results.jsonl`.
        kills: Of `plan`.
        together: How many a training takes.
        workers: Of each training.
        say: Gets a line after each training.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        kills: Sequence[Kill],
        together: int = 5,
        workers: int = WORKERS,
        say: Callable[[str], None] = lambda line: None,
    ):
        self._folder, self._kills, self._together = folder, kills, together
        self._workers, self._say = workers, say
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "results.jsonl"
        self.results: list[dict[str, Any]] = []
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            self.results = [json.loads(line) for line in lines]

    def run(self) -> None:
        """Does what is not done yet.

        Raises:
            RuntimeError: an undisturbed training fails, or kills do not happen.
        """
        failures: dict[str, int] = {}
        while pending := self._pending():
            row = pending[0].row
            undisturbed = self._undisturbed(row)
            result = self._killed(self._choose(pending, row), undisturbed)
            failures[row] = 0 if result["kills"] else failures.get(row, 0) + 1
            if failures[row] == FAILURES:
                raise RuntimeError(f"{row}: no kill happens in {FAILURES} trainings")

    def trainings(self) -> Iterator[dict[str, Any]]:
        """Results of the trainings that were to be killed."""
        return (result for result in self.results if "kills" in result)

    def _pending(self) -> list[Kill]:
        done = {kill["number"] for it in self.trainings() for kill in it["kills"]}
        return [kill for kill in self._kills if kill.number not in done]

    def _choose(self, pending: list[Kill], row: str) -> list[Kill]:
        """The next ones of a row; those at the end last."""
        kills = [kill for kill in pending if kill.row == row][: self._together]
        ends = [kill for kill in kills if kill.moment and kill.moment.point == "end"]
        return [kill for kill in kills if kill not in ends] + ends

    def _undisturbed(self, row: str) -> dict[str, Any]:
        for result in self.results:
            if result["row"] == row and "lengths" in result:
                return result
        with self._job(row) as job:
            code = job.run()
            if code != 0 or job.endings() is None:
                raise RuntimeError(f"{row} fails undisturbed:\n{job.output()}")
            lengths = Lengths.of(job)
            return self._note(
                {
                    "row": row,
                    "lengths": lengths,
                    "endings": job.endings(),
                    "left": job.left_behind(),
                    "seconds": sum(lengths),
                },
                f"{row}: {sum(lengths):.1f} s undisturbed",
            )

    def _killed(self, kills: list[Kill], undisturbed: dict[str, Any]) -> dict[str, Any]:
        row = undisturbed["row"]
        faults = [kill._asdict() | {"action": "kill"} for kill in kills]
        disturber = Disturber(kills, Lengths(*undisturbed["lengths"]))
        begun = time.monotonic()
        with self._job(row, faults) as job:
            code = job.run(disturber)
            endings = job.endings()
            happened = _happened(job, kills, disturber)
            other = differences(endings, undisturbed["endings"])
            result = {
                "row": row,
                "kills": happened,
                "code": code,
                "same": code == 0 and not other,
                "differences": other[:5],
                "left": job.left_behind(),
                # Starts of which no kill was the cause.
                "unplanned": job.starts() - 1 - len(happened),
                "seconds": time.monotonic() - begun,
            }
            if not result["same"] or result["unplanned"]:  # For people to look at.
                kept = self._folder / f"failed-{len(self.results)}"
                shutil.copytree(job.scratch, kept)
        same = "the same bits" if result["same"] else f"OTHER: {other[:3]}, code {code}"
        left = ", ".join(result["left"]) or "nothing"
        return self._note(
            result,
            f"{row}: {len(happened)} of {len(kills)} kills in "
            f"{result['seconds']:.1f} s, {same}, left behind: {left}",
        )

    @contextlib.contextmanager
    def _job(self, row: str, faults: Sequence[dict] = ()) -> Iterator[Job]:
        scratch = self._folder / "job"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            yield Job(scratch, row, faults, workers=self._workers)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _note(self, result: dict[str, Any], line: str) -> dict[str, Any]:
        text = json.dumps(result)
        with self._path.open("a") as file:
            file.write(text + "\n")
        result = json.loads(text)  # As it will be read again.
        self.results.append(result)
        self._say(line)
        return result


def _happened(
    job: Job, kills: Sequence[Kill], disturber: Disturber
) -> list[dict[str, Any]]:
    """The kills of a job that came about, and what followed."""
    steps = [event["time"] for event in job.events("step")]
    found = []
    times = {}
    for restart, kill in enumerate(kills):
        if kill.number in disturber.killed:
            times[kill.number] = disturber.killed[kill.number]
        elif faults := job.events("fault", restart):
            times[kill.number] = faults[0]["time"]
    for kill in kills:
        if kill.number not in times:
            continue
        at = times[kill.number]
        next_kill = min((t for t in times.values() if t > at), default=float("inf"))
        restarted = [e["time"] for e in job.events("started") if e["time"] > at]
        first = [t for t in steps if restarted and restarted[0] < t < next_kill]
        found.append(
            {
                "number": kill.number,
                "point": kill.moment.point if kill.moment else "any moment",
                "worker": kill.worker,
                # None: killed again before, or nothing was left to do.
                "seconds_to_step": first[0] - at if first else None,
            }
        )
    return found


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all trainings that were killed: counts, and seconds to the next step."""
    killed = [result for result in results if "kills" in result]
    kills = [(kill, result) for result in killed for kill in result["kills"]]
    seconds = [
        kill["seconds_to_step"]
        for kill, _ in kills
        if kill["seconds_to_step"] is not None
    ]
    return {
        "kills": len(kills),
        "same": sum(result["same"] for _, result in kills),
        "left": sorted({text for result in results for text in result["left"]}),
        "unplanned": sum(result["unplanned"] for result in killed),
        "recoveries": len(seconds),
        "median_seconds": statistics.median(seconds) if seconds else None,
        "worst_seconds": max(seconds, default=None),
        "seconds": sum(result["seconds"] for result in results),
        "by_row": _counts(kills, lambda kill, result: result["row"]),
        "by_point": _counts(kills, lambda kill, result: kill["point"]),
    }


def _counts(kills: list, name: Callable) -> dict[str, list[int]]:
    """Kills, and those after which training ended with the same bits, by name."""
    counts: dict[str, list[int]] = {}
    for kill, result in kills:
        count = counts.setdefault(name(kill, result), [0, 0])
        count[0] += 1
        count[1] += result["same"]
    return counts


def table(results: Sequence[dict[str, Any]]) -> str:
    """A summary as text."""
    it = summary(results)
    lines = [f"{'':<22}kills  ended with the same bits"]
    for names in (it["by_row"], it["by_point"]):
        lines += [f"  {name:<20}{n:5}  {same:5}" for name, (n, same) in names.items()]
        lines.append("")
    lines.append(f"  {'all':<20}{it['kills']:5}  {it['same']:5}")
    if it["recoveries"]:
        lines.append(
            f"from a kill to the next step: median {it['median_seconds']:.1f} s, worst "
            f"{it['worst_seconds']:.1f} s ({it['recoveries']} kills after which a step "
            "came before the next kill)"
        )
    lines.append(f"left behind: {', '.join(it['left']) or 'nothing'}")
    lines.append(f"starts anew without a kill: {it['unplanned']}")
    lines.append(
        f"the matrix took {it['seconds'] / 60:.1f} minutes; {WORKERS} workers, {STEPS} "
        f"steps with a pause of {PAUSE:g} s after each"
    )
    return "\n".join(lines)
