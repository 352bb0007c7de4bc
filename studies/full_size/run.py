"""Two steps of each large workload at its full size, on random data of its shape.

    python studies/full_size/run.py resnet-18 senet-18 googlenet lstm neumf

Shows that network, compressor, optimizer and two workers fit together and into memory;
it says nothing about learning, and its times are those of whatever else the machine
does. Each workload runs in a process of its own, with two virtual workers, and leaves a
line in results.csv beside this file. For the sake of a small machine batches are an
eighth of the study's for the image networks (256 per worker there) and a quarter for
NeuMF (2^20 in all); the language model has the study's 128 per worker. `--batch`
changes that.
"""

from __future__ import annotations

import argparse
import csv
import os
import pathlib
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tem_studies.written_files import write_table  # noqa: E402

WORKERS, STEPS = 2, 2
IMAGES = {
    "datasource": "cifar-10",
    "optimizer": "momentum",
    "weight_decay": 1e-4,
    "augmentation": "crop-flip",
    "running_mean_epochs": 30,
    "learning_rate": 0.1,
    "compressor": "hard_threshold",
}
# arch -> (trained parameters, examples per step over both workers, settings)
WORKLOADS = {
    "resnet-18": (11_173_962, 64, IMAGES | {"threshold": 4.73e-3}),
    "senet-18": (11_260_354, 64, IMAGES | {"threshold": 4.71e-3}),
    "googlenet": (6_166_250, 64, IMAGES | {"threshold": 6.37e-3}),
    "lstm": (
        28_941_519,
        256,
        {
            "datasource": "wikitext-2",
            "learning_rate": 1.25,
            "local_clipnorm": 0.4,
            "compressor": "topk",
            "density": 0.001,
        },
    ),
    "neumf": (
        31_832_577,
        2**18,
        {
            "datasource": "movielens-20m",
            "optimizer": "adam",
            "learning_rate": 0.0045,
            "beta_1": 0.25,
            "beta_2": 0.5,
            "epsilon": 1e-8,
            "compressor": "hard_threshold",
            "threshold": 1.3e-6,
        },
    ),
}
COLUMNS = (
    "workload",
    "parameters",
    "batch",
    "workers",
    "steps",
    "density",
    "seconds_per_step",
    "peak_gib",
)


def random_data(kind: str, batch: int):
    """Random data of the full data set's shape; of images, two batches."""
    import numpy as np

    generator = np.random.default_rng(0)
    if kind == "images":
        from tem_studies.workloads.data_sources import Split, split

        def part(count):
            images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            return Split(images, generator.integers(0, 10, count))

        return split(part(3 * batch), part(batch), "random")
    if kind == "text":
        from tem_studies.workloads.text_files import TextData

        # Words of WikiText-2, lines' ends among them: train, validation, test.
        train, validation, test = (
            generator.integers(0, 28_869, count, dtype=np.int32)
            for count in (2_088_628, 217_646, 245_569)
        )
        return TextData(
            train, validation, test, tuple(map(str, range(28_869))), "random"
        )
    from tem_studies.workloads.ratings_files import NEGATIVES, RatingsData

    users, items, ratings = 138_493, 26_744, 20_000_263

    def some(*shape):
        return generator.integers(0, items, shape, dtype=np.int32)

    positives = ratings - 2 * users
    return RatingsData(
        users=users,
        items=items,
        train_users=np.sort(generator.integers(0, users, positives, dtype=np.int32)),
        train_items=some(positives),
        validation_items=some(users),
        test_items=some(users),
        validation_negatives=np.sort(some(users, NEGATIVES), axis=1),
        test_negatives=np.sort(some(users, NEGATIVES), axis=1),
        place="random",
    )


def run(arch: str, batch: int) -> dict[str, object]:
    """Two steps of one workload; returns its line."""
    from tem_studies.workloads.configuration import Configuration
    from tem_studies.workloads.optimizers import make_optimizer
    from tem_studies.workloads.replicas import make_strategy
    from tem_studies.workloads.tasks import KINDS
    from tem_studies.workloads.training import Trainer

    parameters, _, settings = WORKLOADS[arch]
    configuration = Configuration(
        arch=arch, target_sparsity=0.0, batch_size=batch, workers=WORKERS, **settings
    )
    strategy = make_strategy(configuration)
    data = random_data(configuration.kind, batch)
    task = KINDS[configuration.kind].make(configuration, data, WORKERS)
    with strategy.scope():
        model = task.new_model()
        optimizer = make_optimizer(configuration, task.steps_per_epoch)
    count = sum(v.shape.num_elements() for v in model.trainable_variables)
    if count != parameters:
        raise SystemExit(f"{arch} has {count:,} parameters, not {parameters:,}.")
    period = configuration.running_mean_epochs * task.steps_per_epoch
    trainer = Trainer(strategy, model, optimizer, task.train, batch, period)
    trainer.compile()
    start = time.perf_counter()
    trainer.run(task.take(STEPS))
    loss = trainer.read_meters().loss
    seconds = (time.perf_counter() - start) / STEPS
    if not loss < float("inf"):
        raise SystemExit(f"{arch}: the loss is {loss}.")
    summary = optimizer.communication_summary()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kB on Linux
    values = arch, count, batch, WORKERS, STEPS
    measured = f"{summary['density']:.4g}", f"{seconds:.1f}", f"{peak:.2f}"
    return dict(zip(COLUMNS, (*values, *measured), strict=True))


def keep(line: dict[str, object]) -> None:
    """Writes a line in the place of an earlier one of the same workload."""
    path, lines = HERE / "results.csv", {}
    if path.exists():
        with path.open(newline="") as file:
            lines = {row["workload"]: row for row in csv.DictReader(file)}
    lines[line["workload"]] = line
    write_table(path, [lines[name] for name in WORKLOADS if name in lines], COLUMNS)


def main() -> None:
    """Runs one workload here, several one after the other in processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="+", choices=tuple(WORKLOADS))
    parser.add_argument("--batch", type=int, help="examples per step over both workers")
    arguments = parser.parse_args()
    if len(arguments.workloads) > 1:
        more = [f"--batch={arguments.batch}"] if arguments.batch else []
        for name in arguments.workloads:
            subprocess.run([sys.executable, __file__, name, *more], check=True)
        return
    (arch,) = arguments.workloads
    line = run(arch, arguments.batch or WORKLOADS[arch][1])
    keep(line)
    print("  ".join(f"{name} {value}" for name, value in line.items()))


if __name__ == "__main__":
    main()
