"""Runs the baseline study of README.md and writes results.csv.

    python studies/simple_cnn_fashion_mnist/run.py PATH_DATA [LOGS]

PATH_DATA holds Fashion-MNIST/, LOGS (default: runs/) receives the runs. A run that has
its result.json already is not repeated. About half an hour on two cores.
"""

import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tem_studies.workloads.study_files import is_finished  # noqa: E402
from tem_studies.written_files import write_table  # noqa: E402

SEEDS = (0, 1, 2)
CHECKS = 5  # Validation accuracy is the mean of this many last checks.
COMMON = (
    "--datasource fashion-mnist --arch simple-cnn --optimizer sgd --learning_rate 0.1 "
    "--batch_size 100 --train_iterations 2000 --check_interval 100"
)
# (name, workers, flags). The threshold comes from 500 steps of seed 100, which is not
# reported.
CELLS = [
    ("dense", 1, "--target_sparsity 0"),
    ("pruned", 1, "--target_sparsity 0.9"),
    ("dense, 4 workers", 4, "--target_sparsity 0"),
    (
        "hard threshold, 4 workers",
        4,
        "--target_sparsity 0 --compressor hard_threshold --threshold 0.1",
    ),
]


def command(workers: int, flags: str, seed: int, data: str, logs: str) -> list[str]:
    """The command line of one run."""
    program = [sys.executable, "main.py", *COMMON.split(), *flags.split()]
    program += ["--seed", str(seed), "--path_data", data, "--logdir", logs]
    program += ["--overwrite"]  # What a run left that was ended before its result.
    if workers == 1:
        return program
    return [
        sys.executable,
        "launch/local.py",
        "--workers",
        str(workers),
        "--",
        *program,
    ]


def main() -> None:
    """Runs what has no result yet, then writes the table."""
    data = str(pathlib.Path(sys.argv[1]).resolve())
    logs = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "runs").resolve()
    rows = []
    for seed in SEEDS:
        for name, workers, flags in CELLS:
            directory = logs / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            if not is_finished(directory):
                print(f"== {name}, seed {seed}", flush=True)
                run = command(workers, flags, seed, data, str(directory))
                subprocess.run(run, cwd=ROOT, check=True)
            result = json.loads((directory / "result.json").read_text())
            last = [r["validation_accuracy"] for r in result["history"]][-CHECKS:]
            sent = result["communication"]
            rows.append(
                {
                    "run": name,
                    "seed": seed,
                    "validation_accuracy": round(sum(last) / len(last), 4),
                    "test_accuracy": round(result["test"]["accuracy"], 4),
                    "density": round(sent["density"], 5),
                    "payload_bytes": sent["payload_bytes"],
                    "padded_bytes": sent["padded_bytes"],
                    "dense_bytes": sent["dense_bytes"],
                    "train_seconds": round(result["seconds"]["train"], 1),
                }
            )
            write_table(HERE / "results.csv", rows)


if __name__ == "__main__":
    main()
