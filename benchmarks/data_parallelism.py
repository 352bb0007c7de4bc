"""Speed of the DPS study's parts against a tf.compat.v1 feed_dict loop, side by side.

    python benchmarks/data_parallelism.py --batches 1 2 32 100 512 2048 --parts
    python benchmarks/data_parallelism.py --arch resnet-8 --batches 2 32 100 512

The opponent is a TensorFlow 1 program built as the DPS authors' is (see
feed_dict_program.py), in a process of its own. Both train the same network with 90 % of
it masked, on made-up images of the real size: speed does not depend on what they show.
They take turns, several times, so that what else the machine does meets both; the
ratio is the median over turns. --parts also measures pruning, the validation pass, a
whole run of 500 steps at batch 100 with 5 checks, and memory over trials. Ours computes
as main.py does, on all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
import tensorflow as tf
from feed_dict_program import RATE, Opponent

from tem_studies.data_parallelism.configuration import Cell
from tem_studies.data_parallelism.trials import Splits, Workbench
from tem_studies.data_parallelism.tunable import TunableOptimizer
from tem_studies.workloads import architectures, pruning
from tem_studies.workloads.batches import DeviceSplit, EpochOrder
from tem_studies.workloads.chunks import use_one_thread_per_operation
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.data_sources import Data, Split, split
from tem_studies.workloads.training import Trainer
from tem_studies.written_files import write_text  # noqa: E402

SHAPES = {"simple-cnn": (28, 28, 1), "resnet-8": (32, 32, 3)}
DATASOURCES = {"simple-cnn": "fashion-mnist", "resnet-8": "cifar-10"}
TRAIN = {"simple-cnn": 60_000, "resnet-8": 50_000}
SPARSITY = 0.9


def initial_weights(arch: str) -> list[np.ndarray]:
    """Initial weights of our own network, in its order of variables."""
    return architectures.build(arch, SHAPES[arch], seed=0).get_weights()


def opponent(arch: str, data: Data) -> Opponent:
    """The opponent, ready to train with random masks."""

    def standardised(part: Split) -> tuple[np.ndarray, np.ndarray]:
        images = (part.images.astype(np.float32) - data.mean) / data.deviation
        return images, part.labels.astype(np.uint8)  # as in the files

    parts = {
        name: standardised(getattr(data, name))
        for name in ("train", "validation", "test")
    }
    weights = initial_weights(arch)
    kept = pruning.kept_entries(sum(w.size for w in weights), SPARSITY)
    return Opponent(arch, parts, weights, random_masks(arch), kept)


def made_up(arch: str) -> Data:
    """Random images of the real size and number."""
    generator = np.random.default_rng(0)

    def part(count: int) -> Split:
        images = generator.integers(0, 256, (count, *SHAPES[arch]), dtype=np.uint8)
        return Split(images, generator.integers(0, 10, count).astype(np.int32))

    return split(part(TRAIN[arch]), part(10_000), "made up")


def random_masks(arch: str) -> list[np.ndarray]:
    """Masks that keep a tenth."""
    generator = np.random.default_rng(1)
    shapes = [w.shape for w in initial_weights(arch)]
    return [(generator.random(s) >= SPARSITY).astype(np.float32) for s in shapes]


def configuration(arch: str, **settings: object) -> Configuration:
    """Ours, as the opponent is set up."""
    return Configuration(
        datasource=DATASOURCES[arch],
        arch=arch,
        target_sparsity=SPARSITY,
        learning_rate=RATE,
        **settings,
    )


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(ours: Callable, theirs: Callable, turns: int) -> dict[str, float]:
    """Median seconds of both, and the median ratio of neighbouring turns."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(turns)]
    mine, other = zip(*pairs, strict=True)
    return {
        "ours": statistics.median(mine),
        "theirs": statistics.median(other),
        "ratio": statistics.median(b / a for a, b in pairs),
    }


def step_speed(
    arch: str, data: Data, theirs: Opponent, batch: int, turns: int, budget: float
) -> dict:
    """Steps per second of both at one batch size."""
    masks = random_masks(arch)
    run = configuration(arch, batch_size=batch)
    tunable = TunableOptimizer(run)
    model = architectures.build(arch, SHAPES[arch], 0)
    train = DeviceSplit(data.train, data.mean, data.deviation)
    strategy = tf.distribute.get_strategy()
    trainer = Trainer(strategy, model, tunable.optimizer, train, batch)
    trainer.prune(masks)
    trainer.compile()
    order = EpochOrder(data.epochs(0), len(data.train), batch)
    trainer.run(order.take(2))
    theirs.train(2, batch)
    steps = max(3, int(2 * budget / max(seconds(lambda: theirs.train(2, batch)), 1e-3)))
    result = compare(
        lambda: trainer.run(order.take(steps)),
        lambda: theirs.train(steps, batch),
        turns,
    )
    return {
        "ours": steps / result["ours"],
        "theirs": steps / result["theirs"],
        "ratio": result["ratio"],
    }


def parts(
    arch: str, data: Data, theirs: Opponent, turns: int
) -> dict[str, dict[str, float]]:
    """Pruning, validation and a whole run: seconds of both."""
    split_on_device = Splits.of(data)
    model = architectures.build(arch, SHAPES[arch], 0)
    order = np.random.RandomState(0).permutation(len(data.train))

    def prune() -> object:
        return pruning.snip(model, split_on_device.train, order, SPARSITY)

    results = {"pruning": compare(prune, theirs.prune, turns)}
    cell = Cell(
        configuration(
            arch,
            train_iterations=500,
            check_interval=100,
            check_interval_arrival=100,
            goal_error=0.001,
        )
    )
    bench = Workbench(cell, split_on_device, tf.distribute.get_strategy())
    bench.run({}, 0)

    def validate() -> object:
        return bench.trainer.evaluate(split_on_device.validation)

    theirs.evaluate("validation")
    results["validation"] = compare(
        validate, lambda: theirs.evaluate("validation"), turns + 2
    )

    def our_run() -> None:
        strategy = tf.distribute.get_strategy()
        Workbench(cell, split_on_device, strategy).run({}, 0)
        bench.trainer.evaluate(split_on_device.test)

    def their_run() -> None:
        theirs.restart()
        theirs.prune()
        for _ in range(5):
            theirs.train(100, 100)
            theirs.evaluate("validation")
        theirs.evaluate("test")

    results["whole run"] = compare(our_run, their_run, turns)
    return results


def memory(arch: str, data: Data, trials: int = 30) -> dict[str, float]:
    """Resident MB after trials of 20 steps in one process."""
    run = configuration(arch, train_iterations=20, check_interval=20, goal_error=0.001)
    bench = Workbench(Cell(run), Splits.of(data), tf.distribute.get_strategy())
    sizes = []
    for _ in range(trials):
        bench.run({}, 0)
        status = pathlib.Path("/proc/self/status").read_text()
        sizes.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
    return {"after 5": sizes[4], "after 15": sizes[14], f"after {trials}": sizes[-1]}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=SHAPES, default="simple-cnn")
    batches = [1, 2, 32, 100, 512, 2048]
    parser.add_argument("--batches", type=int, nargs="*", default=batches)
    parser.add_argument("--turns", type=int, default=5, help="Turns of each.")
    parser.add_argument("--budget", type=float, default=2.0, help="Seconds of a turn.")
    parser.add_argument("--parts", action="store_true", help="See above.")
    parser.add_argument("--output", help="JSON file for the results.")
    flags = parser.parse_args()
    use_one_thread_per_operation(0)
    data = made_up(flags.arch)
    theirs = opponent(flags.arch, data)
    results: dict = {"arch": flags.arch, "steps_per_second": {}}
    print(f"{flags.arch}: steps per second, ours / opponent's / ratio", flush=True)
    for batch in flags.batches:
        speed = step_speed(flags.arch, data, theirs, batch, flags.turns, flags.budget)
        results["steps_per_second"][batch] = speed
        print(f"batch {batch:>5}  " + _row(speed), flush=True)
    if flags.parts:
        results["seconds"] = parts(flags.arch, data, theirs, max(1, flags.turns // 2))
        for name, row in results["seconds"].items():
            print(f"{name:<11}  {_row(row)} (seconds)", flush=True)
        results["resident_megabytes"] = memory(flags.arch, data)
        print("resident MB  ", results["resident_megabytes"])
    theirs.close()
    if flags.output:
        write_text(pathlib.Path(flags.output), json.dumps(results, indent=1) + "\n")


def _row(row: dict[str, float]) -> str:
    return f"{row['ours']:9.2f} {row['theirs']:9.2f} {row['ratio']:7.2f}x"


if __name__ == "__main__":
    main()
