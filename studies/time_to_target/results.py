"""results.csv of the board: a line for each finished run; and the README's tables."""

from __future__ import annotations

import csv
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

from time_to_target import ratio  # noqa: E402
from time_to_target_rows import DENSE, ROWS, WORKERS  # noqa: E402
from time_to_target_runs import LINKS, LOOPBACK  # noqa: E402

from tem_studies.written_files import write_table  # noqa: E402

PARAMETERS = {"gpt": 804_096, "cnn": 62_346}
KEY = ("job", "kind", "row", "link", "seed", "settings")
NUMBERS = (
    "target",
    "error",
    "steps",
    "seconds",
    "sent_bytes",
    "received_bytes",
    "arithmetic_seconds",
    "run_seconds",
)
COLUMNS = (*KEY, "is_there", *NUMBERS, "digest")
Line = dict[str, Any]


class Results:
    """All lines; each is written, the whole file anew, as soon as its run has ended.

    Args:
        path: Of results.csv.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self.lines: list[Line] = []
        if path.exists():
            with path.open(newline="") as file:
                self.lines = [_read(line) for line in csv.DictReader(file)]

    def find(self, **key: Any) -> list[Line]:
        """Lines that have these values; `settings` is a dictionary."""
        return [
            line
            for line in self.lines
            if all(line[name] == value for name, value in key.items())
        ]

    def add(self, line: Line) -> None:
        """Adds a line to the file."""
        self.lines.append(line)
        written = [
            {**each, "settings": json.dumps(each["settings"], sort_keys=True)}
            for each in self.lines
        ]
        write_table(self._path, written, COLUMNS)


def _read(line: dict[str, str]) -> Line:
    return {
        **line,
        "seed": int(line["seed"]),
        "settings": json.loads(line["settings"]),
        "is_there": line["is_there"].lower() == "true",
        **{name: float(line[name]) for name in NUMBERS},
        "steps": int(float(line["steps"])),
        "digest": int(line["digest"]),
    }


def report(results: Results, job: str) -> str:
    """The README's tables of a job, as Markdown."""
    names = [link for link in LINKS if results.find(job=job, kind="link", link=link)]
    lines = [
        "| row | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in ROWS:
        cells = [
            _seconds(results.find(job=job, kind="link", row=row, link=link))
            for link in names
        ]
        if any(cells):
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    head = (
        "| row | link | settings | steps | ms per step | exposed ms | MB sent | error |"
    )
    lines += ["", *_ratios(results, job, names)]
    lines += ["", head, "|---" * 8 + "|"]
    for link in names:
        for row in ROWS:
            found = results.find(job=job, kind="link", row=row, link=link)
            lines += [_details(found)] if found else []
    return "\n".join(lines)


def _ratios(results: Results, job: str, links: Sequence[str]) -> list[str]:
    """R of each link, by the arithmetic of a dense step."""
    dense = results.find(job=job, kind="alone", row=DENSE)
    if not dense:
        return []
    seconds = dense[0]["arithmetic_seconds"]
    ratios = (ratio(PARAMETERS[job], link, WORKERS, seconds) for link in links)
    words = (f"{link} {r:.1f}" for link, r in zip(links, ratios, strict=True))
    return [
        f"Arithmetic of a dense step: {1e3 * seconds:.0f} ms. R: {', '.join(words)}."
    ]


def seconds_of(found: Sequence[Mapping[str, Any]]) -> float:
    """Mean seconds over seeds; infinite if one was not there."""
    if not found or not all(line["is_there"] for line in found):
        return math.inf
    return statistics.mean(line["seconds"] for line in found)


def _seconds(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return ""
    if (mean := seconds_of(found)) == math.inf:
        least = min(
            (line for line in found if not line["is_there"]), key=lambda n: n["seconds"]
        )
        if least["link"] == LOOPBACK:
            return f"not in {least['steps']} steps"
        return f"stopped: {least['steps']} steps in {least['seconds']:.3g} s"
    if len(found) == 1:
        return f"{mean:.3g} s"
    each = " ".join(f"{line['seconds']:.3g}" for line in found)
    return f"{mean:.3g} s ({each})"


def _details(found: Sequence[Mapping[str, Any]]) -> str:
    def mean(name: str) -> float:
        return statistics.mean(line[name] for line in found)

    steps = statistics.mean(line["steps"] for line in found)
    step = statistics.mean(
        line["seconds"] / max(1, line["steps"] - 1) for line in found
    )
    exposed = step - mean("arithmetic_seconds")
    first = found[0]
    kept = {k: v for k, v in first["settings"].items() if k != "optimizer"}
    settings = ", ".join(f"{name} {value}" for name, value in kept.items())
    error = "" if first["link"] != LOOPBACK else f"{mean('error'):.4f}"
    return (
        f"| {first['row']} | {first['link']} | {settings} | {steps:.0f} |"
        f" {1e3 * step:.1f} | {1e3 * exposed:.1f} | {mean('sent_bytes') / 1e6:.2f} |"
        f" {error} |"
    )
