"""What a run has come to beside its trainer, as a checkpoint holds it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tem_tf.checkpoint import Json, NamedArrays, Part


@dataclasses.dataclass
class RunState:
    """Results so far, masks, and how it ended if it did.

    Attributes:
        seconds: Of each phase.
        status: As in result.json; None while training goes on.
        history: As in result.json.
        communication: Of the last check, or None.
        records: float64 (steps, 3) each, one after another.
        masks: For each trainable variable; None before pruning.
    """

    seconds: dict[str, float]
    status: str | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    communication: dict[str, float] | None = None
    records: list[np.ndarray] = dataclasses.field(default_factory=list)
    masks: list[np.ndarray] | None = None

    def parts(self) -> dict[str, Part]:
        """What a checkpoint holds of it."""
        return {
            "results": Json(self._words, self._take_words),
            "records": NamedArrays(lambda: {"all": self.steps()}, self._take_records),
            "masks": NamedArrays(self._masks, self._take_masks),
        }

    def steps(self) -> np.ndarray:
        """What every step sent and held back: float64 (steps, 3)."""
        return np.concatenate([np.zeros((0, 3)), *self.records])

    def _words(self) -> dict[str, Any]:
        names = ("status", "history", "communication", "seconds")
        return {name: getattr(self, name) for name in names}

    def _take_words(self, words: dict[str, Any]) -> None:
        # Phases of this start have been counted already.
        for phase, seconds in words.pop("seconds").items():
            self.seconds[phase] += seconds
        for name, value in words.items():
            setattr(self, name, value)

    def _take_records(self, arrays: dict[str, np.ndarray]) -> None:
        self.records = [arrays["all"]]

    def _masks(self) -> dict[str, np.ndarray]:
        return {str(i): mask != 0 for i, mask in enumerate(self.masks or [])}

    def _take_masks(self, arrays: dict[str, np.ndarray]) -> None:
        in_order = [arrays[name] for name in sorted(arrays, key=int)]
        self.masks = [mask.astype(np.float32) for mask in in_order]
