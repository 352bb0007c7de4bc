"""What workers of both frameworks have in common in time_to_target.py: their requests.

A request is a pair: ("begin", Beginning), ("train", steps) or ("check", whether
errors are to be measured). Seconds are those of training alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

_STATISTICS = pathlib.Path("/sys/class/net/eth0/statistics")


class Beginning(NamedTuple):
    """What a worker is to train.

    Attributes:
        job: Its file.
        way: A row's.
        settings: The row's, with `steps` and `rate`.
        workers: Among how many a step's examples are shared out.
        replicas: Who exchange: `workers`, or 1 where each trains alone, to be timed.
    """

    job: str
    way: str
    settings: Mapping[str, Any]
    workers: int
    replicas: int


class Turn(NamedTuple):
    """Some steps.

    Attributes:
        steps: Their number.
        seconds: Of this worker's clock.
        sent_bytes, received_bytes: Of this worker's interface.
    """

    steps: int
    seconds: float
    sent_bytes: int
    received_bytes: int


NO_TURN = Turn(0, 0.0, 0, 0)


class Training(Protocol):
    """A framework's."""

    logits_difference: float

    def train(self, steps: int) -> Turn:
        """Takes so many steps."""
        ...

    def in_common(self) -> contextlib.AbstractContextManager[Turn]:
        """Within, weights are what all have in common; after it those of before.

        Collective where workers have weights of their own: what that takes.
        """
        ...

    def digest(self) -> int:
        """A checksum of the weights."""
        ...

    def errors(self, share: int, shares: int) -> tuple[float, float]:
        """Sum of losses, or of wrong answers, on a share of the validation split.

        And of how many. The n-th share is every `shares`-th part, from the n-th on.
        """
        ...


def turns(make: Callable[[Beginning], Training]) -> Callable[[tuple[str, Any]], Any]:
    """What `worker_group.serve` calls.

    "begin" answers with the difference of logits, "train" with a `Turn`, "check" with
    what it took to have weights in common, their digest and, if asked, this worker's
    errors on the validation split.
    """
    training: Training | None = None
    addresses, index = cluster()

    def handle(request: tuple[str, Any]) -> Any:
        nonlocal training
        kind, argument = request
        if kind == "begin":
            training = make(Beginning(*argument))
            return training.logits_difference
        assert training is not None
        if kind == "train":
            return tuple(training.train(argument))
        with training.in_common() as turn:
            errors = training.errors(index, len(addresses)) if argument else None
            return tuple(turn), training.digest(), errors

    return handle


def traffic() -> tuple[int, int]:
    """Bytes that this namespace's interface has sent and received; 0 without one."""
    if not _STATISTICS.exists():
        return 0, 0
    sent, received = (
        int((_STATISTICS / f"{kind}_bytes").read_text()) for kind in ("tx", "rx")
    )
    return sent, received


def cluster() -> tuple[list[str], int]:
    """Addresses of all workers, and which is this."""
    config = json.loads(os.environ["TF_CONFIG"])
    return config["cluster"]["worker"], config["task"]["index"]
