"""Speed of the DPS study's parts against a tf.compat.v1 feed_dict loop, side by side.

    python benchmarks/data_parallelism.py --batches 1 2 32 100 512 2048 --parts
    python benchmarks/data_parallelism.py --arch resnet-8 --batches 2 32 100 512

The opponent is a TensorFlow 1 program as such studies were written: a graph with a mask
on every weight and bias, batches put together example by example in Python and handed
over by feed_dict, one `Session.run` per step. Both train the same network with 90 % of
it masked, on made-up images of the real size: speed does not depend on what they show.
They take turns, several times, so that what else the machine does meets both; the
ratio is the median over turns. --parts also measures pruning, the validation pass, a
whole run of 500 steps at batch 100 with 5 checks, and memory over trials.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
import tensorflow as tf

from tem_tf.data_parallelism.configuration import Cell
from tem_tf.data_parallelism.trials import Splits, Workbench
from tem_tf.data_parallelism.tunable import TunableOptimizer
from tem_tf.workloads import architectures, pruning
from tem_tf.workloads.batches import DeviceSplit, EpochOrder
from tem_tf.workloads.configuration import Configuration
from tem_tf.workloads.data_sources import Data, Split, split
from tem_tf.workloads.training import Trainer

v1 = tf.compat.v1
SHAPES = {"simple-cnn": (28, 28, 1), "resnet-8": (32, 32, 3)}
DATASOURCES = {"simple-cnn": "fashion-mnist", "resnet-8": "cifar-10"}
TRAIN = {"simple-cnn": 60_000, "resnet-8": 50_000}
PRUNING_BATCH = VALIDATION_BATCH = 100
RATE, SPARSITY = 0.1, 0.9


class FeedDictProgram:
    """The opponent: network, masks and step in a graph, data in Python."""

    def __init__(self, arch: str, data: Data, masks: list[np.ndarray] | None) -> None:
        self._parts = {
            name: self._standardised(part, data)
            for name, part in (("train", data.train), ("validation", data.validation))
        }
        shape = data.input_shape
        reference = numbered_weights(arch, shape)
        self._graph = tf.Graph()
        with self._graph.as_default():
            self._images = v1.placeholder(tf.float32, (None, *shape))
            self._labels = v1.placeholder(tf.int32, (None,))
            weights = [v1.get_variable(f"w{i}", initializer=w) for i, w in reference]
            self._masks = [
                v1.placeholder_with_default(
                    np.ones(w.shape, np.float32) if masks is None else masks[i], w.shape
                )
                for i, w in reference
            ]
            masked = [w * c for w, c in zip(weights, self._masks, strict=True)]
            logits = NETWORKS[arch](self._images, masked)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=self._labels, logits=logits
            )
            self._loss = tf.reduce_mean(losses)
            right = tf.equal(tf.argmax(logits, 1, tf.int32), self._labels)
            self._accuracy = tf.reduce_mean(tf.cast(right, tf.float32))
            self._sensitivity = tf.gradients(self._loss, self._masks)
            optimizer = v1.train.GradientDescentOptimizer(RATE)
            self._step = optimizer.minimize(self._loss)
            self._session = v1.Session()
            self._session.run(v1.global_variables_initializer())
        self._order = self._epochs(len(self._parts["train"][1]))

    @staticmethod
    def _standardised(part: Split, data: Data) -> tuple[np.ndarray, np.ndarray]:
        images = (part.images.astype(np.float32) - data.mean) / data.deviation
        return images, part.labels

    @staticmethod
    def _epochs(examples: int) -> Iterator[int]:
        generator = np.random.RandomState(0)
        while True:
            yield from generator.permutation(examples).tolist()

    def _feed(self, name: str, rows: list[int]) -> dict:
        images, labels = self._parts[name]
        batch = [(images[row], labels[row]) for row in rows]  # example by example
        return {
            self._images: np.stack([image for image, _ in batch]),
            self._labels: np.stack([label for _, label in batch]),
        }

    def train(self, steps: int, batch_size: int) -> None:
        """Trains on."""
        for _ in range(steps):
            rows = [next(self._order) for _ in range(batch_size)]
            fetches = [self._step, self._loss, self._accuracy]
            self._session.run(fetches, self._feed("train", rows))

    def validate(self) -> float:
        """Accuracy over the validation split."""
        count = len(self._parts["validation"][1])
        results = []
        for start in range(0, count, VALIDATION_BATCH):
            rows = list(range(start, min(start + VALIDATION_BATCH, count)))
            feed = self._feed("validation", rows)
            accuracy = self._session.run(self._accuracy, feed)
            results.append(float(accuracy) * len(rows))
        return sum(results) / count

    def prune(self) -> list[np.ndarray]:
        """Sensitivities, summed over an epoch."""
        count = len(self._parts["train"][1])
        order = np.random.RandomState(0).permutation(count).tolist()
        sums: list = [0.0] * len(self._masks)
        for start in range(0, count, PRUNING_BATCH):
            feed = self._feed("train", order[start : start + PRUNING_BATCH])
            parts = self._session.run(self._sensitivity, feed)
            sums = [s + part for s, part in zip(sums, parts, strict=True)]
        return [np.abs(s) for s in sums]

    def close(self) -> None:
        """Ends the session."""
        self._session.close()


def numbered_weights(arch: str, shape: tuple) -> list[tuple[int, np.ndarray]]:
    """Numbered initial weights of our own network, in its order of variables."""
    return list(enumerate(architectures.build(arch, shape, seed=0).get_weights()))


def _simple_cnn(x: tf.Tensor, w: list[tf.Tensor]) -> tf.Tensor:
    for kernel, bias in ((w[0], w[1]), (w[2], w[3])):
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "VALID") + bias)
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    return tf.reshape(x, (-1, w[4].shape[0])) @ w[4] + w[5]


def _resnet_8(x: tf.Tensor, w: list[tf.Tensor]) -> tf.Tensor:
    def convolution(x: tf.Tensor, index: int, stride: int = 1) -> tf.Tensor:
        return tf.nn.conv2d(x, w[2 * index], stride, "SAME") + w[2 * index + 1]

    x = convolution(x, 0)
    for block, stride in enumerate((1, 2, 2)):
        activated = tf.nn.relu(x)
        shortcut = x
        if stride > 1:
            shortcut = tf.nn.avg_pool2d(activated, stride, stride, "SAME")
            shortcut = tf.concat([shortcut, tf.zeros_like(shortcut)], axis=-1)
        x = tf.nn.relu(convolution(activated, 2 * block + 1, stride))
        x = convolution(x, 2 * block + 2) + shortcut
    return tf.reduce_mean(tf.nn.relu(x), (1, 2)) @ w[-2] + w[-1]


NETWORKS: dict[str, Callable] = {"simple-cnn": _simple_cnn, "resnet-8": _resnet_8}


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
    shapes = [w.shape for _, w in numbered_weights(arch, SHAPES[arch])]
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


def step_speed(arch: str, data: Data, batch: int, turns: int, budget: float) -> dict:
    """Steps per second of both at one batch size."""
    masks = random_masks(arch)
    theirs = FeedDictProgram(arch, data, masks)
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
    theirs.close()
    return {
        "ours": steps / result["ours"],
        "theirs": steps / result["theirs"],
        "ratio": result["ratio"],
    }


def parts(arch: str, data: Data, turns: int) -> dict[str, dict[str, float]]:
    """Pruning, validation and a whole run: seconds of both."""
    theirs = FeedDictProgram(arch, data, None)
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

    theirs.validate()
    results["validation"] = compare(validate, theirs.validate, turns + 2)

    def our_run() -> None:
        strategy = tf.distribute.get_strategy()
        Workbench(cell, split_on_device, strategy).run({}, 0)
        bench.trainer.evaluate(split_on_device.test)

    def their_run() -> None:
        kept = pruning.keep_largest(
            theirs.prune(), pruning.kept_entries(model.count_params(), SPARSITY)
        )
        program = FeedDictProgram(arch, data, kept)
        for _ in range(5):
            program.train(100, 100)
            program.validate()
        program.validate()  # in the place of the test, which is no smaller
        program.close()

    results["whole run"] = compare(our_run, their_run, 1)
    theirs.close()
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
    data = made_up(flags.arch)
    results: dict = {"arch": flags.arch, "steps_per_second": {}}
    print(f"{flags.arch}: steps per second, ours / opponent's / ratio", flush=True)
    for batch in flags.batches:
        speed = step_speed(flags.arch, data, batch, flags.turns, flags.budget)
        results["steps_per_second"][batch] = speed
        print(f"batch {batch:>5}  " + _row(speed), flush=True)
    if flags.parts:
        results["seconds"] = parts(flags.arch, data, flags.turns // 2)
        for name, row in results["seconds"].items():
            print(f"{name:<11}  {_row(row)} (seconds)", flush=True)
        results["resident_megabytes"] = memory(flags.arch, data)
        print("resident MB  ", results["resident_megabytes"])
    if flags.output:
        pathlib.Path(flags.output).write_text(json.dumps(results, indent=1) + "\n")


def _row(row: dict[str, float]) -> str:
    return f"{row['ours']:9.2f} {row['theirs']:9.2f} {row['ratio']:7.2f}x"


if __name__ == "__main__":
    main()
