r"""Seconds of summing one gradient of ResNet-18 over workers, in every way there is.

    python benchmarks/aggregation.py                                # loopback
    sudo python benchmarks/aggregation.py --links loopback 1gbit 100mbit \
        --torch /path/to/a/python/with/torch
    python benchmarks/aggregation.py --short                        # for CI: a minute

d = 11,173,962 in ResNet-18's segments, N(0, 1)·1e-3, other data on each worker; hard
threshold with error feedback, 0.1 % of the entries; one thread per worker. Compared
are tem_tf (`SparsifiedOptimizer` from the gradients of a worker to their sum), the same
with `exact_payload`, error feedback in plain TensorFlow ops, TensorFlow's dense
all-reduce with every `bytes_per_pack` and implementation, and PyTorch's gloo where
--torch names a Python that has it. All take turns in one run; a figure is the median
over turns of a turn's mean seconds per step, of the slowest worker. Shaped links
(shaped_links.py) need root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import platform
import statistics
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from shaped_links import RATES, ShapedLinks
from worker_group import START_SECONDS, WorkerGroup

SIZE = 11_173_962
OURS = "tem_tf"
EXACT = "tem_tf, exact_payload"
PLAIN = "error feedback in plain TF ops"
PACKS = {"0": 0, "4 MB": 4 << 20, "32 MB": 32 << 20, "1 GB": 1 << 30}
DENSE = tuple(
    f"TensorFlow dense, pack {pack}, {implementation}"
    for pack in PACKS
    for implementation in ("RING", "AUTO")
)
TF_PATHS = (OURS, EXACT, PLAIN, *DENSE)
GLOO = ("gloo dense float32", "gloo dense float16")
# Beyond any step seen: 7 s for 44.7 MB at 100 Mbit/s.
STEP_SECONDS = 60
# A turn has as many steps as fit into this, at most 20, so that a slow link does not
# take an hour and a fast one is not measured by a single step. Where a dense step takes
# longer than this, a turn is one step.
TURN_SECONDS = 0.8
HERE = pathlib.Path(__file__).parent


def measure(arguments: argparse.Namespace, workers: int, link: str) -> dict[str, Any]:
    """Measures all paths on so many workers over one link.

    Returns:
        By path: `milliseconds` (median over turns), `turns` (of each of them) and what
        the workers know about bytes.
    """
    with contextlib.ExitStack() as open_:
        links = None
        if link != "loopback":
            links = open_.enter_context(ShapedLinks(workers, link))
        group_of: dict[str, WorkerGroup] = {}
        for python, program, paths in (
            (sys.executable, "aggregation_paths.py", arguments.paths),
            (arguments.torch, "gloo_paths.py", GLOO),
        ):
            if python:
                command = [python, str(HERE / program)]
                group = open_.enter_context(WorkerGroup(command, workers, links))
                group_of |= dict.fromkeys(paths, group)
        return _take_turns(group_of, arguments.turns)


def _take_turns(group_of: dict[str, WorkerGroup], turns: int) -> dict[str, Any]:
    steps, results = {}, {}
    for path, group in group_of.items():  # Traces, connects, sees how long it takes.
        seconds = _mean(group.run((path, 1), START_SECONDS + STEP_SECONDS))
        if seconds < 4 * TURN_SECONDS:
            seconds = _mean(group.run((path, 2), 2 * STEP_SECONDS))
        steps[path] = max(1, min(20, round(TURN_SECONDS / seconds)))
        results[path] = {"turns": []}
    for _ in range(turns):
        for path, group in group_of.items():
            answers = group.run((path, steps[path]), steps[path] * STEP_SECONDS)
            results[path]["turns"].append(1000 * _mean(answers))
            results[path] |= {k: v for k, v in answers[0].items() if k != "seconds"}
    for path, result in results.items():
        result["milliseconds"] = statistics.median(result["turns"])
        result["steps_per_turn"] = steps[path]
    return results


def _mean(answers: list[dict[str, Any]]) -> float:
    """Mean seconds per step of the slowest worker."""
    return max(statistics.mean(answer["seconds"]) for answer in answers)


def compare(results: dict[str, Any]) -> dict[str, float]:
    """Ratios of this column: how often tem_tf fits into the best of the others."""
    others = {
        "best TensorFlow dense": DENSE,
        "best gloo dense": GLOO,
        PLAIN: (PLAIN,),
    }
    ratios = {}
    for name, paths in others.items():
        times = [results[p]["milliseconds"] for p in paths if p in results]
        if times and OURS in results:
            ratios[name] = min(times) / results[OURS]["milliseconds"]
    return ratios


def show(column: dict[str, Any]) -> None:
    """Prints one column as a table."""
    print(f"\n{column['workers']} workers, {column['link']}: ms per step (each turn's)")
    for path, result in column["paths"].items():
        each = " ".join(f"{turn:.0f}" for turn in result["turns"])
        line = f"  {path:<36} {result['milliseconds']:8.1f}  ({each})"
        if "payload_bytes" in result:
            sent = result["steps"] * column["workers"]
            line += (
                f"  {result['payload_bytes'] / sent / 1e3:.1f} kB + "
                f"{result['padded_bytes'] / sent / 1e3:.1f} kB of padding"
            )
        print(line, flush=True)
    for name, ratio in column["ratios"].items():
        print(f"  {ratio:.2f} x as fast as {name}", flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def main() -> None:
    """Measures every column asked for; prints tables, then one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    links = ("loopback", *RATES)
    parser.add_argument("--links", nargs="+", choices=links, default=["loopback"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument(
        "--paths", nargs="+", metavar="PATH", choices=TF_PATHS, default=TF_PATHS
    )
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--json", type=pathlib.Path, help="write the result here too")
    parser.add_argument("--short", action="store_true", help="one turn, few paths")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.turns, arguments.workers = 1, [2]
        arguments.paths = (OURS, PLAIN, DENSE[0])
    text = ""
    result: dict[str, Any] = {"machine": machine(), "entries": SIZE, "columns": []}
    for link in arguments.links:
        for workers in arguments.workers:
            if link != "loopback" and workers == 2 and len(arguments.workers) > 1:
                continue  # Shaped links are for the larger group.
            column: dict[str, Any] = {"workers": workers, "link": link}
            column["paths"] = measure(arguments, workers, link)
            column["ratios"] = compare(column["paths"])
            show(column)
            result["columns"].append(column)
            text = json.dumps(result, indent=2)
            if arguments.json:  # What there is so far.
                arguments.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
