"""Runs the study of README.md, cell by cell, and makes its report.

    python docs/studies/data_parallelism/run.py PATH_DATA [STUDIES] [--report]

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
ROOT = HERE.parents[2]

# From two pilots at batch 128 with seeds 100 and 0, which no trial uses: README.md.
# Never changed after them.
GOAL_ERROR = 0.16
SEED = 10
TRIALS, RERUNS = 20, 5
# batch size -> (steps between two checks at sparsity 0.9 and at 0, last step). Checks
# are at most 5 % of the K* that is expected.
CHECKS = {
    8: (200, 100, 12_000),
    32: (50, 25, 5000),
    128: (25, 10, 2000),
    512: (10, 5, 1200),
    2048: (10, 5, 800),
}
ORDER = (128, 512, 32, 8, 2048)
SPARSITIES = (0.9, 0)
COMMON = (
    "--datasource fashion-mnist --arch simple-cnn --decay_type constant "
    "--mparams_kind learning_rate --stop_beyond_best --threads 1"
)
# K*(B, density of the gradient). The prediction is in README.md.
DENSITIES = (0.1, 0.01)
DENSITY_BATCHES = (32, 128, 512)


def cells() -> list[tuple[str, str, int, float]]:
    """(study, flags, batch size, sparsity) of every cell in order."""
    planned = [
        (name, flags, batch, sparsity)
        for name, flags in (
            ("sgd", "--optimizer sgd"),
            ("momentum", "--optimizer momentum --momentum 0.9"),
        )
        for batch in ORDER
        for sparsity in SPARSITIES
    ]
    for density in DENSITIES:
        flags = f"--optimizer sgd --compressor topk --density {density}"
        planned += [(f"topk-{density}", flags, b, 0) for b in DENSITY_BATCHES]
    return planned


def command(flags: str, batch: int, sparsity: float, data: str, place: str) -> list:
    """The command line of one cell."""
    sparse_interval, dense_interval, last = CHECKS[batch]
    interval = sparse_interval if sparsity else dense_interval
    text = (
        f"main.py {COMMON} {flags} --batch_size {batch} --target_sparsity {sparsity} "
        f"--goal_error {GOAL_ERROR} --check_interval {interval} "
        f"--check_interval_arrival {interval} --train_iterations {last} "
        f"--nruns {TRIALS} --rerun_seeds {RERUNS} --seed {SEED}"
    )
    return [sys.executable, *text.split(), "--path_data", data, "--study_dir", place]


def main() -> None:
    """Runs what is not finished, then makes the report of all that is there."""
    arguments = [a for a in sys.argv[1:] if a != "--report"]
    data = str(pathlib.Path(arguments[0]).resolve())
    default = ROOT / "studies" / "data_parallelism"
    place = pathlib.Path(arguments[1] if len(arguments) > 1 else default).resolve()

    def run(study: str, flags: str, batch: int, sparsity: float) -> None:
        cell = place / study / f"s{sparsity}-b{batch}"
        print(f"== {study}, batch {batch}, sparsity {sparsity}", flush=True)
        line = command(flags, batch, sparsity, data, str(cell))
        subprocess.run(line, cwd=ROOT, check=True)

    if "--report" not in sys.argv:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            # The results are asked for, so that a failure is raised here.
            list(pool.map(lambda cell: run(*cell), cells()))
    report = [sys.executable, "main.py", "--report", str(place)]
    report += ["--logdir", str(place / "report")]
    subprocess.run(report, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
