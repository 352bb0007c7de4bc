r"""Makes the whole board, and goes on where it stopped.

    sudo python studies/time_to_target/run.py PATH_TEXT PATH_DATA --torch PYTHON
    sudo python studies/time_to_target/run.py PATH_TEXT PATH_DATA --torch PYTHON \
        --quick --out FOLDER                                       # a rehearsal
    python studies/time_to_target/run.py --report

For each job, one run after the other (a run that is in results.csv is not made again):

1. tune      each row's grid with the tuning seed: the least error stays, for each H of
             local updates and number of fragments. Nothing is run where one setting is
             all there is.
2. dense     TensorFlow dense, whole, with each seed: its final error makes the target.
   linear    of the CNN: a linear model's error, which the target has to be well below.
3. loopback  until the target, by the shortest schedule that comes there.
4. link      the other links with the first seed, for as many steps, with H as `_choose`
             says. Before a row's first line: the arithmetic of its step, alone.
"""

from __future__ import annotations

import argparse
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "benchmarks")]

from grids import QUICK, TUNED_AS, WHOLE, Plan  # noqa: E402
from relay import LINKS as RELAYED  # noqa: E402
from results import NUMBERS, Line, Results, report  # noqa: E402
from shaped_links import check_may_make_links  # noqa: E402
from time_to_target import STOPPED_AFTER, end_by_signal, target_of  # noqa: E402
from time_to_target_rows import DENSE, OURS, ROWS, grid  # noqa: E402
from time_to_target_runs import (  # noqa: E402
    LINKS,
    LOOPBACK,
    Outcome,
    Setup,
    alone,
    linear_error,
    open_links,
    train,
    write_job,
)

from tem_tf.gathers import is_direct  # noqa: E402

RESULTS = HERE / "results.csv"
LINEAR_MARGIN = 0.03
NOT_MEASURED = float("nan")
Settings = dict[str, Any]


class Board:
    """One job's runs.

    Args:
        job: "gpt" or "cnn".
        path_data: Of its data.
        torch: A Python that has PyTorch.
        rows: Names; TensorFlow dense is always among them, as it makes the target.
        links: Names, beside loopback.
        plan: The study's size.
        results: Where lines go.
        folder: For the job's files.
    """

    def __init__(
        self,
        job: str,
        path_data: str,
        torch: str,
        rows: Sequence[str],
        links: Sequence[str],
        plan: Plan,
        results: Results,
        folder: pathlib.Path,
    ):
        self._job, self._path_data, self._torch = job, path_data, torch
        self._rows = [name for name in ROWS if name in {*rows, DENSE}]
        self._links = [name for name in reversed(LINKS[1:]) if name in links]
        self._plan, self._results, self._folder = plan, results, folder

    def make(self) -> None:
        """Makes every run that there is not yet."""
        tuned = {name: self._tuned(name) for name in self._rows}
        first, *others = self._plan.seeds
        target = self._target(tuned, first)
        if self._job == "cnn":
            self._linear(target)
        lines = {
            name: [self._loopback(name, one, first, target) for one in tuned[name]]
            for name in self._rows
        }
        for link in (LOOPBACK, *self._links):  # The slowest first.
            self._link(link, lines, target)
        for seed in others:
            target = self._target(tuned, seed)
            for name in self._rows:
                chosen = self._choose(LOOPBACK, lines[name])["settings"]
                self._copied(self._loopback(name, chosen, seed, target))

    def _tuned(self, name: str) -> list[Settings]:
        """The best settings of a row, one for each way to exchange; `steps` apart."""
        twin = TUNED_AS.get(name, name)
        tried: dict[Any, list[Settings]] = {}
        for one in self._grid(ROWS[twin]):
            way = one.get("local_steps"), one.get("fragments")
            tried.setdefault(way, []).append(one)
        best = [
            several[0]
            if len(several) == 1
            else min(several, key=lambda one: self._tuning_error(twin, one))
            for several in tried.values()
        ]
        fixed = ROWS[twin].fixed.keys() - ROWS[name].fixed.keys()
        return [
            {k: v for k, v in one.items() if k not in fixed} | dict(ROWS[name].fixed)
            for one in best
        ]

    def _tuning_error(self, name: str, settings: Settings) -> float:
        settings = {**settings, "steps": self._plan.tuning_steps}
        return self._run("tune", name, LOOPBACK, self._plan.tuning_seed, settings)[
            "error"
        ]

    def _grid(self, row: Any) -> list[Settings]:
        known = self._plan.settings
        found: list[Settings] = []
        for one in grid(self._job, row):
            replaced = {**one, **{k: known[k] for k in known.keys() & one.keys()}}
            if replaced not in found:
                found.append(replaced)
        # Of rehearsals, where grids are replaced, one will do.
        return found[:1] if known else found

    def _target(self, tuned: Mapping[str, list[Settings]], seed: int) -> float:
        settings = {**tuned[DENSE][0], "steps": self._plan.dense_steps}
        error = self._run("dense", DENSE, LOOPBACK, seed, settings)["error"]
        return target_of(self._job, error)

    def _linear(self, target: float) -> None:
        """Measures the linear model, and says if the target is too easy."""
        key = {"job": self._job, "kind": "linear", "row": "linear model"}
        if not self._results.find(**key):
            began = time.monotonic()
            error = linear_error(self._path_data)
            seconds = time.monotonic() - began
            seed, nothing = self._plan.tuning_seed, dict.fromkeys(NUMBERS, NOT_MEASURED)
            line = {**key, "link": LOOPBACK, "seed": seed, "settings": {}, **nothing}
            line |= {"steps": 0, "error": error, "run_seconds": seconds}
            self._results.add({**line, "is_there": error <= target, "digest": 0})
        error = self._results.find(**key)[0]["error"]
        if target > error - LINEAR_MARGIN:
            print(
                f"TOO EASY: the target is an error of {target:.4f}, a linear model has "
                f"{error:.4f}, and they should lie {LINEAR_MARGIN:g} apart.",
                flush=True,
            )

    def _loopback(
        self, name: str, settings: Settings, seed: int, target: float
    ) -> Line:
        """By the shortest schedule that comes to the target; the longest if none."""
        for steps in self._plan.lengths:
            settings = {**settings, "steps": steps}
            line = self._run("loopback", name, LOOPBACK, seed, settings, target)
            if line["is_there"]:
                break
        return line

    def _link(self, link: str, lines: Mapping[str, list[Line]], target: float) -> None:
        """All rows on a link, ours first, those that send least before others."""
        chosen = {name: self._choose(link, several) for name, several in lines.items()}

        def order(name: str) -> tuple[bool, float]:
            line = chosen[name]
            return name not in OURS, line["sent_bytes"] / line["steps"]

        best = float("inf")
        for name in sorted(chosen, key=order):
            before = chosen[name]
            if link == LOOPBACK or not before["is_there"]:
                line = self._copied(before, link)
            else:
                line = self._run(
                    "link", name, link, before["seed"], before["settings"], target,
                    before["steps"], STOPPED_AFTER * best,
                )  # fmt: skip
                if line["is_there"] and line["digest"] != before["digest"]:
                    print(f"{link} {name}: OTHER BITS THAN ON LOOPBACK", flush=True)
            if name in OURS and line["is_there"]:
                best = min(best, line["seconds"])

    def _choose(self, link: str, several: Sequence[Line]) -> Line:
        """Loopback's line of the H that should take the least seconds on a link.

        By loopback's seconds, what was sent there at the link's rate, and the delays
        of a ring at each exchange, or of a round trip where few bytes go directly. Of
        exchanges beside a step, what is longer than loopback's step.
        """

        def seconds(line: Line) -> tuple[bool, float]:
            total = line["seconds"]
            if link != LOOPBACK:
                rate, delay = RELAYED[link]
                settings, others = line["settings"], self._plan.workers - 1
                exchanges = line["steps"] / settings.get("local_steps", 1)
                exchanges *= settings.get("fragments", 1)
                sent = line["sent_bytes"] / exchanges
                ours = line["row"] in OURS
                ours = ours and is_direct(self._plan.workers, int(sent / others))
                each = 8 * sent / rate + 2 * (1 if ours else others) * delay
                if "fragments" in settings:
                    each = max(0.0, each - line["seconds"] / line["steps"])
                total += exchanges * each
            return not line["is_there"], total

        return min(several, key=seconds)

    def _copied(self, before: Line, link: str = LOOPBACK) -> Line:
        """Loopback's line is its link's; a row without target there has none here."""
        line = {**before, "kind": "link", "link": link}
        key = {name: line[name] for name in ("job", "kind", "row", "link", "seed")}
        if not self._results.find(**key):
            line["arithmetic_seconds"] = self._alone(line["row"], line["settings"])
            self._results.add(line)
        return line

    def _alone(self, name: str, settings: Settings) -> float:
        seed = self._plan.tuning_seed
        key = {"job": self._job, "kind": "alone", "row": name, "settings": settings}
        if found := self._results.find(**key):
            return found[0]["arithmetic_seconds"]
        began = time.monotonic()
        seconds = alone(self._setup(seed), name, settings)
        line = {"link": LOOPBACK, "seed": seed, "target": NOT_MEASURED}
        line |= {
            "error": NOT_MEASURED,
            "steps": 0,
            "seconds": NOT_MEASURED,
            "digest": 0,
        }
        line |= {"sent_bytes": 0.0, "received_bytes": 0.0, "is_there": True}
        line |= {"arithmetic_seconds": seconds}
        self._results.add({**key, **line, "run_seconds": time.monotonic() - began})
        return seconds

    def _run(
        self,
        kind: str,
        name: str,
        link: str,
        seed: int,
        settings: Settings,
        target: float | None = None,
        steps: int | None = None,
        limit_seconds: float = float("inf"),
    ) -> Line:
        """The line of a run, which is made if there is none."""
        key = {"job": self._job, "kind": kind, "row": name, "link": link, "seed": seed}
        key["settings"] = settings
        if found := self._results.find(**key):
            return found[0]
        print(*key.values(), flush=True)
        began = time.monotonic()
        with open_links(link, self._plan.workers) as links:
            outcome = train(
                self._setup(seed),
                name,
                settings,
                links,
                # On other links than loopback the step is known.
                target if steps is None else None,
                steps,
                limit_seconds,
                checks=(target is not None or kind == "dense") and steps is None,
                measures_end=steps is None,
            )
        line = self._line(key, outcome, target, time.monotonic() - began)
        self._results.add(line)
        if kind == "dense":
            # It is a run to the target, too, as of when it came there.
            target = target_of(self._job, line["error"])
            line_there = {**key, "kind": "loopback"}
            self._results.add(self._line(line_there, outcome.until(target), target, 0))
        return line

    def _line(
        self, key: Mapping[str, Any], outcome: Outcome, target: float | None, run: float
    ) -> Line:
        last = outcome.checks[-1] if outcome.checks else None
        error = last.error if last and last.error is not None else NOT_MEASURED
        arithmetic = NOT_MEASURED
        if key["kind"] == "link":
            arithmetic = self._alone(key["row"], key["settings"])
        end = "there" if outcome.is_there else "NOT THERE"
        print(f"  {outcome.seconds:.1f} s, {outcome.steps} steps, {end}", flush=True)
        return {
            **key,
            "target": NOT_MEASURED if target is None else target,
            "error": error,
            "is_there": outcome.is_there,
            "steps": outcome.steps,
            "seconds": outcome.seconds,
            "sent_bytes": outcome.sent_bytes,
            "received_bytes": outcome.received_bytes,
            "arithmetic_seconds": arithmetic,
            "run_seconds": run,
            "digest": last.digest if last else 0,
        }

    def _setup(self, seed: int) -> Setup:
        plan = self._plan
        out = self._folder / f"{self._job}-{seed}.npz"
        more = [f"--workers={plan.workers}", *(["--tiny"] if plan.is_tiny else [])]
        steps = max(plan.dense_steps, plan.tuning_steps, *plan.lengths)
        write_job(self._job, self._path_data, out, seed, steps, more)
        checks = (plan.check_steps, plan.first_check)
        return Setup(str(out), self._torch, plan.workers, *checks)


def main() -> None:
    """Makes what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path_text", nargs="?")
    parser.add_argument("path_data", nargs="?", help="holds Fashion-MNIST/")
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument(
        "--jobs", nargs="+", choices=("gpt", "cnn"), default=("gpt", "cnn")
    )
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS))
    parser.add_argument("--links", nargs="+", choices=LINKS[1:], default=LINKS[1:])
    parser.add_argument(
        "--seeds", type=int, help="only so many of the plan's, the first ones"
    )
    parser.add_argument("--quick", action="store_true", help="a rehearsal; needs --out")
    parser.add_argument("--out", type=pathlib.Path, help="folder of results.csv")
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out is None:
        parser.error("--quick needs --out: a rehearsal is no result")
    path = RESULTS if arguments.out is None else arguments.out / "results.csv"
    results = Results(path)
    if not arguments.report:
        if None in (arguments.path_text, arguments.path_data, arguments.torch):
            parser.error("PATH_TEXT, PATH_DATA or --torch is missing")
        check_may_make_links()
        signal.signal(signal.SIGTERM, end_by_signal)
        plan = QUICK if arguments.quick else WHOLE
        plan = plan._replace(seeds=plan.seeds[: arguments.seeds])
        places = {"gpt": arguments.path_text, "cnn": arguments.path_data}
        with tempfile.TemporaryDirectory() as folder:
            for job in arguments.jobs:
                rest = (
                    arguments.rows,
                    arguments.links,
                    plan,
                    results,
                    pathlib.Path(folder),
                )
                Board(job, places[job], arguments.torch, *rest).make()
    for job in arguments.jobs:
        print(f"\n{job}\n\n{report(results, job)}")


if __name__ == "__main__":
    main()
