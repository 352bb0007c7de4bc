r"""Seconds of a whole Keras `fit` to a target accuracy: dense and hard threshold.

    sudo python benchmarks/time_to_target.py PATH_DATA --links 1gbit 100mbit
    python benchmarks/time_to_target.py PATH_DATA

Four workers with one thread each train Simple-CNN and a perceptron of 10 M parameters
on Fashion-MNIST (PATH_DATA/Fashion-MNIST) with SGD and a global batch of 128, both with
the same learning rate, until the validation accuracy reaches the target. The seconds
are those of `fit` alone: tracing, validation and Keras's logs are in them, starting the
processes and reading the data are not. Loopback comes first, and a training is the same
on every link, step for step. Where it would take longer than --budget seconds on a
shaped link, so many of its steps as fit are timed there, and the seconds are the steps
that loopback needed times those; such a figure is marked "estimated".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from aggregation import machine
from shaped_links import RATES, ShapedLinks
from worker_group import START_SECONDS, WorkerGroup

from tem_studies.written_files import write_text  # noqa: E402

HERE = pathlib.Path(__file__).parent
# model -> (learning rate, λ, target accuracy), our choices: the rate suits dense
# training, minutes reach the target. λ is from a pilot on one worker, 200 steps of 32
# examples: the largest of 0.03, 0.06, 0.12 (Simple-CNN) and 0.01, 0.02, 0.04 that was
# as accurate as dense training from step 120 on. It sent 1.6 % and 0.22 %.
SETTINGS = {
    "simple-cnn": (0.1, 0.06, 0.80),
    "mlp": (0.05, 0.02, 0.80),
}
PROBE_STEPS = 5


def measure(
    arguments: argparse.Namespace, link: str, steps_of: dict[str, int]
) -> dict[str, Any]:
    """Trains everything over one link.

    Args:
        arguments: The command line's.
        link: "loopback" or a name in `RATES`.
        steps_of: By training: the steps that loopback needed; filled in there.
    """
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as open_:
        links = None
        if link != "loopback":
            links = open_.enter_context(ShapedLinks(arguments.workers, link))
        command = [sys.executable, str(HERE / "time_to_target_fit.py")]
        group = open_.enter_context(WorkerGroup(command, arguments.workers, links))

        def fit(model: str, method: str, steps: int) -> dict[str, Any]:
            rate, threshold, target = SETTINGS[model]
            own = None if method == "dense" else threshold
            request = (arguments.path_data, model, own, rate, target, steps)
            seconds = START_SECONDS + 60 * steps
            answers = group.run(request, seconds)
            slowest = max(answers, key=lambda answer: answer["seconds"])
            return slowest

        for model in arguments.models:
            for method in ("dense", "hard_threshold"):
                name = f"{model}, {method}"
                if link == "loopback":
                    result = fit(model, method, arguments.steps)
                    steps_of[name] = result["steps"]
                else:
                    result = _within_budget(
                        fit, model, method, steps_of[name], arguments
                    )
                results[name] = result
                print(link, name, result, flush=True)
    return results


def _within_budget(
    fit: Any, model: str, method: str, steps: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    probe = fit(model, method, PROBE_STEPS)
    affordable = int(arguments.budget / probe["seconds_per_step"])
    if affordable >= steps:
        return fit(model, method, steps)
    if affordable > 2 * PROBE_STEPS:
        probe = fit(model, method, affordable)
    first = probe["seconds"] - probe["seconds_per_step"] * (probe["steps"] - 1)
    seconds = first + probe["seconds_per_step"] * (steps - 1)
    return probe | {"estimated": True, "seconds": seconds, "steps": steps}


def reached(result: dict[str, Any], name: str) -> bool:
    """Whether a training came to its target; it is the same on every link."""
    target = result["settings"][name.partition(", ")[0]][2]
    return result["links"]["loopback"][name]["accuracy"] >= target


def show(result: dict[str, Any]) -> None:
    """Prints a table with one line for each training and link.

    Seconds to a target that was not reached are none: no ratio is made of them.
    """
    for link, trainings in result["links"].items():
        for name, fit in trainings.items():
            print(
                f"{link:<10} {name:<28} {fit['seconds']:8.1f} s"
                f"{' estimated' if fit.get('estimated') else '':<10} {fit['steps']:5d} "
                f"steps, {1000 * fit['seconds_per_step']:7.0f} ms per step, accuracy "
                f"{fit['accuracy']:.3f}"
                + (f", density {fit['density']:.4f}" if "density" in fit else "")
                + ("" if reached(result, name) else ", TARGET NOT REACHED")
            )
        for model in result["settings"]:
            names = [f"{model}, {method}" for method in ("dense", "hard_threshold")]
            if all(name in trainings and reached(result, name) for name in names):
                dense, ours = (trainings[name]["seconds"] for name in names)
                ratio = dense / ours
                print(f"{link:<10} {model}: {ratio:.2f} x as fast as dense")


def main() -> None:
    """Measures every link asked for; prints a table, then one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path_data", help="directory that holds Fashion-MNIST/")
    parser.add_argument("--links", nargs="*", choices=tuple(RATES), default=[])
    models = tuple(SETTINGS)
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=600, help="most steps of a fit")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds per fit")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here too")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "settings": SETTINGS, "links": {}}
    steps_of: dict[str, int] = {}
    for link in ("loopback", *arguments.links):
        result["links"][link] = measure(arguments, link, steps_of)
    show(result)
    text = json.dumps(result, indent=2)
    if arguments.json:
        write_text(arguments.json, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
