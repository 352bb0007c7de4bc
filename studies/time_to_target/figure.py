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


def draw(axes: plt.Axes, found: results.Results, job: str) -> None:
    """One job. Ours are full lines; a row that was stopped has a hollow mark there."""
    foreign = [name for name in ROWS if name not in OURS]
    for name in ROWS:
        is_ours = name in OURS
        index = OURS.index(name) if is_ours else foreign.index(name)
        colour = plt.get_cmap("autumn" if is_ours else "winter")(index / 8)
        lines = [
            found.find(job=job, kind="link", row=name, link=link) for link in LINKS
        ]
        seconds = [results.seconds_of(line) for line in lines]
        arrived = [s if math.isfinite(s) else math.nan for s in seconds]
        if all(map(math.isnan, arrived)):
            continue
        style = {"color": colour, "marker": MARKS[index % len(MARKS)], "markersize": 5}
        style |= {"linestyle": "-" if is_ours else "--", "label": name}
        axes.plot(range(len(LINKS)), arrived, **style)
        for place, line in enumerate(lines):
            if line and not math.isfinite(seconds[place]):
                least = max(each["seconds"] for each in line)
                axes.plot([place], [least], style["marker"], color=colour, mfc="none")
    axes.set_xticks(range(len(LINKS)), LINKS)
    axes.set(yscale="log", xlabel="link", ylabel="seconds to the target")
    axes.set_title(f"{TITLES[job]}\n4 workers; hollow: stopped, not there", fontsize=9)
    axes.legend(fontsize=7)


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
