"""What is trained: ways to exchange, with their rates, and which of them are tried.

`first` is fixed; `neighbours` and `repeats` follow from what has been found, by rules
that are written here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

STEPS, WORKERS = 2000, 4
TUNING_SEED, SEEDS = 0, (1, 2, 3)
# Bits per parameter and step, and how far from the best dense loss is aimed at.
BUDGETS = {3.0: 0.01, 0.3: 0.02, 0.05: 0.05}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One way to train.

    Attributes:
        method: "dense": AdamW on the mean gradient. "before": compressed before AdamW,
            by `SparsifiedOptimizer`. "momentum": after `freeze` dense steps the
            momentum, by `CompressedAdamW`. "local": what `period` steps of AdamW have
            changed, by `LocalUpdates`; a period of 1 is compression after AdamW.
        rate: Learning rate after warm-up; a tenth of it at the end.
        values: "float32", "bfloat16", "int8", "int4", "int2" or "sign".
        density: Share of entries that is sent; 1: all, without indices.
        scope: "model": the largest of all; "block": of each 4,096 of a variable;
            "threshold": those that are not below `cut`.
        cut: Magnitude, for "threshold".
        period: Steps between exchanges ("local").
        outer_rate, outer_momentum: Of the outer SGD, with Nesterov's momentum.
        decay: What the residual is multiplied by before it is added.
        freeze: Dense steps before the second moment is frozen ("momentum").
    """

    method: str
    rate: float
    values: str = "float32"
    density: float = 1.0
    scope: str = "model"
    cut: float = 0.0
    period: int = 1
    outer_rate: float = 1.0
    outer_momentum: float = 0.0
    decay: float = 1.0
    freeze: int = 0

    @property
    def group(self) -> tuple[Any, ...]:
        """What stays when rates are tuned."""
        return (self.method, self.period, self.values, self.density, self.freeze)

    def flags(self) -> list[str]:
        """Of main.py."""
        flags: dict[str, Any] = {"learning_rate": self.rate}
        if self.method == "local":
            flags |= {"local_steps": self.period}
            flags |= {"outer_learning_rate": self.outer_rate}
            flags |= {"outer_momentum": self.outer_momentum}
        if self.method == "momentum":
            flags |= {"freeze_step": self.freeze}
        if self.method != "dense":
            flags |= {"value_dtype": self.values} | self._selection()
        if self.decay != 1:
            flags |= {"memory": "decaying_error_feedback", "memory_decay": self.decay}
        return [f"--{name}={value}" for name, value in flags.items()]

    def _selection(self) -> dict[str, Any]:
        if self.scope == "threshold":
            return {"compressor": "hard_threshold", "threshold": self.cut}
        if self.density == 1:
            return {"compressor": "all"}
        return {
            "compressor": "topk",
            "density": self.density,
            "topk_scope": self.scope,
        }


FIELDS = dataclasses.fields(Configuration)


def read(row: dict[str, str]) -> Configuration:
    """A configuration from a line of the results."""
    kinds: dict[Any, Any] = {"str": str, "float": float, "int": int}
    return Configuration(**{f.name: kinds[f.type](row[f.name]) for f in FIELDS})


def first() -> list[Configuration]:
    """What is tried with the tuning seed; the first lines matter most."""

    def local(
        period: int, values: str, rate: float, outer: tuple[float, float], **more: Any
    ) -> Configuration:
        return Configuration(
            "local",
            rate,
            values,
            period=period,
            outer_rate=outer[0],
            outer_momentum=outer[1],
            **more,
        )

    fast, plain, some = (0.7, 0.9), (1.0, 0.0), (0.9, 0.6)
    block = {"density": 1 / 4, "scope": "block"}
    return [
        Configuration("dense", 2e-3),
        local(10, "int2", 2e-3, some),
        Configuration("dense", 4e-3),
        local(30, "sign", 2e-3, fast),
        local(4, "int4", 2e-3, plain),
        local(10, "int2", 4e-3, some),
        Configuration("momentum", 2e-3, "sign", freeze=100),
        local(30, "sign", 4e-3, some),
        local(1, "int2", 2e-3, plain),
        local(10, "int2", 2e-3, fast),
        Configuration("dense", 1e-3),
        local(4, "int4", 4e-3, plain),
        local(30, "sign", 4e-3, fast),
        local(10, "int2", 4e-3, plain),
        local(30, "int2", 2e-3, fast, **block),
        Configuration("before", 2e-3, "int2", density=1 / 16),
        local(50, "int2", 4e-3, fast),
        local(10, "float32", 4e-3, some),
        local(30, "float32", 4e-3, fast),
        local(30, "int2", 2e-3, fast, density=1 / 16),
        Configuration("momentum", 1e-3, "sign", freeze=100),
        Configuration("before", 1e-3, "int2", density=1 / 16),
        Configuration("momentum", 2e-3, "int2", density=1 / 16, freeze=100),
        local(1, "int2", 2e-3, plain, density=1 / 16),
        local(100, "int4", 4e-3, fast),
        Configuration("momentum", 2e-3, "sign", freeze=50),
    ]


def neighbours(rows: Sequence[dict[str, Any]]) -> list[Configuration]:
    """Of the best within each budget: one number changed at a time."""
    found = []
    for budget in BUDGETS:
        within = [row for row in rows if row["bits"] <= budget]
        best = sorted(within, key=lambda row: row["loss"])[:1]
        found += [_changed(row["configuration"]) for row in best]
    # In turns, should there be no time for all.
    turns = itertools.zip_longest(*found)
    return [one for turn in turns for one in turn if one is not None]


def _changed(one: Configuration) -> list[Configuration]:
    changes: list[dict[str, Any]] = [
        {"rate": round(one.rate * factor, 7)} for factor in (1.4, 0.7)
    ]
    if one.method == "local" and one.period > 1:
        momentum = round(max(0.0, one.outer_momentum - 0.2), 3)
        changes += [{"outer_momentum": momentum}]
        changes += [{"outer_rate": round(one.outer_rate + 0.2, 3)}]
    return [dataclasses.replace(one, **change) for change in changes]


def repeats(rows: Sequence[dict[str, Any]]) -> list[tuple[Configuration, int]]:
    """Further seeds, one seed after the other: dense, then what nothing beats."""
    tuned = [row for row in rows if row["seed"] == TUNING_SEED]
    dense = [row for row in tuned if row["configuration"].method == "dense"]
    if not dense:
        return []
    chosen = [min(dense, key=lambda row: row["loss"])["configuration"]]
    for budget in BUDGETS:
        within = [row for row in tuned if row["bits"] <= budget]
        within.sort(key=lambda row: row["loss"])
        chosen += [row["configuration"] for row in within[:2]]
    chosen += [row["configuration"] for row in frontier(tuned)]
    return [(one, seed) for seed in SEEDS for one in dict.fromkeys(chosen)]


def frontier(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of which no other has both fewer bits and less loss, by falling bits."""
    found, least = [], math.inf
    for row in sorted(rows, key=lambda row: (row["bits"], row["loss"])):
        if row["loss"] < least:
            found.append(row)
            least = row["loss"]
    return found[::-1]
