r"""Holds the forecast against the board: seconds of a step, foretold and measured.

    sudo python studies/time_to_target/forecast.py PATH_TEXT     # forecast.csv, anew
    python studies/time_to_target/forecast.py --report

Once the board has lines of the GPT over links, on the same machine. Workers measure the
link and each row's own work in some seconds, as `tem_tf.predict` does, and a step's
arithmetic; what the board has measured is looked at by the report alone.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import pathlib
import sys
import tempfile
from typing import Any

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "benchmarks")]

from results import Results  # noqa: E402
from shaped_links import check_may_make_links  # noqa: E402
from time_to_target_rows import DENSE, ROWS, WORKERS  # noqa: E402
from time_to_target_runs import LINKS, Setup, alone, open_links, write_job  # noqa: E402
from worker_group import WorkerGroup  # noqa: E402

from tem_studies.written_files import write_table  # noqa: E402
from tem_tf.forecast.costs import Cost, Link  # noqa: E402

FORETOLD = HERE / "forecast.csv"
COLUMNS = ("link", "row", "local_steps", "seconds_per_step")
# Rows that `predict` knows how to take apart.
WAYS = ("dense", "threshold", "topk", "power_sgd", "all_entries", "local")
SECONDS = 600
NEAR = 0.2  # Off by so much at most.


def measured(results: Results) -> list[dict[str, Any]]:
    """The board's lines over links that can be foretold; the first seed's."""
    found = [
        line
        for line in results.find(job="gpt", kind="link")
        if ROWS[line["row"]].framework == "keras" and ROWS[line["row"]].way in WAYS
    ]
    first = min((line["seed"] for line in found), default=0)
    return [line for line in found if line["seed"] == first and line["steps"] > 1]


def foretell(link: str, lines: list[dict[str, Any]], setup: Setup) -> list[dict]:
    """Seconds of a step of each row on a link."""
    rows = [(n["row"], ROWS[n["row"]].way, n["settings"]) for n in lines]
    dense = {"optimizer": "adamw", "rate": 1e-3, "steps": 500}
    fragments = {n["row"]: n["settings"].get("fragments", 0) for n in lines}
    paces = {
        n["settings"].get("local_steps", 1) // max(1, fragments[n["row"]])
        for n in lines
    }
    arithmetic = {pace: alone(setup, DENSE, dense, pace) for pace in paces}
    program = [sys.executable, str(HERE.parents[1] / "benchmarks")]
    program = [program[0], f"{program[1]}/time_to_target_forecast.py"]
    with (
        open_links(link, WORKERS) as links,
        WorkerGroup(program, WORKERS, links, are_pinned=True) as group,
    ):
        sums, gathers, alike = group.run((setup.job, rows), SECONDS)[0]
    costs = [
        dataclasses.replace(cost, fragments=fragments[cost.name]) for cost in alike
    ]

    def step(cost: Cost) -> float:
        seen = Link(*(sums if cost.summed else gathers))
        return cost.step(arithmetic[cost.pace], seen, WORKERS)

    shown = {pace: round(1e3 * one) for pace, one in arithmetic.items()}
    print(link, f"arithmetic by pace, ms: {shown}", sums, gathers, flush=True)
    return [
        {
            "link": link,
            "row": cost.name,
            "local_steps": cost.period,
            "seconds_per_step": step(cost),
        }
        for cost in costs
    ]


def report(results: Results, path: pathlib.Path) -> str:
    """A table of both, how many are near, and what a wrong choice costs."""
    with path.open(newline="") as file:
        foretold = {(r["link"], r["row"]): r for r in csv.DictReader(file)}
    text = ["| link | row | H | foretold, ms | measured, ms | foretold by measured |"]
    text += ["|---" * 6 + "|"]
    pairs: dict[str, list[tuple[float, float, str]]] = {}
    for line in measured(results):
        told = foretold.get((line["link"], line["row"]))
        if told is None:
            continue
        guess = float(told["seconds_per_step"])
        seconds = line["seconds"] / (line["steps"] - 1)
        pairs.setdefault(line["link"], []).append((guess, seconds, line["row"]))
        text.append(
            f"| {line['link']} | {line['row']} | {told['local_steps']} | "
            f"{1e3 * guess:.0f} | {1e3 * seconds:.0f} | {guess / seconds:.2f} |"
        )
    everything = [pair for link in pairs.values() for pair in link]
    near = sum(abs(guess / seconds - 1) <= NEAR for guess, seconds, _ in everything)
    text += ["", f"Within {NEAR:.0%}: {near} of {len(everything)}."]
    for link, found in pairs.items():
        _, chosen, name = min(found)
        _, best, fastest = min(found, key=lambda pair: pair[1])
        text.append(
            f"{link}: the fastest step is foretold for {name}, measured for {fastest}: "
            f"{chosen / best - 1:.0%} lost."
        )
    return "\n".join(text)


def main() -> None:
    """Foretells, unless only the report is asked for; prints the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path_text", nargs="?")
    parser.add_argument("--links", nargs="+", choices=LINKS, default=LINKS)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    results = Results(HERE / "results.csv")
    lines = measured(results)
    if not lines:
        sys.exit("results.csv has no runs of the GPT over links: see run.py.")
    if not arguments.report:
        if arguments.path_text is None:
            parser.error("PATH_TEXT is missing")
        check_may_make_links()
        told: list[dict] = []
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder, "job.npz")
            write_job("gpt", arguments.path_text, out, 0, 500, [f"--workers={WORKERS}"])
            for link in arguments.links:
                there = [line for line in lines if line["link"] == link]
                if there:
                    told += foretell(link, there, Setup(str(out), None))
                    write_table(FORETOLD, told, COLUMNS)
    print(report(results, FORETOLD))


if __name__ == "__main__":
    main()
