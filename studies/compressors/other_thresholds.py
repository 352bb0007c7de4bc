r"""Hard thresholds other than the pilot's, on the reported seeds: see README.md.

    python studies/compressors/other_thresholds.py WORKLOAD PATH_DATA STUDY_DIR \
        RATE LAMBDA…

STUDY_DIR is the finished study of WORKLOAD.toml, with its report; it receives
other-thresholds/. Writes WORKLOAD/other_thresholds.csv: at the plan's first budget, for
each λ and method of tuned rate, the mean difference over seeds of the test quality,
method minus threshold, with Student's 95 % interval.
"""

import csv
import json
import pathlib
import subprocess
import sys
import tomllib

import numpy as np
import scipy.stats
from run import WORKLOADS

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tem_studies.workloads.study_files import is_finished  # noqa: E402
from tem_studies.written_files import write_table  # noqa: E402

METHODS = ("none", "topk", "topk_model", "topk_replay", "hard_threshold")


def run(shared: dict, place: pathlib.Path, threshold: str, seed: int) -> dict:
    """One run of main.py, or its result if it is there."""
    result = place / f"lambda-{threshold}" / f"seed-{seed}" / "result.json"
    if not is_finished(result.parent):
        settings = shared | {"compressor": "hard_threshold", "threshold": threshold}
        settings |= {"seed": seed, "threads": 1, "logdir": result.parent}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        flags += ["--overwrite"]  # What a run left that was ended before its result.
        subprocess.run([sys.executable, "main.py", *flags], cwd=ROOT, check=True)
    return json.loads(result.read_text())


def main() -> None:
    """Runs and writes the table."""
    if len(sys.argv) < 6 or sys.argv[1] not in WORKLOADS:
        raise SystemExit(__doc__)
    workload, data, study, rate, *thresholds = sys.argv[1:]
    plan = tomllib.loads((HERE / f"{workload}.toml").read_text())
    data = pathlib.Path(data, WORKLOADS[workload]).resolve()
    shared = plan["run"] | {"learning_rate": rate, "path_data": data}
    study = pathlib.Path(study).resolve()
    budget, seeds = str(plan["budgets"][0]), range(plan["nseeds"])
    with (study / "report" / "runs.csv").open() as file:
        runs = [r for r in csv.DictReader(file) if r["kind"] == "tuned"]
    quality = next(name for name in runs[0] if name.startswith("test_"))
    with (study / "report" / "comparison.csv").open() as file:
        row = next(
            r
            for r in csv.DictReader(file)
            if (r["kind"], r["budget"], r["method"]) == ("tuned", budget, "topk")
        )
    allowed = float(row["bytes_per_worker"]) / float(row["volume_over_budget"])
    table = []
    for threshold in thresholds:
        place = study / "other-thresholds" / f"rate-{rate}"
        ours = [run(shared, place, threshold, s) for s in seeds]
        reached = np.array([r["test"][quality.removeprefix("test_")] for r in ours])
        sent = [r["communication"]["payload_bytes"] / r["replicas"] for r in ours]
        volumes = np.array(sent) / allowed
        for method in METHODS:
            theirs = {
                int(r["seed"]): float(r[quality])
                for r in runs
                if r["method"] == method and r["budget"] in ("", budget)
            }
            difference = np.array([theirs[s] for s in seeds]) - reached
            mean, error = difference.mean(), scipy.stats.sem(difference)
            half = scipy.stats.t.ppf(0.975, len(difference) - 1) * error
            table.append(
                {
                    "learning_rate": rate,
                    "threshold": threshold,
                    quality: f"{reached.mean():.6g}",
                    "volume_over_budget": f"{volumes.mean():.4f}",
                    "least_volume": f"{volumes.min():.4f}",
                    "greatest_volume": f"{volumes.max():.4f}",
                    "method": method,
                    "minus_threshold": f"{mean:.4g}",
                    "student_low": f"{mean - half:.4g}",
                    "student_high": f"{mean + half:.4g}",
                }
            )
    (HERE / workload).mkdir(exist_ok=True)
    write_table(HERE / workload / "other_thresholds.csv", table)


if __name__ == "__main__":
    main()
