"""What all rows of time_to_target.py train on: one file for each job and seed.

It has the initial weights, which examples every step takes, the examples, and logits of
the initial network, which each worker of each framework computes again. NumPy alone is
needed to read it.
"""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

# By how much another framework's logits may differ from those in the file.
LOGITS_TOLERANCE = 1e-4


class Job(NamedTuple):
    """A network, its examples, and how far it is to be trained.

    Attributes:
        name: "gpt" or "cnn".
        sizes: Of the GPT: characters, context, layers, heads, features.
        paths: Names of the weights, in Keras's order.
        weights: Their initial values, float32, as Keras has them.
        rows: int32 (steps, examples of all workers): which examples a step takes, for
            a GPT where its windows begin. Worker i of n takes the i-th n-th of a row.
        inputs: The training text, int32 (n,), or images, uint8 (n, 28, 28, 1).
        targets: Of images: labels, int32 (n,).
        held_out_inputs: int32 (windows, context), or images.
        held_out_targets: int32 (windows, context), or labels.
        held_out_counts: float32, as often as each target counts.
        logits: Of the initial network for the first worker's first examples.
    """

    name: str
    sizes: dict[str, int]
    paths: list[str]
    weights: list[np.ndarray]
    rows: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray
    held_out_inputs: np.ndarray
    held_out_targets: np.ndarray
    held_out_counts: np.ndarray
    logits: np.ndarray

    def of_worker(self, step: int, index: int, workers: int) -> np.ndarray:
        """Which examples a worker takes in a step, counted from 0."""
        row = self.rows[step]
        size = len(row) // workers
        return row[index * size : (index + 1) * size]

    def examples(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of a step."""
        if self.name == "gpt":
            places = rows[:, np.newaxis] + np.arange(self.sizes["context"] + 1)
            windows = self.inputs[places]
            return windows[:, :-1], windows[:, 1:]
        return standardised(self.inputs[rows]), self.targets[rows]

    def held_out(self, size: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Inputs, targets and counts of the whole validation split, `size` at a time.

        The last ones are filled up with examples that count nothing.
        """
        parts = []
        for start in range(0, len(self.held_out_inputs), size):
            places = np.arange(start, start + size)
            counts = (places < len(self.held_out_inputs)).astype(np.float32)
            places = np.minimum(places, len(self.held_out_inputs) - 1)
            inputs = self.held_out_inputs[places]
            if self.name != "gpt":
                inputs = standardised(inputs)
            own = self.held_out_counts[places]
            counts = own * counts.reshape(-1, *(1,) * (own.ndim - 1))
            parts.append((inputs, self.held_out_targets[places], counts))
        return parts

    def check_logits(self, logits: np.ndarray) -> float:
        """The largest difference to the file's.

        Raises:
            ValueError: it is too large: this is another network.
        """
        difference = float(np.abs(logits - self.logits).max())
        if not difference <= LOGITS_TOLERANCE:
            raise ValueError(
                f"The network's logits differ by {difference:g} from those of the "
                f"job's file, by more than {LOGITS_TOLERANCE:g}: it is another one."
            )
        return difference


def standardised(images: np.ndarray) -> np.ndarray:
    """Float32 in [-1, 1] of uint8."""
    return images.astype(np.float32) / 127.5 - 1


def save(path: pathlib.Path, job: Job) -> None:
    """Writes a job's file."""
    arrays: dict[str, Any] = job._asdict()
    about = {name: arrays.pop(name) for name in ("name", "sizes", "paths")}
    for i, weights in enumerate(arrays.pop("weights")):
        arrays[f"weights_{i}"] = weights
    with path.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def load(path: str) -> Job:
    """Reads a job's file."""
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays.pop("about")))
    weights = [arrays.pop(f"weights_{i}") for i in range(len(about["paths"]))]
    return Job(**about, weights=weights, **arrays)


def learning_rate(step: int, highest: float, steps: int, warm_up: int) -> float:
    """nanoGPT's: a rise, then half a cosine down to a tenth.

    `tem_studies.workloads.optimizers.make_learning_rate` gives the same for Keras.

    Args:
        step: From 0.
        highest: The rate after the rise.
        steps: Of the whole training.
        warm_up: Of the rise.
    """
    if step < warm_up:
        return highest * (step + 1) / (warm_up + 1)
    share = min(1.0, (step - warm_up) / (steps - warm_up))
    return highest * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def warm_up_steps(steps: int) -> int:
    """A twentieth of a training, at most nanoGPT's 100."""
    return max(1, min(100, steps // 20))
