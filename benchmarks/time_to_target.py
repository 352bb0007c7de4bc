r"""The board: seconds in which a job comes to its quality, over several links.

    sudo python benchmarks/time_to_target.py gpt PATH_TEXT --torch PYTHON
    sudo python benchmarks/time_to_target.py cnn PATH_DATA --torch PYTHON \
        --links loopback 5mbit-50ms
    sudo python benchmarks/time_to_target.py gpt PATH_TEXT --torch PYTHON --quick

Four workers with one thread each, each in a network namespace of its own, train whole
trainings in each way of time_to_target_rows.py: TensorFlow's dense all-reduce, what
PyTorch has on gloo (PYTHON is any that has PyTorch), and this plugin. "gpt" is
nanoGPT's network of characters on one text; its target is the final loss of TensorFlow
dense and 2 %. "cnn" is Simple-CNN on Fashion-MNIST; its target is the final error of
TensorFlow dense and one point. All rows have the same initial weights and examples.

Loopback comes first: which step comes to the target is found there, as the network
changes no bits. On another link a row takes those steps, without looking, and its
weights must be those of loopback. Time is as time_to_target_runs.py says. A row that
has not come to the target in three times the seconds of our best row on that link, or
would not at its pace, is stopped, and shown so. Beside a row: its step's time beyond
its arithmetic, which all workers do at once without a network; beside a link R, a dense
exchange by the link alone (bytes of a ring by its rate) by the arithmetic of a dense
step.

Rates and so on are the first of each row's grid: studies/time_to_target tunes them.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import signal
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from aggregation import machine
from relay import LINKS as RELAYED
from shaped_links import check_may_make_links
from time_to_target_data import load
from time_to_target_rows import CHECK_STEPS, DENSE, OURS, ROWS, STEPS, WORKERS, usual
from time_to_target_runs import (
    LINKS,
    LOOPBACK,
    Outcome,
    Setup,
    alone,
    open_links,
    train,
    write_job,
)

from tem_studies.written_files import write_text  # noqa: E402

STOPPED_AFTER = 3  # Times the seconds of our best row on a link.
# Rehearsals: a tiny network, two workers, and steps that fit into them.
QUICK_STEPS, QUICK_CHECK, QUICK_WORKERS = 20, 10, 2
QUICK_SETTINGS = {"local_steps": 5, "freeze_step": 5}


def target_of(job: str, error: float) -> float:
    """The target, from dense training's final error.

    Args:
        job: "gpt": a loss in nats; "cnn": a share of wrong answers.
        error: The final one.
    """
    return 1.02 * error if job == "gpt" else error + 0.01


def ratio(parameters: int, link: str, workers: int, arithmetic_seconds: float) -> float:
    """R: a dense exchange by the link alone, by a dense step's arithmetic.

    Args:
        parameters: Of the network.
        link: Its name; loopback has no rate, and R is 0.
        workers: In a ring, each sends 2·(n - 1)/n times 4 bytes of each parameter.
        arithmetic_seconds: Of a step.
    """
    if link == LOOPBACK:
        return 0.0
    bits = 8 * 4 * parameters * 2 * (workers - 1) / workers
    return bits / RELAYED[link].bits_per_second / arithmetic_seconds


class Line(NamedTuple):
    """A row on a link.

    Attributes:
        row: Its name.
        link: The link's.
        settings: The row's.
        outcome: Of the training.
        target: The error that it was to come to.
        arithmetic_seconds: Of a step alone.
        has_same_bits: Whether weights are those of loopback; None: there or stopped.
    """

    row: str
    link: str
    settings: Mapping[str, Any]
    outcome: Outcome
    target: float
    arithmetic_seconds: float
    has_same_bits: bool | None

    @property
    def exposed_seconds(self) -> float:
        """Of communication in a step."""
        return self.outcome.seconds_per_step - self.arithmetic_seconds

    def as_dict(self) -> dict[str, Any]:
        """What is written."""
        outcome = self.outcome
        return {
            "row": self.row,
            "link": self.link,
            "settings": dict(self.settings),
            "target": self.target,
            "is_there": outcome.is_there,
            "steps": outcome.steps,
            "seconds": outcome.seconds,
            "seconds_per_step": outcome.seconds_per_step,
            "arithmetic_seconds": self.arithmetic_seconds,
            "exposed_seconds": self.exposed_seconds,
            "sent_bytes": outcome.sent_bytes,
            "received_bytes": outcome.received_bytes,
            "checks": outcome.checks,
            "logits_difference": outcome.logits_difference,
            "has_same_bits": self.has_same_bits,
        }

    def show(self) -> None:
        """Prints it."""
        outcome = self.outcome
        end = "" if outcome.is_there else "  NOT THERE"
        end += "  OTHER BITS THAN ON LOOPBACK" if self.has_same_bits is False else ""
        print(
            f"{self.link:<12} {self.row:<28} {outcome.seconds:8.1f} s "
            f"{outcome.steps:5d} steps, {1e3 * outcome.seconds_per_step:7.1f} ms each, "
            f"{1e3 * self.exposed_seconds:7.1f} exposed, "
            f"sent {outcome.sent_bytes / 1e6:.2f} MB{end}",
            flush=True,
        )


def on_link(
    setup: Setup,
    link: str,
    loopback: Mapping[str, Line],
) -> list[Line]:
    """Trains on a link all rows that came to the target on loopback.

    Those that send least come first, so that others may be stopped early.
    """
    lines = []
    best = math.inf
    names = [name for name, line in loopback.items() if line.outcome.is_there]
    names.sort(key=lambda name: (name not in OURS, loopback[name].outcome.sent_bytes))
    with open_links(link, setup.workers) as links:
        for name in names:
            before = loopback[name]
            outcome = train(
                setup,
                name,
                before.settings,
                links,
                steps=before.outcome.steps,
                limit_seconds=STOPPED_AFTER * best,
                checks=False,
                measures_end=False,
            )
            same = None
            if outcome.is_there:
                ends = (one.checks[-1].digest for one in (outcome, before.outcome))
                same = len(set(ends)) == 1
                best = min(best, outcome.seconds) if name in OURS else best
            line = before._replace(link=link, outcome=outcome, has_same_bits=same)
            line.show()
            lines.append(line)
    return lines


def on_loopback(
    setup: Setup,
    job: str,
    settings: Mapping[str, Mapping[str, Any]],
    target: float | None,
) -> dict[str, Line]:
    """Trains all rows until they come to the target, TensorFlow dense first and whole.

    Args:
        setup: The board's.
        job: "gpt" or "cnn".
        settings: By row.
        target: Error; None: that of dense training.
    """
    lines = {}
    order = sorted(settings, key=lambda name: name != DENSE)
    with open_links(LOOPBACK, setup.workers) as links:
        for name in order:
            outcome = train(setup, name, settings[name], links, target)
            if target is None:
                final = outcome.checks[-1].error
                assert final is not None
                target = target_of(job, final)
                outcome = outcome.until(target)
            seconds = alone(setup, name, settings[name])
            line = Line(name, LOOPBACK, settings[name], outcome, target, seconds, None)
            line.show()
            lines[name] = line
    return lines


def end_by_signal(number: int, frame: object) -> None:
    """Ends as by an error, so that namespaces and workers go."""
    del frame
    raise SystemExit(128 + number)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", choices=("gpt", "cnn"))
    parser.add_argument("path_data", help="a text, or the folder of Fashion-MNIST/")
    parser.add_argument("--links", nargs="+", choices=LINKS, default=LINKS)
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS))
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--target", type=float, help="error; default: by dense training"
    )
    parser.add_argument("--quick", action="store_true", help="a rehearsal: tiny")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here too")
    arguments = parser.parse_args()
    if arguments.steps < 1 or arguments.steps % CHECK_STEPS:
        parser.error(f"--steps must be a multiple of {CHECK_STEPS}, 1 or more of them")
    rows = [
        n for n in arguments.rows if arguments.torch or ROWS[n].framework == "keras"
    ]
    if not rows:
        parser.error("these --rows need --torch")
    if arguments.target is None and DENSE not in rows:
        parser.error(f"--target is missing: without {DENSE!r} there is none")
    arguments.rows = rows
    return arguments


def main() -> None:
    """Trains all rows over all links; prints a table, then one JSON object."""
    arguments = parsed()
    check_may_make_links()
    signal.signal(signal.SIGTERM, end_by_signal)
    steps = QUICK_STEPS if arguments.quick else arguments.steps
    workers = QUICK_WORKERS if arguments.quick else WORKERS
    settings = {}
    for name in arguments.rows:
        settings[name] = {**usual(arguments.job, ROWS[name]), "steps": steps}
        if arguments.quick:
            known = QUICK_SETTINGS.keys() & settings[name].keys()
            settings[name] |= {key: QUICK_SETTINGS[key] for key in known}
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "job.npz")
        more = [f"--workers={workers}", *(["--tiny"] if arguments.quick else [])]
        write_job(arguments.job, arguments.path_data, out, arguments.seed, steps, more)
        setup = Setup(str(out), arguments.torch, workers)
        if arguments.quick:
            setup = setup._replace(check_steps=QUICK_CHECK)
        loopback = on_loopback(setup, arguments.job, settings, arguments.target)
        lines = list(loopback.values())
        for link in arguments.links:
            if link != LOOPBACK:
                lines += on_link(setup, link, loopback)
        parameters = sum(weights.size for weights in load(str(out)).weights)
    result: dict[str, Any] = {"machine": machine(), "parameters": parameters}
    result["lines"] = [line.as_dict() for line in lines]
    if DENSE in loopback:
        seconds = loopback[DENSE].arithmetic_seconds
        result["R"] = {
            link: ratio(parameters, link, workers, seconds) for link in arguments.links
        }
        print("R:", {link: round(r, 2) for link, r in result["R"].items()})
    text = json.dumps(result, indent=2)
    if arguments.json:
        write_text(arguments.json, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
