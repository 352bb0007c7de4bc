"""What is trained: ways to exchange, with their rates, and which of them are tried.

`first` is a list; `repeats` follows from what has been found, by a rule.
"""

from __future__ import annotations

import dataclasses
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
        freeze: Dense steps first, "momentum" then freezes the second moment.
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
        if self.method == "before" and self.freeze:
            flags |= {"warmup_steps": self.freeze}
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
    return [
        Configuration("dense", 2e-3),
        local(10, "int2", 2e-3, some),
        Configuration("dense", 4e-3),
        local(30, "sign", 2e-3, fast),
        local(4, "int4", 2e-3, plain),
        local(10, "int2", 4e-3, some),
        Configuration("dense", 8e-3),
        local(30, "sign", 4e-3, some),
        Configuration("momentum", 4e-3, "sign", freeze=100),
        local(4, "int4", 4e-3, some),
        local(50, "int2", 4e-3, some),
        local(16, "int4", 4e-3, some),
        local(16, "float32", 4e-3, some),
        local(10, "int2", 6e-3, some),
        Configuration("before", 4e-3, "int2", density=1 / 16),
        local(10, "int2", 4e-3, fast),
        Configuration("before", 4e-3, "int2"),
        Configuration("before", 4e-3, "sign"),
        Configuration("before", 4e-3, "int2", freeze=45),
        local(10, "int2", 4e-3, (0.9, 0.4)),
        local(8, "int2", 4e-3, (0.9, 0.5)),
    ]


def repeats(rows: Sequence[dict[str, Any]]) -> list[tuple[Configuration, int]]:
    """Further seeds of dense at its best rate and of the best within each budget.

    Then of the best of every other method.
    """
    tuned = sorted(
        (row for row in rows if row["seed"] == TUNING_SEED),
        key=lambda row: row["loss"],
    )
    methods = {}
    for row in tuned:
        methods.setdefault(row["configuration"].method, row["configuration"])
    chosen = [methods.pop("dense")]
    for budget in BUDGETS:
        within = [row["configuration"] for row in tuned if row["bits"] <= budget]
        chosen += within[:1]
    both = (list(dict.fromkeys(chosen)), list(methods.values()))
    return [(one, seed) for part in both for seed in SEEDS for one in part]


def frontier(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of which no other has both fewer bits and less loss, by falling bits."""
    found, least = [], math.inf
    for row in sorted(rows, key=lambda row: (row["bits"], row["loss"])):
        if row["loss"] < least:
            found.append(row)
            least = row["loss"]
    return found[::-1]
