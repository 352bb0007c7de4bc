"""Compares what run.py has left here: paired differences with intervals, as tables.

    python docs/studies/convex/compare.py

writes comparisons.csv (each compressor against the hard threshold, seeds paired, the
ratio of the mean suboptimalities of the last tenth with a 95 % bootstrap interval) and
heterogeneity.csv (each split against the shuffled one), and prints the rank correlation
of total error and suboptimality over the runs of each sweep.
"""

import csv
import pathlib

import numpy as np
from scipy.stats import spearmanr

HERE = pathlib.Path(__file__).parent
DRAWS = 10_000  # Bootstrap samples.
QUALITY = "suboptimality_last_tenth"
SPLITS = ("shuffled", "dirichlet-1", "dirichlet-0.1", "sorted")


def read(study: str) -> dict[tuple[str, str], list[dict]]:
    """Runs of a study by (method, compressor), in the order of seeds."""
    cells: dict[tuple[str, str], list[dict]] = {}
    path = HERE / f"{study}.csv"
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                cells.setdefault((row["method"], row["compressor"]), []).append(row)
    return cells


def column(runs: list[dict], name: str) -> np.ndarray:
    """One value per seed."""
    return np.array([float(run[name]) for run in runs])


def ratio(of: np.ndarray, to: np.ndarray) -> dict[str, str]:
    """Ratio of means over paired seeds, and its 95 % bootstrap interval."""
    chosen = np.random.default_rng(0).integers(len(of), size=(DRAWS, len(of)))
    low, high = np.percentile(of[chosen].mean(1) / to[chosen].mean(1), [2.5, 97.5])
    return {
        "ratio": f"{of.mean() / to.mean():.3g}",
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
    }


def write(name: str, rows: list[dict]) -> None:
    """Writes a table, if there is anything in it."""
    if rows:
        with (HERE / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def comparisons() -> list[dict]:
    """Every cell of every comparison against ec-sgd with the hard threshold."""
    names = [
        f"{source}-{split}" for source in ("cancer", "fashion") for split in SPLITS
    ]
    names += ["made-up-shuffled", "fashion-shuffled-ef21", "fashion-sorted-ef21"]
    rows = []
    for name in names:
        cells = read(name)
        for (method, compressor), runs in cells.items():
            threshold = cells["ec-sgd", "hard_threshold"]
            row = {"study": name, "method": method, "compressor": compressor}
            for field in ("density", "bits", "encoded_bits", "total_error", QUALITY):
                row[field] = f"{column(runs, field).mean():.4g}"
            row |= ratio(column(runs, QUALITY), column(threshold, QUALITY))
            rows.append(row)
    return rows


def heterogeneity() -> list[dict]:
    """Every split against the shuffled one.

    A seed draws other examples in another split: the pairs share the draws' positions.
    """
    rows = []
    for source in ("cancer", "fashion"):
        shuffled = read(f"{source}-shuffled")
        for split in SPLITS[1:]:
            for cell, runs in read(f"{source}-{split}").items():
                row = {"data": source, "split": split, "compressor": cell[1]}
                row |= ratio(column(runs, QUALITY), column(shuffled[cell], QUALITY))
                for field in ("bits", "total_error"):
                    change = column(runs, field).mean()
                    to = column(shuffled[cell], field).mean()
                    row[f"{field}_ratio"] = f"{change / to:.3g}" if to else ""
                rows.append(row)
    return rows


def main() -> None:
    """Writes the tables and prints the rank correlations."""
    write("comparisons.csv", comparisons())
    write("heterogeneity.csv", heterogeneity())
    for source in ("cancer", "fashion"):
        runs = [
            run
            for (_, compressor), runs in read(f"{source}-sweep").items()
            for run in runs
            if compressor != "none" and run["status"] == "finished"
        ]
        if runs:
            found = spearmanr(column(runs, "total_error"), column(runs, QUALITY))
            print(
                f"{source}: rank correlation of total error and suboptimality over "
                f"{len(runs)} runs: {found.statistic:.2f} (p = {found.pvalue:.1g})"
            )


if __name__ == "__main__":
    main()
