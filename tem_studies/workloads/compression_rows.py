"""The compressors and memories of ours, a row each, from which all else follows.

That is the names that flags take and their help, which settings go with which, the
objects of the plugin, the methods of a comparison and what the convex laboratory can
set up. A new one is a class of the plugin, in its `COMPRESSORS` or `MEMORIES`, and a
row here.

This file imports neither TensorFlow nor numpy, so that a wrong flag is refused at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

# ACCORDION has this many times its low density where it sends much, and decides this
# many times in a run: 0.1 % and 1 %, every 10 of 300 epochs (Sahu et al., NeurIPS
# 2021).
_ACCORDION_FACTOR = 10
_ACCORDION_DECISIONS = 30
_ACCORDION_EPOCHS = 10


class Knob(NamedTuple):
    """The setting by which a comparison makes a compressor send a given volume.

    Attributes:
        setting: Its name.
        slope: About d log(volume) / d log(setting); its sign is certain.
        at_every_rate: Whether it must be found at each learning rate.
        first: Where the search begins, as a share of the budget's density.
        beside: From the setting's value and a run's steps to other settings.
    """

    setting: str
    slope: float = 1.0
    at_every_rate: bool = False
    first: float = 1.0
    beside: Callable[[float, int], dict[str, Any]] = lambda value, steps: {}


@dataclasses.dataclass(frozen=True)
class CompressorRow:
    """One compressor.

    Attributes:
        text: What it sends, for --help.
        needs: Settings that it must have.
        takes: Settings that it may have.
        label: In legends of comparisons.
        knob: What a comparison searches, or None.
        kind: Its name among the plugin's compressors, if that is another one.
        memory: Its memory, if that is not the usual one.
        also: From a run's settings and the steps of an epoch, if these are known, to
            arguments that no setting of its own gives.
        lacks: What the convex laboratory has no place for; "": nothing.
    """

    text: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    label: str = ""
    knob: Knob | None = None
    kind: str = ""
    memory: str | None = None
    also: Callable[[Any, int | None], dict[str, Any]] = lambda run, steps: {}
    lacks: str = ""

    @property
    def settings(self) -> tuple[str, ...]:
        """All that it may have."""
        return self.needs + self.takes


class MemoryRow(NamedTuple):
    """One memory. Attributes: as of `CompressorRow`."""

    text: str = ""
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """All that it may have."""
        return self.needs + self.takes


def _accordion_beside(density: float, steps: int) -> dict[str, Any]:
    return {
        "high_density": min(1.0, _ACCORDION_FACTOR * density),
        "accordion_interval": max(1, steps // _ACCORDION_DECISIONS),
    }


def _accordion_also(run: Any, steps_per_epoch: int | None) -> dict[str, Any]:
    if not steps_per_epoch:
        return {}
    decays = tuple(steps_per_epoch * epoch for epoch in run.decay_epochs or ())
    return {
        "interval_steps": _ACCORDION_EPOCHS * steps_per_epoch,
        "learning_rate_decays": decays,
    }


COMPRESSOR_ROWS: dict[str, CompressorRow] = {
    "none": CompressorRow("everything", label="dense"),
    "all": CompressorRow("everything, in the bits of --value_dtype"),
    "hard_threshold": CompressorRow(
        "the entries of at least --threshold",
        needs=("threshold",),
        label="hard threshold",
        # With error feedback an entry g is sent every λ/|g| steps, one of noise every
        # (λ/σ)²: between -1 and -2.
        knob=Knob("threshold", -1.5, at_every_rate=True),
    ),
    "adaptive_threshold": CompressorRow(
        "the same, the threshold steered so that the run sends --density",
        needs=("density",),
        label="adaptive threshold",
        knob=Knob("density"),
        also=lambda run, steps: {"steps": run.train_iterations},
        lacks="a number of steps of its own",
    ),
    "topk": CompressorRow(
        "the largest, --density of them",
        needs=("density",),
        takes=("topk_scope", "density_ramp_steps"),
        label="Top-k, layer by layer",
        knob=Knob("density"),
    ),
    "topk_schedule": CompressorRow(
        "the largest, as many as --counts says", needs=("counts",)
    ),
    "random_k": CompressorRow(
        "random ones, --density of them",
        needs=("density",),
        takes=("density_ramp_steps",),
        label="random k",
        knob=Knob("density"),
        also=lambda run, steps: {"seed": run.seed},
    ),
    "accordion": CompressorRow(
        "the largest, --low_density or --high_density of each tensor",
        needs=("low_density", "high_density"),
        takes=("accordion_interval",),
        label="ACCORDION",
        knob=Knob(
            "low_density", at_every_rate=True, first=0.5, beside=_accordion_beside
        ),
        also=_accordion_also,
    ),
    "dgc": CompressorRow(
        "topk with --memory dgc",
        needs=("density",),
        takes=("topk_scope", "density_ramp_steps", "memory_momentum"),
        kind="topk",
        memory="dgc",
        lacks="its memory",
    ),
}
MEMORY_ROWS: dict[str, MemoryRow] = {
    "error_feedback": MemoryRow(),
    "decaying_error_feedback": MemoryRow(needs=("memory_decay",)),
    "dgc": MemoryRow("the worker's own momentum, masked", takes=("memory_momentum",)),
    "ef21": MemoryRow(),
    "ef21_sgdm": MemoryRow(takes=("memory_momentum",)),
}


def alternatives(rows: Mapping[str, CompressorRow] | Mapping[str, MemoryRow]) -> str:
    """All names with their texts, for --help.

    >>> alternatives({"a": MemoryRow("as ever"), "b": MemoryRow(), "c": MemoryRow()})
    'a (as ever), b or c'
    """
    names = [f"{name} ({row.text})" if row.text else name for name, row in rows.items()]
    return _joined(names, "or")


def owners(setting: str) -> str:
    """Whose setting it is, for --help.

    >>> owners("threshold"), owners("memory_momentum")
    ('hard_threshold', 'dgc and ef21_sgdm')
    """
    rows = MEMORY_ROWS if setting.startswith("memory_") else COMPRESSOR_ROWS
    return _joined([name for name, row in rows.items() if setting in row.settings])


def _joined(names: Iterable[str], word: str = "and") -> str:
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last
