"""Draws losses beside dense over the bits that they took.

python studies/frontier/figure.py [FOLDER]    # results.csv in, frontier.png out
"""

from __future__ import annotations

import math
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import results
from configurations import BUDGETS, TUNING_SEED, Configuration, frontier

HIGHEST = 0.12  # Of the losses that are shown, beside dense.
COLOURS = ("tab:grey", "tab:brown", "tab:purple", "tab:blue", "tab:cyan", "tab:green")
COLOURS += ("tab:olive", "tab:orange", "tab:red")


def series(one: Configuration) -> str:
    """What has a colour of its own."""
    names = {"before": "compressed before AdamW", "momentum": "frozen, then momentum"}
    if one.method == "local" and one.period == 1:
        return "compressed after AdamW"
    if one.method == "local":
        return f"{one.period} local steps"
    return names.get(one.method, one.method)


def main() -> None:
    """Writes frontier.png beside results.csv."""
    folder = pathlib.Path(*(sys.argv[1:] or [pathlib.Path(__file__).parent]))
    rows = results.load(folder / "results.csv")
    found = results.repeated(rows)
    tuned = [row for row in rows if row["seed"] == TUNING_SEED]
    dense = min(row["loss"] for row in tuned if row["configuration"].method == "dense")
    names = sorted(
        {series(row["configuration"]) for row in rows},
        key=lambda name: (
            name[0].isdigit(),
            name[0].isdigit() and int(name.split()[0]),
        ),
    )
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for name, colour in zip(names, COLOURS, strict=False):
        pale = [row for row in tuned if series(row["configuration"]) == name]
        axes.plot(
            [row["bits"] for row in pale],
            [100 * (row["loss"] / dense - 1) for row in pale],
            *("o",),
            **{"color": colour, "alpha": 0.5, "markersize": 4, "zorder": 1},
        )
        full = [row for row in found if series(row["configuration"]) == name]
        axes.errorbar(
            [row["bits"] for row in full],
            [100 * row["excess"] for row in full],
            [100 * row["half"] if math.isfinite(row["half"]) else 0 for row in full],
            fmt="o",
            **{"color": colour, "label": name, "markersize": 5, "capsize": 2},
        )
    edge = frontier(row for row in found if row["excess"] <= HIGHEST)
    axes.plot(
        [row["bits"] for row in edge],
        [100 * row["excess"] for row in edge],
        *("k-",),
        **{"linewidth": 1, "label": "frontier of the means", "zorder": 0},
    )
    for budget, aim in BUDGETS.items():
        axes.plot([budget], [100 * aim], "k_", markersize=14)
        axes.annotate(
            f"{budget:g} bits, {aim:.0%}",
            (budget, 100 * aim),
            **{"textcoords": "offset points", "xytext": (12, -3), "ha": "left"},
            fontsize=7,
        )
    axes.axhline(0, color="tab:grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", ylim=(-3, 100 * HIGHEST))
    axes.set_xlabel("bits per parameter and step that a worker sends")
    axes.set_ylabel("final validation loss beside dense, %")
    axes.set_title(
        "GPT on tiny Shakespeare, 4 workers. Pale: the tuning seed; full: other seeds"
    )
    axes.legend(fontsize=8)
    figure.savefig(folder / "frontier.png", dpi=150)


if __name__ == "__main__":
    main()
