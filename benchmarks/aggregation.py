r"""Seconds of summing one gradient of ResNet-18 over workers, in every way there is.

    python benchmarks/aggregation.py                                # loopback
    sudo python benchmarks/aggregation.py --links loopback 1gbit 100mbit \
        --torch /path/to/a/python/with/torch
    git worktree add /tmp/before main
    python benchmarks/aggregation.py --before /tmp/before           # an earlier version
    python benchmarks/aggregation.py --short                        # for CI: a minute

d = 11,173,962 in ResNet-18's segments, N(0, 1)·1e-3, other data on each worker; hard
threshold with error feedback, 0.1 % of the entries; one thread per worker. Compared
are tem_tf (`SparsifiedOptimizer` from the gradients of a worker to their sum), the same
with bfloat16, clipping, a warm-up and other memories, and with `exact_payload`;
PowerSGD and Sign, error feedback in plain TensorFlow ops, TensorFlow's dense all-reduce
with every `bytes_per_pack` and implementation, and where --torch names a Python that
has it PyTorch's gloo, dense and with its own PowerSGD. All take turns in one run; a
figure is the median over turns of a turn's mean seconds per step, of the slowest
worker. Shaped links (shaped_links.py) need root.

--before: the same path of another checkout of this repository, by its own benchmark.
In each turn it comes next to ours, one first in one turn and the other in the next, and
is compared turn by turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import pathlib
import platform
import statistics
import sys
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from shaped_links import RATES, ShapedLinks
from worker_group import ROOT, START_SECONDS, WorkerGroup, checkout

SIZE = 11_173_962
OURS = "tem_tf"
BEFORE = "tem_tf, before"
EXACT = "tem_tf, exact_payload"
RANK = 4
POWER_SGD = f"tem_tf PowerSGD rank {RANK}"
SIGN = "tem_tf Sign"
PLAIN = "error feedback in plain TF ops"
PACKS = {"0": 0, "4 MB": 4 << 20, "32 MB": 32 << 20, "1 GB": 1 << 30}
DENSE = tuple(
    f"TensorFlow dense, pack {pack}, {implementation}"
    for pack in PACKS
    for implementation in ("RING", "AUTO")
)
# The same compressor with more to do in the local step.
MORE = tuple(
    f"{OURS}, {what}"
    for what in (
        *("bfloat16", "clipping", "a warm-up that is over"),
        *("decaying feedback", "momentum correction", "EF21"),
    )
)
TF_PATHS = (OURS, *MORE, EXACT, POWER_SGD, SIGN, PLAIN, *DENSE)
GLOO = ("gloo dense float32", "gloo dense float16")
DDP = f"PyTorch DDP PowerSGD rank {RANK}"  # Beyond a hook that does nothing.
TORCH_PATHS = (*GLOO, DDP)
# Beyond any step seen: 7 s for 44.7 MB at 100 Mbit/s.
STEP_SECONDS = 60
# A turn has as many steps as fit into this, at most so many, so that a slow link does
# not take an hour and a fast one is not measured by a single step. Where a step takes
# longer than this, a turn is one step.
TURN_SECONDS = 0.8
MOST_STEPS = 40
# Steps after the first that are not looked at, for as long as they take no longer than
# this together: buffers are found, and what was learnt of the first step is in use.
WARM_UP_STEPS = 3
WARM_UP_SECONDS = 4 * TURN_SECONDS
HERE = pathlib.Path(__file__).parent


class Lane(NamedTuple):
    """Where a path is run.

    Attributes:
        group: Its workers.
        path: Its name there.
    """

    group: WorkerGroup
    path: str

    def seconds(self, steps: int, start: int = 0) -> float:
        """Mean seconds of so many steps, which may take `start` seconds more."""
        return _mean(self.group.run((self.path, steps), start + steps * STEP_SECONDS))


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
        lanes: dict[str, Lane] = {}

        def open_lanes(command: list[str], paths: dict[str, str], root=ROOT) -> None:
            group = open_.enter_context(WorkerGroup(command, workers, links, root))
            lanes.update({name: Lane(group, path) for name, path in paths.items()})

        own = {path: path for path in arguments.paths if path in TF_PATHS}
        torch = {path: path for path in arguments.paths if path in TORCH_PATHS}
        open_lanes([sys.executable, str(HERE / "aggregation_paths.py")], own)
        if arguments.before:
            program = arguments.before / "benchmarks" / "aggregation_paths.py"
            command = [sys.executable, str(program)]
            open_lanes(command, {BEFORE: OURS}, arguments.before)
        if arguments.torch:
            open_lanes([arguments.torch, str(HERE / "gloo_paths.py")], torch)
        return _take_turns(lanes, arguments.turns)


def _take_turns(lanes: dict[str, Lane], turns: int) -> dict[str, Any]:
    steps = {name: _steps_per_turn(lane) for name, lane in lanes.items()}
    for ours in {OURS, *MORE, EXACT, BEFORE} & set(steps):  # No fewer than the others.
        steps[ours] = max(steps.values())
    results: dict[str, Any] = {name: {"turns": []} for name in lanes}
    for turn in range(turns):
        for name in in_order(list(lanes), turn):
            lane, count = lanes[name], steps[name]
            answers = lane.group.run((lane.path, count), count * STEP_SECONDS)
            results[name]["turns"].append(1000 * _mean(answers))
            known = {k: v for k, v in answers[0].items() if not k.endswith("seconds")}
            results[name] |= known
    for name, result in results.items():
        result["milliseconds"] = statistics.median(result["turns"])
        result["steps_per_turn"] = steps[name]
    return results


def in_order(names: list[str], turn: int) -> list[str]:
    """First our path and the one before, which leads in odd turns; then the others."""
    pair = [name for name in (OURS, BEFORE) if name in names]
    others = [name for name in names if name not in pair]
    return [*(pair[::-1] if turn % 2 else pair), *others]


def _steps_per_turn(lane: Lane) -> int:
    lane.seconds(1, START_SECONDS)  # Traces and connects.
    spent = 0.0
    for _ in range(WARM_UP_STEPS):
        spent += lane.seconds(1)
        if spent > WARM_UP_SECONDS:
            return 1
    # The quickest: others use the machine, too.
    return steps_that_fit(min(lane.seconds(1) for _ in range(WARM_UP_STEPS)))


def steps_that_fit(seconds: float) -> int:
    """Steps of a turn, of which one takes so long."""
    most = TURN_SECONDS / MOST_STEPS
    return max(1, round(TURN_SECONDS / max(seconds, most)))


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


def compare_more(results: dict[str, Any]) -> dict[str, float]:
    """What more to do costs: the median over turns of its time by tem_tf's."""
    if OURS not in results:
        return {}
    ours = results[OURS]["turns"]
    return {
        name: statistics.median(
            a / b for a, b in zip(results[name]["turns"], ours, strict=True)
        )
        for name in MORE
        if name in results
    }


def compare_turns(ours: list[float], before: list[float]) -> dict[str, Any]:
    """How long we take by how long the version before takes.

    Args:
        ours: Of each turn.
        before: Of the same turns.

    Returns:
        `ratios` of the turns, their `median`, and the ends `low` and `high` of a 95 %
        interval of their geometric mean: Student's t of their logarithms. With one turn
        there is none, and both are None.
    """
    ratios = [a / b for a, b in zip(ours, before, strict=True)]
    low = high = None
    if len(ratios) > 1:
        from scipy import stats

        logarithms = [math.log(ratio) for ratio in ratios]
        error = statistics.stdev(logarithms) / math.sqrt(len(ratios))
        width = float(stats.t.ppf(0.975, len(ratios) - 1)) * error
        mean = statistics.mean(logarithms)
        low, high = math.exp(mean - width), math.exp(mean + width)
    median = statistics.median(ratios)
    return {"ratios": ratios, "median": median, "low": low, "high": high}


def show(column: dict[str, Any]) -> None:
    """Prints one column as a table."""
    print(f"\n{column['workers']} workers, {column['link']}: ms per step (each turn's)")
    for path, result in column["paths"].items():
        each = " ".join(f"{turn:.0f}" for turn in result["turns"])
        line = f"  {path:<36} {result['milliseconds']:8.1f}  ({each})"
        if "payload_bytes" in result:
            sent = result["steps"] * column["workers"]
            payload, padding = result["payload_bytes"], result["padded_bytes"]
            bits = 8 * (payload + padding) / sent / SIZE
            line += (
                f"  {payload / sent / 1e3:.1f} kB + {padding / sent / 1e3:.1f} kB of "
                f"padding, {bits:.3f} bits per entry"
            )
        print(line, flush=True)
    for name, ratio in column["ratios"].items():
        print(f"  {ratio:.2f} x as fast as {name}", flush=True)
    for name, ratio in column["by_ours"].items():
        print(f"  {name}: {ratio:.2f} x the time of {OURS}", flush=True)
    if before := column.get("by_before"):
        each = " ".join(f"{ratio:.2f}" for ratio in before["ratios"])
        line = f"  {before['median']:.2f} x the time of before ({each})"
        if before["low"] is not None:
            line += f", 95 %: {before['low']:.2f} to {before['high']:.2f}"
        print(line, flush=True)


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
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--before", type=checkout, help="of an earlier version")
    all_paths = (*TF_PATHS, *TORCH_PATHS)
    parser.add_argument(
        "--paths", nargs="+", metavar="PATH", choices=all_paths, default=all_paths
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
            column["by_ours"] = compare_more(column["paths"])
            if arguments.before and OURS in column["paths"]:
                turns = [column["paths"][name]["turns"] for name in (OURS, BEFORE)]
                column["by_before"] = compare_turns(*turns)
            show(column)
            result["columns"].append(column)
            text = json.dumps(result, indent=2)
            if arguments.json:  # What there is so far.
                # Here: a worker of another Python has no tem_tf.
                from tem_studies.written_files import write_text

                write_text(arguments.json, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
