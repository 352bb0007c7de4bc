r"""Four workers, then two, then three: does the accuracy of a training suffer?

    python studies/changing_workers/run.py PATH_DATA    # 48 trainings; may be stopped
    python studies/changing_workers/run.py --report     # the table again

PATH_DATA holds Fashion-MNIST/. Simple-CNN by main.py, 750 steps of batch 96, hard
threshold or Top-k with error feedback, virtual workers. One training of four is asked
to stop (SIGUSR1) once its checkpoints of steps 250 and 500 are there, and goes on with
another number of workers (`--resume auto`): what is held back is shared out anew.
Beside it four workers all along and, as what a number does by itself, two and three.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tem_studies.written_files import write_table  # noqa: E402

RESULTS = HERE / "results.csv"
STEPS, STAGE = 750, 250
SEEDS = (0, 1, 2, 3, 4, 5)
WORKERS = {"4": (4,), "2": (2,), "3": (3,), "4, 2, 3": (4, 2, 3)}
COMPRESSION = {
    "threshold": "--compressor hard_threshold --threshold 0.1",
    "topk": "--compressor topk --density 0.01",
}
SETTINGS = (
    f"--datasource fashion-mnist --arch simple-cnn --target_sparsity 0 --batch_size 96 "
    f"--train_iterations {STEPS} --optimizer momentum --learning_rate 0.05 "
    f"--check_interval 50 --save_interval {STEPS} --resume auto "
    f"--resume_interval {STAGE}"
)
COLUMNS = ("compressor", "workers", "seed", "accuracy", "density", "stopped_at")
_T = 2.571  # Student's t, five degrees of freedom, 95 %: of six differences.
_REQUEUE = 75  # Exit code of a training that has stopped on wish.


def train(compressor: str, workers: str, seed: int, data: str) -> dict[str, Any]:
    """One training, in as many processes as it has numbers of workers."""
    stopped = []
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, str(ROOT / "main.py"), *SETTINGS.split()),
            *COMPRESSION[compressor].split(),
            *("--seed", str(seed), "--path_data", data, "--logdir", folder),
        ]
        numbers = WORKERS[workers]
        for stage, number in enumerate(numbers, 1):
            place = pathlib.Path(folder, "resume", f"step-{stage * STAGE:08d}")
            process = subprocess.Popen([*command, "--workers", str(number)])
            while stage < len(numbers) and not (place / "manifest.json").exists():
                time.sleep(0.1)
                if process.poll() is not None:
                    raise SystemExit(f"main.py ended with {process.returncode}")
            if stage < len(numbers):
                process.send_signal(signal.SIGUSR1)
            code = process.wait()
            if code != (_REQUEUE if stage < len(numbers) else 0):
                raise SystemExit(f"main.py ended with {code}")
            if stage < len(numbers):
                newest = max(place.parent.glob("step-*/manifest.json"))
                stopped.append(json.loads(newest.read_text())["step"])
        result = json.loads(pathlib.Path(folder, "result.json").read_text())
    return {
        "compressor": compressor,
        "workers": workers,
        "seed": seed,
        "accuracy": result["test"]["accuracy"],
        "density": result["history"][-1]["density"],
        "stopped_at": " ".join(map(str, stopped)),
    }


def read() -> list[dict[str, str]]:
    """The results that there are."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def report(rows: list[dict[str, str]]) -> None:
    """Prints means of seeds, and differences to four workers of equal seeds."""
    found = {
        (row["compressor"], row["workers"], int(row["seed"])): float(row["accuracy"])
        for row in rows
    }
    print("| compressor | workers | accuracy | beside 4 workers (95 %) |")
    print("|---|---|---|---|")
    for compressor, workers in itertools.product(COMPRESSION, WORKERS):
        here = [found[compressor, workers, seed] for seed in SEEDS]
        beside = ""
        if workers != "4":
            base = [found[compressor, "4", seed] for seed in SEEDS]
            gained = [a - b for a, b in zip(here, base, strict=True)]
            mean = statistics.mean(gained)
            half = _T * statistics.stdev(gained) / math.sqrt(len(gained))
            beside = f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"
        each = ", ".join(f"{accuracy:.4f}" for accuracy in here)
        print(
            f"| {compressor} | {workers} | {statistics.mean(here):.4f} ({each}) | "
            f"{beside} |"
        )


def main() -> None:
    """Trains what has not been trained, and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path_data", nargs="?", help="holds Fashion-MNIST/")
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    rows = read()
    if not arguments.report:
        if arguments.path_data is None:
            parser.error("PATH_DATA is missing")
        done = {(row["compressor"], row["workers"], int(row["seed"])) for row in rows}
        for case in itertools.product(COMPRESSION, WORKERS, SEEDS):
            if case not in done:
                rows.append(train(*case, arguments.path_data))
                write_table(RESULTS, rows, COLUMNS)
    report(rows)


if __name__ == "__main__":
    main()
