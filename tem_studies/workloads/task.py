"""A workload at the settings of one run: data, network and order of steps."""

from __future__ import annotations

import keras
import numpy as np

from tem_studies.workloads.examples import Examples

_ROWS_AT_ONCE = 100  # That are made to be left out.


class Task:
    """What an experiment trains, and on what.

    Attributes:
        train, validation, test: The splits; their losses and metrics are their own.
            Without a test split None.
        unit: What their examples are, in the plural.
        steps_per_epoch: Steps in which training sees its split once.
        pruning_order: int (n,), the order of the epoch over which a network is pruned,
            or None where pruning is not defined.
    """

    train: Examples
    validation: Examples
    test: Examples | None
    unit: str
    steps_per_epoch: int
    pruning_order: np.ndarray | None = None

    def new_model(self) -> keras.Model:
        """Returns the network at its initial weights."""
        raise NotImplementedError

    def sample(self, model: keras.Model) -> str | None:
        """What a trained network makes by itself, to be shown; None: nothing."""
        return None

    def skip(self, steps: int) -> None:
        """Leaves out the rows of the next steps."""
        while steps > 0:
            steps -= len(self.take(min(steps, _ROWS_AT_ONCE)))

    def take(self, steps: int) -> np.ndarray:
        """Returns the rows of the next steps: int32 (steps, row width)."""
        raise NotImplementedError
