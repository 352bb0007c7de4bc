r"""Local updates of a CNN: how much accuracy do fewer exchanges and few bits cost?

    python studies/local_updates/run.py PATH_DATA    # 40 trainings; may be stopped
    python studies/local_updates/run.py --report     # the table again

PATH_DATA holds Fashion-MNIST/. Simple-CNN by main.py, 750 steps of batch 96 shared by
eight virtual workers, SGD with momentum; all exchange at every step, or every 8 or 30
steps how far they have moved, in float32 or in 2 bits an entry. The learning rate of
each way is the best of three with seed 0; then seeds 1 to 5.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tem_studies.written_files import write_table  # noqa: E402

RESULTS = HERE / "results.csv"
STEPS, WORKERS = 750, 8
RATES = (0.0125, 0.025, 0.05)
TUNING_SEED, SEEDS = 0, (1, 2, 3, 4, 5)
OUTER = "--outer_learning_rate 0.9 --outer_momentum 0.6"
FEW_BITS = "--compressor all --value_dtype int2"
WAYS = {
    "dense": "",
    "H 8": f"--local_steps 8 {OUTER}",
    "H 8, int2": f"--local_steps 8 {OUTER} {FEW_BITS}",
    "H 30": f"--local_steps 30 {OUTER}",
    "H 30, int2": f"--local_steps 30 {OUTER} {FEW_BITS}",
}
SETTINGS = (
    "--datasource fashion-mnist --arch simple-cnn --target_sparsity 0 --threads 1 "
    f"--workers {WORKERS} --batch_size 96 --train_iterations {STEPS} "
    f"--optimizer momentum --check_interval {STEPS}"
)
COLUMNS = ("way", "rate", "seed", "validation", "test", "bits", "bytes_per_worker")
_T = 2.776  # Student's t, four degrees of freedom, 95 %: of five differences.
Case = tuple[str, float, int]


def train(case: Case, data: str) -> dict[str, Any]:
    """One training."""
    way, rate, seed = case
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, str(ROOT / "main.py"), *SETTINGS.split()),
            *(*WAYS[way].split(), "--learning_rate", str(rate), "--seed", str(seed)),
            *("--path_data", data, "--logdir", folder),
        ]
        code = subprocess.run(command, check=False).returncode
        result = json.loads(pathlib.Path(folder, "result.json").read_text())
    diverged = code != 0
    sent = result["communication"]
    parameters = sent["dense_bytes"] / 4 / WORKERS / sent["steps"]
    return {
        "way": way,
        "rate": rate,
        "seed": seed,
        "validation": 0.0 if diverged else result["history"][-1]["validation_accuracy"],
        "test": 0.0 if diverged else result["test"]["accuracy"],
        "bits": 8 * sent["payload_bytes"] / parameters / WORKERS / STEPS,
        "bytes_per_worker": sent["payload_bytes"] // WORKERS,
    }


def read() -> list[dict[str, Any]]:
    """The results that there are."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return [
            {**row, "rate": float(row["rate"]), "seed": int(row["seed"])}
            for row in csv.DictReader(file)
        ]


def best_rates(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By way, of those that were tuned with all rates."""
    found = {}
    for way in WAYS:
        tuned = [r for r in rows if r["way"] == way and r["seed"] == TUNING_SEED]
        if len(tuned) == len(RATES):
            found[way] = max(tuned, key=lambda r: float(r["validation"]))["rate"]
    return found


def wanted(rows: list[dict[str, Any]]) -> list[Case]:
    """What is still to be trained: tuning first, then one seed after another."""
    done = {(row["way"], row["rate"], row["seed"]) for row in rows}
    tuning = [(way, rate, TUNING_SEED) for way in WAYS for rate in RATES]
    left = [case for case in tuning if case not in done]
    if left:
        return left
    best = best_rates(rows)
    cases = [(way, best[way], seed) for seed, way in itertools.product(SEEDS, WAYS)]
    return [case for case in cases if case not in done]


def report(rows: list[dict[str, Any]]) -> None:
    """Prints means over seeds, and differences of equal seeds."""
    best = best_rates(rows)
    tests: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["seed"] != TUNING_SEED:
            tests.setdefault(row["way"], {})[row["seed"]] = float(row["test"])
    print("| way | rate | bits | bytes of a worker | test | beside dense | beside H |")
    print("|---|---|---|---|---|---|---|")
    for way, found in tests.items():
        (row, *_) = [r for r in rows if r["way"] == way and r["rate"] == best[way]]
        same = way.partition(",")[0]
        beside = [
            _difference(found, tests[other]) if other != way else ""
            for other in ("dense", same)
        ]
        print(
            f"| {way} | {best[way]:g} | {float(row['bits']):.3g} |"
            f" {int(row['bytes_per_worker']):,} |"
            f" {statistics.mean(found.values()):.4f} | {' | '.join(beside)} |"
        )


def _difference(mine: dict[int, float], theirs: dict[int, float]) -> str:
    gained = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    mean = statistics.mean(gained)
    if len(gained) < len(SEEDS):
        return f"{mean:+.4f}, {len(gained)} seeds"
    half = _T * statistics.stdev(gained) / math.sqrt(len(gained))
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


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
        while left := wanted(rows):
            rows.append(train(left[0], arguments.path_data))
            write_table(RESULTS, rows, COLUMNS)
    report(rows)


if __name__ == "__main__":
    main()
