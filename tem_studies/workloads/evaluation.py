"""Measuring a network on held-out examples, with a line where that takes long."""

from __future__ import annotations

import time
from typing import Any

from tem_studies.workloads.examples import Examples
from tem_studies.workloads.metric_words import said
from tem_studies.workloads.progress import Progress
from tem_studies.workloads.results import Stopwatch
from tem_studies.workloads.training import Trainer


class Evaluation:
    """The evaluations of one run.

    Args:
        trainer: Has the network.
        unit: What examples are, in the plural.
        stopwatch: Counts their time.
        progress: Says it.
        has_mean: Whether the running mean of the weights is evaluated, too.
    """

    def __init__(
        self,
        trainer: Trainer,
        unit: str,
        stopwatch: Stopwatch,
        progress: Progress,
        has_mean: bool,
    ) -> None:
        self._trainer, self._unit = trainer, unit
        self._stopwatch, self._progress = stopwatch, progress
        self._has_mean = has_mean
        self._seconds_each: float | None = None  # Of an example, when last measured.

    def last(self, split: Examples, phase: str) -> Any:
        """The score of the last weights. Collective.

        Args:
            split: On which.
            phase: "validate" or "test".
        """
        return self._measure(self._trainer.evaluate, split, phase)

    def mean(self, split: Examples, phase: str) -> dict[str, float]:
        """The score of their running mean by name; empty if there is none. Collective.

        Args:
            split: On which.
            phase: "validate" or "test".
        """
        if not self._has_mean:
            return {}
        score = self._measure(self._trainer.evaluate_running_mean, split, phase)
        prefix = "running_mean_validation" if phase == "validate" else "running_mean"
        return named(prefix, score)

    def _measure(self, measure: Any, split: Examples, phase: str) -> Any:
        words = {"validate": "validating", "test": "testing"}[phase]
        expected = self._seconds_each and self._seconds_each * split.examples
        began = time.perf_counter()
        with (
            self._stopwatch(phase),
            self._progress.waiting(
                f"{words} {split.examples:,} {self._unit}", expected
            ),
        ):
            score = measure(split)
        self._seconds_each = (time.perf_counter() - began) / split.examples
        return score


def count_of(split: Examples | None) -> int:
    """Examples of a split, which a task may lack."""
    return split.examples if split is not None else 0


def named(prefix: str, score: Any) -> dict[str, float]:
    """A score by names, as in result.json."""
    return {f"{prefix}_{name}": value for name, value in score._asdict().items()}


def shown(validation: Any) -> str:
    """What is measured beside the loss, as in "validation accuracy 0.9", or else it."""
    loss, *metrics = validation._asdict().items()
    return "  ".join(
        f"validation {said(name)} {value:.4f}" for name, value in metrics or [loss]
    )
