"""Draws the seconds to the target over links, a line for each row.

python studies/time_to_target/figure.py [FOLDER]    # results.csv in, board.png out
"""

from __future__ import annotations

import math
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import results
from time_to_target_rows import OURS, ROWS
from time_to_target_runs import LINKS

TITLES = {
    "gpt": "GPT on tiny Shakespeare, to dense's loss + 2 %",
    "cnn": "Simple-CNN on Fashion-MNIST, to dense's error + 1 point",
}
MARKS = "osD^vPX*"
TICKS = (5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)


def draw(axes: plt.Axes, found: results.Results, job: str) -> None:
    """One job. Ours are full lines; a row that was stopped has a hollow mark on top."""
    foreign = [name for name in ROWS if name not in OURS]
    stopped: dict[int, list] = {}
    known: list[float] = []
    for name in ROWS:
        is_ours = name in OURS
        index = OURS.index(name) if is_ours else foreign.index(name)
        colour = plt.get_cmap("Reds" if is_ours else "viridis")(
            0.9 - 0.4 * (index % 2) if is_ours else index / 8
        )
        lines = [
            found.find(job=job, kind="link", row=name, link=link) for link in LINKS
        ]
        seconds = [results.seconds_of(line) for line in lines]
        arrived = [s if math.isfinite(s) else math.nan for s in seconds]
        if all(map(math.isnan, arrived)):
            continue
        known += [s for s in arrived if math.isfinite(s)]
        style = {"color": colour, "marker": MARKS[index % len(MARKS)], "markersize": 5}
        style |= {"linestyle": "-" if is_ours else "--", "label": name}
        axes.plot(range(len(LINKS)), arrived, **style)
        for place, line in enumerate(lines):
            if line and not math.isfinite(seconds[place]):
                stopped.setdefault(place, []).append((style["marker"], colour))
    # How long they would take nobody knows: above all that arrived, side by side.
    top = 2 * max(known, default=1.0)
    for place, marks in stopped.items():
        for i, (mark, colour) in enumerate(marks):
            x = place + 0.06 * (i - (len(marks) - 1) / 2)
            axes.plot([x], [top], mark, color=colour, mfc="none", clip_on=False)
    axes.set_xticks(range(len(LINKS)), LINKS)
    axes.set(yscale="log", xlabel="link", ylabel="seconds to the target")
    axes.set_ylim(0.8 * min(known, default=1.0), 1.1 * top)
    ticks = [tick for tick in TICKS if 0.8 * min(known, default=1.0) < tick < top]
    axes.set_yticks(ticks, [f"{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.2)
    axes.set_title(
        f"{TITLES[job]}\n4 workers on two cores; full lines: tem_tf; hollow: stopped, "
        "not there",
        fontsize=9,
    )
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, 0.93))


def main() -> None:
    """Writes board.png beside results.csv."""
    folder = pathlib.Path(*(sys.argv[1:] or [pathlib.Path(__file__).parent]))
    found = results.Results(folder / "results.csv")
    jobs = [job for job in TITLES if found.find(job=job, kind="link")]
    if not jobs:
        sys.exit(f"{folder / 'results.csv'} has no runs over links yet.")
    figure, all_axes = plt.subplots(
        1, len(jobs), figsize=(7 * len(jobs), 6), layout="constrained", squeeze=False
    )
    for axes, job in zip(all_axes[0], jobs, strict=True):
        draw(axes, found, job)
    figure.savefig(folder / "board.png", dpi=150)


if __name__ == "__main__":
    main()
