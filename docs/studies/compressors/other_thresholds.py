"""Hard thresholds other than the pilot's, on the reported seeds: README.md, "After it".

    python docs/studies/compressors/other_thresholds.py PATH_DATA STUDY_DIR LAMBDA…

Simple-CNN at budget 1 % and rate 0.2. STUDY_DIR is the finished study of
simple_cnn.toml, with its report; it receives other-thresholds/. Writes
simple_cnn/other_thresholds.csv: for each λ and method the mean difference over seeds of
test accuracy, method minus threshold, with Student's 95 % interval.
"""

import csv
import json
import pathlib
import subprocess
import sys
import tomllib

import numpy as np
import scipy.stats

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
RATE, BUDGET = "0.2", "0.01"
METHODS = ("none", "topk", "topk_model", "topk_replay", "hard_threshold")


def run(data: str, place: pathlib.Path, threshold: str, seed: int) -> dict:
    """One run of main.py, or its result if it is there."""
    result = place / f"lambda-{threshold}" / f"seed-{seed}" / "result.json"
    if not result.exists():
        settings = tomllib.loads((HERE / "simple_cnn.toml").read_text())["run"]
        settings |= {"learning_rate": RATE, "compressor": "hard_threshold"}
        settings |= {"threshold": threshold, "seed": seed, "threads": 1}
        settings |= {"path_data": data, "logdir": result.parent}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        subprocess.run([sys.executable, "main.py", *flags], cwd=ROOT, check=True)
    return json.loads(result.read_text())


def main() -> None:
    """Runs and writes the table."""
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    data = str(pathlib.Path(sys.argv[1]).resolve())
    study = pathlib.Path(sys.argv[2]).resolve()
    with (study / "report" / "runs.csv").open() as file:
        runs = [r for r in csv.DictReader(file) if r["kind"] == "tuned"]
    with (study / "report" / "comparison.csv").open() as file:
        row = next(
            r
            for r in csv.DictReader(file)
            if (r["kind"], r["budget"], r["method"]) == ("tuned", BUDGET, "topk")
        )
    budget = float(row["bytes_per_worker"]) / float(row["volume_over_budget"])
    table = []
    for threshold in sys.argv[3:]:
        ours = [run(data, study / "other-thresholds", threshold, s) for s in range(5)]
        accuracy = np.array([r["test"]["accuracy"] for r in ours])
        sent = [r["communication"]["payload_bytes"] / r["replicas"] for r in ours]
        volumes = np.array(sent) / budget
        for method in METHODS:
            theirs = {
                int(r["seed"]): float(r["test_accuracy"])
                for r in runs
                if r["method"] == method and r["budget"] in ("", BUDGET)
            }
            difference = np.array([theirs[s] for s in range(5)]) - accuracy
            half = scipy.stats.t.ppf(0.975, 4) * difference.std(ddof=1) / 5**0.5
            table.append(
                {
                    "threshold": threshold,
                    "accuracy": f"{accuracy.mean():.5f}",
                    "volume_over_budget": f"{volumes.mean():.4f}",
                    "least_volume": f"{volumes.min():.4f}",
                    "greatest_volume": f"{volumes.max():.4f}",
                    "method": method,
                    "minus_threshold": f"{difference.mean():.5f}",
                    "student_low": f"{difference.mean() - half:.5f}",
                    "student_high": f"{difference.mean() + half:.5f}",
                }
            )
    with (HERE / "simple_cnn" / "other_thresholds.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
