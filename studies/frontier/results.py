"""Results: their files, the frontier over all seeds, the tables of the README."""

from __future__ import annotations

import csv
import math
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from configurations import (
    BUDGETS,
    FIELDS,
    SEEDS,
    TUNING_SEED,
    Configuration,
    read,
)

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tem_studies.written_files import write_table  # noqa: E402

NUMBERS = ("loss", "bits", "entries")
FIELD_NAMES = tuple(field.name for field in FIELDS)
COLUMNS = (*FIELD_NAMES, "seed", *NUMBERS, "seconds")
# Student's t of 95 %, by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def load(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of results.csv, with `configuration`; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {
                "configuration": read(row),
                "seed": int(row["seed"]),
                **{name: float(row[name]) for name in (*NUMBERS, "seconds")},
            }
            for row in csv.DictReader(file)
        ]


def save(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as `load` reads them."""
    write_table(
        path,
        [
            {
                **{name: getattr(row["configuration"], name) for name in FIELD_NAMES},
                **{name: row[name] for name in ("seed", *NUMBERS, "seconds")},
            }
            for row in rows
        ],
        COLUMNS,
    )


def repeated(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A summary of each configuration that was trained with seeds beside tuning's.

    Each has `configuration`, `bits`, `entries`, `loss` (means), `seeds` (how many),
    `excess` (the mean difference to dense of equal seeds, by dense's mean loss), `half`
    (half of its interval of 95 %, infinite with one seed) and `tuning_loss`.
    """
    by_one: dict[Configuration, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_one.setdefault(row["configuration"], {})[row["seed"]] = row
    dense = best_dense(rows)
    if dense is None:
        return []
    found = []
    for one, of_seeds in by_one.items():
        seeds = [seed for seed in SEEDS if seed in of_seeds and seed in by_one[dense]]
        if not seeds:
            continue
        base = statistics.mean(by_one[dense][seed]["loss"] for seed in seeds)
        differences = [
            (of_seeds[seed]["loss"] - by_one[dense][seed]["loss"]) / base
            for seed in seeds
        ]
        half = math.inf
        if len(seeds) > 1 and all(map(math.isfinite, differences)):
            deviation = statistics.stdev(differences)
            half = _T[len(seeds) - 1] * deviation / math.sqrt(len(seeds))
        found.append(
            {
                "configuration": one,
                "bits": statistics.mean(of_seeds[seed]["bits"] for seed in seeds),
                "loss": statistics.mean(of_seeds[seed]["loss"] for seed in seeds),
                "entries": statistics.mean(of_seeds[seed]["entries"] for seed in seeds),
                "seeds": len(seeds),
                "excess": statistics.mean(differences),
                "half": half,
                "tuning_loss": of_seeds.get(TUNING_SEED, {}).get("loss", math.nan),
            }
        )
    return found


def best_dense(rows: Sequence[dict[str, Any]]) -> Configuration | None:
    """Dense training at the rate that was best with the tuning seed."""
    dense = [
        row
        for row in rows
        if row["configuration"].method == "dense" and row["seed"] == TUNING_SEED
    ]
    if not dense:
        return None
    return min(dense, key=lambda row: row["loss"])["configuration"]


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The README's tables, as Markdown."""
    found = repeated(rows)
    least = min((row["seeds"] for row in found), default=0)
    lines = [f"{len(rows)} trainings; every row below has {least} or more seeds.", ""]
    lines += ["The best within each budget:", ""]
    lines += [
        "| budget | aim | loss beside dense (95 %) | which |",
        "|---|---|---|---|",
    ]
    for budget, aim in BUDGETS.items():
        within = [row for row in found if row["bits"] <= budget and row["seeds"] > 1]
        for row in sorted(within, key=lambda row: row["loss"])[:1]:
            lines.append(
                f"| {budget:g} bits | {aim:.0%} | {_excess(row)} | {_words(row)} |"
            )
    lines += ["", "All that was repeated:", ""]
    lines += [
        "| bits | by dense | loss | beside dense (95 %) | seeds | tuning | which |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['bits']:.3g} | 1/{32 / row['bits']:.0f} | {row['loss']:.4f} |"
        f" {_excess(row)} | {row['seeds']} | {row['tuning_loss']:.4f} |"
        f" {_words(row)} |"
        for row in sorted(found, key=lambda row: -row["bits"])
    ]
    lines += ["", "All that was tried, with the tuning seed:", "", *_tuned(rows)]
    return "\n".join(lines)


def _tuned(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table: all that was trained with the tuning seed, by falling bits."""
    tuned = [row for row in rows if row["seed"] == TUNING_SEED]
    dense = best_dense(rows)
    base = next((r["loss"] for r in tuned if r["configuration"] == dense), math.nan)
    lines = ["| bits | loss | beside dense | which |", "|---|---|---|---|"]
    lines += [
        f"| {row['bits']:.3g} | {row['loss']:.4f} | {row['loss'] / base - 1:+.1%} |"
        f" {_words(row)} |"
        for row in sorted(tuned, key=lambda row: (-row["bits"], row["loss"]))
    ]
    return lines


def _excess(row: dict[str, Any]) -> str:
    low, high = (row["excess"] + sign * row["half"] for sign in (-1, 1))
    return f"{row['excess']:+.2%} ({low:+.2%} to {high:+.2%})"


def _words(row: dict[str, Any]) -> str:
    one = row["configuration"]
    words = [one.method, f"rate {one.rate:g}"]
    if one.method == "local":
        words += [f"H {one.period}"]
        words += [f"outer {one.outer_rate:g}, {one.outer_momentum:g}"]
    if one.freeze:
        words += [f"{one.freeze} dense steps first"]
    if one.method != "dense":
        if one.scope == "threshold":
            words += [f"{row['entries']:.2%} by cut {one.cut:.2g}"]
        else:
            some = f"1/{1 / one.density:g} by {one.scope}"
            words += [some if one.density < 1 else "all"]
        words += [one.values]
        words += [f"decay {one.decay:g}"] if one.decay != 1 else []
    return ", ".join(words)
