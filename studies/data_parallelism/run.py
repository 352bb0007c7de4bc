"""Runs the study of README.md, cell by cell, and makes its report.

    python studies/data_parallelism/run.py PATH_DATA [STUDIES] [--report]

PATH_DATA holds Fashion-MNIST/; STUDIES (default: studies/data_parallelism) receives the
study directories. Finished trials are not run again, so it may be stopped and started
at any time, and on several machines that share STUDIES. Two cells run at a time, one
thread each, in an order in which what is there first says most. With --report nothing
is run.
"""

import concurrent.futures
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]

# From two pilots at batch 128 with seeds 100 and 0, which no trial uses: README.md.
# Never changed after them.
GOAL_ERROR = 0.16
SEED = 10
TRIALS, RERUNS = 20, 5
# batch size -> last step.
LAST_STEP = {8: 12_000, 32: 5000, 128: 2000, 512: 1200, 2048: 800}
# (optimizer, sparsity) -> batch size -> steps between two checks: at most 5 % of K*,
# and 6 % in two cells.
CHECKS = {
    ("sgd", 0): {8: 50, 32: 10, 128: 5, 512: 5, 2048: 5},
    ("sgd", 0.9): {8: 200, 32: 50, 128: 25, 512: 10, 2048: 10},
    ("momentum", 0): {8: 50, 32: 10, 128: 5, 512: 2, 2048: 2},
    ("momentum", 0.9): {8: 100, 32: 25, 128: 10, 512: 10, 2048: 10},
}
ORDER = (128, 512, 32, 8, 2048)
SPARSITIES = (0.9, 0)
COMMON = (
    "--datasource fashion-mnist --arch simple-cnn --decay_type constant --threads 1"
)
# K*(B, density of the gradient). The prediction is in README.md.
DENSITIES = (0.1, 0.01)
DENSITY_BATCHES = (32, 128, 512)
# Smoothness along one trial each, to its last step: the goal is out of reach.
SMOOTHNESS = (
    "--optimizer sgd --learning_rate 0.178 --batch_size 128 --train_iterations 600 "
    "--goal_error 0.001 --check_interval 50 --check_interval_arrival 50 "
    "--check_lipschitz --lipschitz_interval 50 --lipschitz_examples 5400"
)
SMOOTHNESS_SEEDS = (10, 11, 12)
# What is laid side by side.
REPORTS = {
    "sgd": ["sgd"],
    "momentum": ["sgd", "momentum"],
    "density": [*(f"sgd/s0-b{b}" for b in DENSITY_BATCHES), "topk-0.1", "topk-0.01"],
    "smoothness": ["smoothness"],
}

# Directory and command line.
Command = tuple[str, str]


def cells() -> list[Command]:
    """Every cell."""
    planned = [
        (optimizer, optimizer, flags, batch, sparsity)
        for optimizer, flags in (("sgd", ""), ("momentum", "--momentum 0.9"))
        for batch in ORDER
        for sparsity in SPARSITIES
    ]
    for density in DENSITIES:
        flags = f"--compressor topk --density {density}"
        planned += [(f"topk-{density}", "sgd", flags, b, 0) for b in DENSITY_BATCHES]
    return [
        (f"{study}/s{sparsity}-b{batch}", cell_flags(optimizer, flags, batch, sparsity))
        for study, optimizer, flags, batch, sparsity in planned
    ]


def cell_flags(optimizer: str, flags: str, batch: int, sparsity: float) -> str:
    """The flags of one cell."""
    interval = CHECKS[optimizer, sparsity][batch]
    return (
        f"--optimizer {optimizer} {flags} --batch_size {batch} "
        f"--target_sparsity {sparsity} --goal_error {GOAL_ERROR} "
        f"--check_interval {interval} --check_interval_arrival {interval} "
        f"--train_iterations {LAST_STEP[batch]} "
        "--mparams_kind learning_rate --stop_beyond_best "
        f"--nruns {TRIALS} --rerun_seeds {RERUNS} --seed {SEED}"
    )


def smoothness() -> list[Command]:
    """The trials along which the smoothness is measured."""
    return [
        (
            f"smoothness/s{sparsity}-seed{seed}",
            f"{SMOOTHNESS} --target_sparsity {sparsity} --seed {seed}",
        )
        for seed in SMOOTHNESS_SEEDS
        for sparsity in SPARSITIES
    ]


def main() -> None:
    """Runs what is not finished, then makes the reports of all that is there."""
    arguments = [a for a in sys.argv[1:] if a != "--report"]
    data = str(pathlib.Path(arguments[0]).resolve())
    default = ROOT / "studies" / "data_parallelism"
    place = pathlib.Path(arguments[1] if len(arguments) > 1 else default).resolve()

    def run(directory: str, flags: str) -> None:
        print(f"== {directory}", flush=True)
        line = [sys.executable, "main.py", *COMMON.split(), *flags.split()]
        line += ["--path_data", data, "--study_dir", str(place / directory)]
        subprocess.run(line, cwd=ROOT, check=True)

    if "--report" not in sys.argv:
        # The dearest come last.
        commands = cells() + smoothness()
        commands.sort(key=lambda command: command[0].endswith(f"-b{max(ORDER)}"))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            # The results are asked for, so that a failure is raised here.
            list(pool.map(lambda command: run(*command), commands))
    for name, studies in REPORTS.items():
        paths = [str(path) for study in studies if (path := place / study).exists()]
        if paths:
            line = [sys.executable, "main.py", "--report", *paths]
            line += ["--logdir", str(place / "report" / name)]
            subprocess.run(line, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
