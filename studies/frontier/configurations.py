"""What is trained: methods with their rates, and which of them are tried.

The search was declared before any result. `first` is fixed; `second`, `third` and
`repeats` follow from what has been found, by rules that are written here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

# e_i - 1 of tem_tf.wire.few_bits, by bits of a value; wire_bits.py compares.
LEVELS = {
    4: (
        *(-0.82470703125, -0.427490234375, 0.030517578125, 0.5712890625),
        *(1.2314453125, 2.079345703125, 3.2666015625, 5.2666015625),
    ),
    2: (-0.406494140625, 1.593505859375),
    1: (0.0,),
}
STEPS = 2000
NEVER = 1_000_000_000  # A step that does not come.
TUNING_SEED, SEEDS = 0, (1, 2, 3, 4)
# Bits per parameter and step, and how far from the best dense loss is aimed at.
BUDGETS = {3.0: 0.01, 0.3: 0.02, 0.05: 0.05}
# Of the best dense loss: beyond it nobody would train so.
WORTH_REPEATING = 1.1


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One way to train.

    Attributes:
        method: "dense": AdamW on the mean gradient. "before": error feedback before
            AdamW, as `SparsifiedOptimizer(AdamW)`. "momentum": AdamW whose second
            moment is frozen and whose momentum is compressed, after 1-bit Adam.
            "local": AdamW on each worker, what has changed compressed, as
            `LocalUpdates`.
        rate: Learning rate at the end of warm-up; a tenth of it at the end.
        density: Share of entries that is sent; with a fixed `cut`, the one aimed at.
        rule: "model": the largest of the model; "block": of each 4,096 entries;
            "threshold": all from `cut` on.
        cut: Magnitude from which on "threshold" sends.
        value_bits: 32: float32; 4, 2, 1: tem_tf's int4, int2, sign.
        period: Local steps between exchanges ("local").
        outer_rate, outer_momentum: Of the outer SGD, with Nesterov's momentum
            ("local").
        decay: What the residual is multiplied by before it is added.
        freeze: Dense steps before the second moment is frozen ("momentum").
        clip: Whether each worker clips its own gradient ("before", "momentum").
    """

    method: str
    rate: float
    density: float = 1.0
    rule: str = "model"
    cut: float = 0.0
    value_bits: int = 32
    period: int = 1
    outer_rate: float = 1.0
    outer_momentum: float = 0.0
    decay: float = 1.0
    freeze: int = 0
    clip: bool = True

    @property
    def family(self) -> str:
        """What is trained by the same program."""
        return "local" if self.method == "local" else "shared"

    @property
    def group(self) -> tuple[Any, ...]:
        """What stays when rates are tuned."""
        return (self.method, self.period, self.density, self.value_bits, self.freeze)


FIELDS = dataclasses.fields(Configuration)


def read(row: dict[str, str]) -> Configuration:
    """A configuration from a line of the results."""
    kinds: dict[Any, Any] = {
        "str": str,
        "float": float,
        "int": int,
        "bool": lambda s: s == "True",
    }
    return Configuration(**{f.name: kinds[f.type](row[f.name]) for f in FIELDS})


# Density and bits of a value.
ALL_INT2, SPARSE_INT2 = (1.0, 2), (1 / 64, 2)
COMPRESSIONS = (
    *((1.0, 32), (1.0, 4), (1.0, 1)),
    *((1 / 4, 2), (1 / 16, 2), SPARSE_INT2, (1 / 16, 1), (1 / 256, 2)),
)
OUTER = ((1.0, 0.0), (0.7, 0.9), (0.9, 0.6))
PERIODS = (30, 10, 4, 100)


def first() -> list[Configuration]:
    """The rates of every method, at compressions that seem to be the best."""
    dense = [Configuration("dense", rate) for rate in (1e-3, 2e-3, 4e-3, 8e-3)]
    before = [
        Configuration("before", rate, density, value_bits=bits)
        for density, bits, rate in itertools.product(
            (1 / 16, 1 / 64), (32, 2), (1e-3, 3e-3)
        )
    ]
    momentum = [
        Configuration("momentum", rate, density, value_bits=bits, freeze=freeze)
        for freeze, compressions in (
            (100, (ALL_INT2, SPARSE_INT2, (1.0, 1), (1 / 16, 2), (1 / 64, 32))),
            (400, (ALL_INT2, SPARSE_INT2)),
        )
        for (density, bits), rate in itertools.product(compressions, (1e-3, 2e-3))
    ]
    local = [
        Configuration(
            *("local", rate),
            value_bits=2,
            period=period,
            outer_rate=outer,
            outer_momentum=outer_momentum,
        )
        for period, (outer, outer_momentum), rate in itertools.product(
            PERIODS, OUTER, (2e-3, 1e-3, 4e-3)
        )
    ]
    every_step = [
        Configuration("local", rate, density, value_bits=bits)
        for (density, bits), rate in itertools.product(
            (ALL_INT2, (1.0, 1), (1 / 16, 2), SPARSE_INT2, (1 / 256, 2)),
            (1e-3, 2e-3),
        )
    ]
    return dense + before + local + every_step + momentum


def second(rows: Sequence[dict[str, Any]]) -> list[Configuration]:
    """Other compressions at the best rates of every method and period.

    Sparse ones with an outer momentum and without, whichever was best: memory and
    momentum both delay.
    """
    found = []
    for period in PERIODS:
        tuned = [
            row
            for row in rows
            if row["configuration"].group[:4] == ("local", period, *ALL_INT2)
        ]
        for one in _best(tuned):
            other = _best(
                row
                for row in tuned
                if (row["configuration"].outer_momentum > 0) != (one.outer_momentum > 0)
            )
            found += [_compressed(one, *compression) for compression in COMPRESSIONS]
            found += [
                _compressed(two, density, 2)
                for two in other
                for density in (1 / 16, 1 / 64)
            ]
    every_step = [row for row in rows if row["configuration"].group[:2] == ("local", 1)]
    for density, bits in ((1.0, 32), (1.0, 4), (1 / 4, 2), (1 / 16, 1)):
        found += [_compressed(one, density, bits) for one in _best(every_step)]
    momentum = [row for row in rows if row["configuration"].method == "momentum"]
    momentum.sort(key=lambda row: row["loss"])
    best = _best_of_each(momentum, lambda one: (one.density, one.value_bits))
    for one in best[:2]:
        found += [dataclasses.replace(one, freeze=freeze) for freeze in (50, 200)]
        found += [dataclasses.replace(one, decay=0.95)]
        found += [dataclasses.replace(one, clip=False)]
    return found


def _compressed(one: Configuration, density: float, bits: int) -> Configuration:
    return dataclasses.replace(one, density=density, value_bits=bits)


def third(rows: Sequence[dict[str, Any]]) -> list[Configuration]:
    """Neighbours of the two best of every budget, one number changed at a time."""
    found = []
    for budget in BUDGETS:
        within = [row for row in rows if row["bits"] <= budget]
        best = sorted(within, key=lambda row: row["loss"])[:2]
        found += [_neighbours(row) for row in best]
    # In turns, should there be no time for all.
    turns = itertools.zip_longest(*found)
    return [one for turn in turns for one in turn if one is not None]


def _neighbours(row: dict[str, Any]) -> list[Configuration]:
    one = row["configuration"]
    changes: list[dict[str, Any]] = [
        {"rate": round(one.rate * factor, 7)} for factor in (1.4, 0.7)
    ]
    if one.method == "local":
        changes += [{"period": one.period * 2}]
    if one.method == "local" and one.period > 1:
        changes += [{"outer_rate": round(one.outer_rate + d, 3)} for d in (0.2, -0.2)]
        momentum = round(one.outer_momentum - 0.15, 3) if one.outer_momentum else 0.3
        changes += [{"outer_momentum": momentum}, {"period": one.period // 2}]
    if one.rule == "threshold":
        changes += [{"cut": one.cut * factor} for factor in (1.4, 0.7)]
    elif one.density < 1:
        changes += [{"rule": "model" if one.rule == "block" else "block"}]
        # As many as Top-k in the mean: at the mean of what it has cut at.
        changes += [{"rule": "threshold", "cut": row["cut_mean"]}]
        changes += [{"density": one.density * 2}]
    if one.method != "dense" and (one.density, one.value_bits) != (1.0, 32):
        changes += [{"decay": decay} for decay in (0.95, 0.9) if decay != one.decay]
    if one.value_bits <= 2:
        changes += [{"value_bits": 3 - one.value_bits}]
    return [dataclasses.replace(one, **change) for change in changes]


def repeats(rows: Sequence[dict[str, Any]]) -> list[tuple[Configuration, int]]:
    """Configurations and further seeds: dense, then the frontier, then all groups.

    What was farther from dense than `WORTH_REPEATING` is left out.
    """
    tuned = [row for row in rows if row["seed"] == TUNING_SEED]
    dense = [row for row in tuned if row["configuration"].method == "dense"]
    most = WORTH_REPEATING * min((row["loss"] for row in dense), default=0.0)
    tuned = [row for row in tuned if row["loss"] <= most]
    edge = [row["configuration"] for row in frontier(tuned)]
    groups = _best_of_each(tuned, lambda one: one.group)
    levels = [(_best(dense), SEEDS), (edge, SEEDS)]
    levels += [(groups, SEEDS[:2]), (groups, SEEDS[2:])]
    return [
        (one, seed)
        for configurations, seeds in levels
        for one in sorted(configurations, key=lambda one: (one.family, one.period))
        for seed in seeds
    ]


def frontier(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of which no other has both fewer bits and less loss, by falling bits."""
    found, least = [], math.inf
    for row in sorted(rows, key=lambda row: (row["bits"], row["loss"])):
        if row["loss"] < least:
            found.append(row)
            least = row["loss"]
    return found[::-1]


def _best(rows: Iterable[dict[str, Any]]) -> list[Configuration]:
    """The one with the least loss, or none."""
    rows = sorted(rows, key=lambda row: row["loss"])
    return [row["configuration"] for row in rows[:1]]


def _best_of_each(rows: Sequence[dict[str, Any]], group: Any) -> list[Configuration]:
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(group(row["configuration"]), []).append(row)
    return [one for members in groups.values() for one in _best(members)]
