"""One training of time_to_target.py: four workers over a link, until a target.

The clock. It runs while all workers train, from the end of step 1, in which graphs are
traced, in all rows alike. It stands while workers share the validation split out. A
piece of steps takes as long as on the slowest worker.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import relay
from shaped_links import ShapedLinks
from time_to_target_rows import CHECK_STEPS, ROWS, WORKERS, Row
from time_to_target_worker import Beginning, Turn
from worker_group import START_SECONDS, WorkerGroup

HERE = pathlib.Path(__file__).parent
LOOPBACK = "loopback"
LINKS = (LOOPBACK, *relay.LINKS)
PIECE_STEPS = 10  # Between two looks at the clock where H says nothing else.
# Beyond any step: a dense one takes 8 s at 5 Mbit/s.
STEP_SECONDS = 90
CHECK_SECONDS = 300
LINEAR_SECONDS = 1800
PACE_STEPS = 10  # Before them nobody is stopped for the pace.
ALONE_STEPS = 50  # Of which a step's arithmetic is the mean; a multiple of every H.


class Setup(NamedTuple):
    """What all trainings of a board have in common.

    Attributes:
        job: The job's file.
        torch: A Python that has PyTorch; None: rows that need it are left out.
        workers: Their number.
        check_steps: Between two looks at the validation split.
        first_check: Before this step nobody looks.
    """

    job: str
    torch: str | None
    workers: int = WORKERS
    check_steps: int = CHECK_STEPS
    first_check: int = 0

    def command(self, row: Row) -> list[str]:
        """Of a worker of this row."""
        if row.framework == "keras":
            return [sys.executable, str(HERE / "time_to_target_keras.py")]
        assert self.torch is not None
        return [self.torch, str(HERE / "time_to_target_torch.py")]


class Check(NamedTuple):
    """A training so far.

    Attributes:
        step: Steps taken.
        seconds: By the clock, see above.
        sent_bytes, received_bytes: Of a worker's interface, the mean over workers, in
            those seconds.
        digest: Of the weights.
        error: On the validation split; None: not measured.
    """

    step: int
    seconds: float
    sent_bytes: float
    received_bytes: float
    digest: int
    error: float | None


class Outcome(NamedTuple):
    """A training.

    Attributes:
        checks: At fixed steps, and at the end. None is there if it was stopped before.
        is_there: Whether the last of them is at the target, or after as many steps as
            were to be taken.
        steps, seconds: As of a check, of all that was done.
        logits_difference: Of the initial network, from that in the job's file.
    """

    checks: list[Check]
    is_there: bool
    steps: int
    seconds: float
    sent_bytes: float
    received_bytes: float
    logits_difference: float

    @property
    def seconds_per_step(self) -> float:
        """Of those after the first."""
        return self.seconds / max(1, self.steps - 1)

    def until(self, target: float) -> Outcome:
        """What it was when it came to an error; the whole if it never did."""
        for i, check in enumerate(self.checks):
            if check.error is not None and check.error <= target:
                so_far = check[:4]
                difference = self.logits_difference
                return Outcome(self.checks[: i + 1], True, *so_far, difference)
        return self._replace(is_there=False)


@contextlib.contextmanager
def open_links(link: str, workers: int) -> Iterator[ShapedLinks | relay.RelayedLinks]:
    """Namespaces of a link, which was measured first if it has a rate.

    Raises:
        PermissionError: this is not root.
        RuntimeError: the link does not carry what it should.
    """
    if link == LOOPBACK:
        with ShapedLinks(workers, None) as shaped:
            yield shaped
        return
    with relay.RelayedLinks(workers, relay.LINKS[link]) as relayed:
        print(link, relay.check(relayed), flush=True)
        yield relayed


def train(
    setup: Setup,
    name: str,
    settings: Mapping[str, Any],
    links: Any,
    target: float | None = None,
    steps: int | None = None,
    limit_seconds: float = float("inf"),
    checks: bool = True,
    measures_end: bool = True,
) -> Outcome:
    """Trains once.

    Args:
        setup: The board's.
        name: A row's.
        settings: The row's, with `steps`, those of its schedule.
        links: Where workers run.
        target: Error that ends the training.
        steps: After which it ends; default: those of its schedule.
        limit_seconds: After which it is stopped; before, once its last piece was at a
            pace at which it would end beyond them.
        checks: Whether the validation split is looked at on the way,
        measures_end: and at the end.

    Raises:
        ValueError: it would end, or be looked at, between two exchanges.
        RuntimeError: a worker has failed, or not answered in time; all are ended.
    """
    row = ROWS[name]
    last = settings["steps"] if steps is None else steps
    local_steps = settings.get("local_steps", 1)
    if last % local_steps or setup.check_steps % local_steps:
        raise ValueError(
            "`steps` and `check_steps` must be multiples of `local_steps`, after which "
            f"weights are common. Received: {last}, {setup.check_steps} and "
            f"{local_steps}."
        )
    piece = settings.get("local_steps", PIECE_STEPS)
    taken, seconds, sent, received, pace = 1, 0.0, 0.0, 0.0, 0.0
    found: list[Check] = []
    is_there = False
    with WorkerGroup(
        setup.command(row), setup.workers, links, are_pinned=True
    ) as group:
        workers = setup.workers
        beginning = Beginning(setup.job, row.way, dict(settings), workers, workers)
        differences = group.run(("begin", tuple(beginning)), START_SECONDS)
        group.run(("train", 1), START_SECONDS + STEP_SECONDS)
        # After this a step's seconds say those of the rest.
        steady = max(PACE_STEPS, settings.get("freeze_step", 0) + PIECE_STEPS)
        while not is_there and taken < last and seconds < limit_seconds:
            if taken >= steady and pace * (last - taken) + seconds > limit_seconds:
                break
            # Pieces end where H ends, so that weights are common where they are read.
            count = min(piece - taken % piece, last - taken)
            turns = _turns(group, count)
            taken += count
            slowest = max(turn.seconds for turn in turns)
            pace, seconds = slowest / count, seconds + slowest
            sent += sum(turn.sent_bytes for turn in turns) / len(turns)
            received += sum(turn.received_bytes for turn in turns) / len(turns)
            is_check = taken >= setup.first_check and taken % setup.check_steps == 0
            if taken == last or checks and is_check:
                turn, digest, error = _check(group, checks or measures_end)
                # With what it takes to have weights in common, once, at the end.
                totals = (
                    seconds + turn.seconds,
                    sent + turn.sent_bytes,
                    received + turn.received_bytes,
                )
                found.append(Check(taken, *totals, digest, error))
                if target is None:
                    is_there = taken == last
                elif error is not None:
                    is_there = error <= target
                if is_there or taken == last:
                    seconds, sent, received = totals
    return Outcome(found, is_there, taken, seconds, sent, received, max(differences))


def alone(
    setup: Setup, name: str, settings: Mapping[str, Any], piece: int = ALONE_STEPS
) -> float:
    """Seconds of a step's arithmetic: all workers at once, each a cluster of one.

    All wait for the slowest after each `piece` of steps.

    Compression and rounding are in it, waiting for others and collectives are not. All
    take the first worker's examples.
    """
    row = ROWS[name]
    # Of rows that begin densely, what comes after that.
    settings = {**settings, **({"freeze_step": 1} if "freeze_step" in settings else {})}
    command, workers = setup.command(row), setup.workers
    with WorkerGroup(command, workers, are_alone=True, are_pinned=True) as group:
        beginning = Beginning(setup.job, row.way, settings, workers, 1)
        group.run(("begin", tuple(beginning)), START_SECONDS)
        group.run(("train", 1), START_SECONDS + STEP_SECONDS)
        steps = min(ALONE_STEPS, settings["steps"] - 1)
        piece = min(piece, steps)
        pieces = [
            max(turn.seconds for turn in _turns(group, piece))
            for _ in range(steps // piece)
        ]
        return sum(pieces) / len(pieces) / piece


def _turns(group: WorkerGroup, steps: int) -> list[Turn]:
    answers = group.run(("train", steps), STEP_SECONDS * (steps + 1))
    return [Turn(*answer) for answer in answers]


def _check(group: WorkerGroup, measures: bool) -> tuple[Turn, int, float | None]:
    """What it took to have common weights, their digest, the error of validation.

    Raises:
        RuntimeError: workers have different weights.
    """
    answers = group.run(("check", measures), CHECK_SECONDS)
    turns = [Turn(*turn) for turn, _, _ in answers]
    digests = {digest for _, digest, _ in answers}
    turn = Turn(
        0,
        max(turn.seconds for turn in turns),
        round(sum(turn.sent_bytes for turn in turns) / len(turns)),
        round(sum(turn.received_bytes for turn in turns) / len(turns)),
    )
    if len(digests) > 1:
        raise RuntimeError(f"Workers have different weights: digests {digests}")
    if not measures:
        return turn, digests.pop(), None
    errors = [error for _, _, error in answers]
    total, count = (sum(part) for part in zip(*errors, strict=True))
    return turn, digests.pop(), total / count


def write_job(
    name: str, path_data: str, out: pathlib.Path, seed: int, steps: int, more: list[str]
) -> None:
    """Writes a job's file, in a process of its own, unless it is there.

    Args:
        name: "gpt" or "cnn".
        path_data: Of its data.
        out: The file.
        seed: Of weights and examples.
        steps: The most that a training takes.
        more: Options of time_to_target_jobs.py.
    """
    if out.exists():
        return
    part = out.with_suffix(".part")
    numbers = (f"--seed={seed}", f"--steps={steps}")
    _run_jobs(START_SECONDS, name, path_data, str(part), *numbers, *more)
    part.rename(out)


def linear_error(path_data: str) -> float:
    """Error of a linear model on the CNN's validation split; takes minutes."""
    return float(_run_jobs(LINEAR_SECONDS, "linear", path_data).split()[-1])


def _run_jobs(seconds: float, *arguments: str) -> str:
    """What time_to_target_jobs.py prints.

    Raises:
        RuntimeError: it fails; with what it says.
    """
    result = subprocess.run(
        [sys.executable, str(HERE / "time_to_target_jobs.py"), *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {result.stderr[-2000:]}")
    return result.stdout
