"""Compares what run.py has left here: paired differences with intervals, as tables.

    python studies/convex/compare.py

writes comparisons.csv (each compressor against the hard threshold of the same method,
seeds paired, the ratio of the mean suboptimalities of the last tenth with a 95 %
bootstrap interval and a t interval) and heterogeneity.csv (each split against the
shuffled one, with an equivalence test), and prints the rank correlation of total error
and suboptimality over the runs of each sweep.
"""

import csv
import pathlib
import sys

import numpy as np
from scipy import stats

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tem_studies.written_files import write_table  # noqa: E402

DRAWS = 10_000  # Bootstrap samples.
QUALITY = "suboptimality_last_tenth"
MARGIN = 0.1  # Within 10 % is no impact. Our choice, see README.md.
SPLITS = ("shuffled", "dirichlet-1", "dirichlet-0.1", "sorted")
SOURCES = ("cancer", "cancer-gd", "fashion", "made-up")


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


def distinct(runs: list[dict]) -> list[dict]:
    """Each run once: densities below 2/d all are k = 1, the same runs."""
    names = ("method", "compressor", "seed", "bits", "total_error", QUALITY)
    return list({tuple(run[name] for name in names): run for run in runs}.values())


def ratio(of: np.ndarray, to: np.ndarray) -> dict[str, str]:
    """Ratio of means over paired seeds and its 95 % bootstrap interval.

    Of five normal numbers such an interval covers the mean in 84 of 100 cases; the t
    interval of the logarithm, beside it, in 95.
    """
    chosen = np.random.default_rng(0).integers(len(of), size=(DRAWS, len(of)))
    low, high = np.percentile(of[chosen].mean(1) / to[chosen].mean(1), [2.5, 97.5])
    t_low, t_high = t_interval(np.log(of / to), 0.95)
    return {
        "ratio": f"{of.mean() / to.mean():.3g}",
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "t_low": f"{t_low:.3g}",
        "t_high": f"{t_high:.3g}",
    }


def t_interval(logarithms: np.ndarray, level: float) -> np.ndarray:
    """Two-sided, of exp(mean)."""
    reach = stats.t.ppf((1 + level) / 2, len(logarithms) - 1) * stats.sem(logarithms)
    return np.exp(logarithms.mean() + np.array([-reach, reach]))


def write(name: str, rows: list[dict]) -> None:
    """Writes a table, if there is anything in it."""
    if rows:
        write_table(HERE / name, rows)


def equivalence(logarithms: np.ndarray) -> dict[str, str]:
    """Two one-sided t tests at 5 % of a ratio's logarithm over seeds.

    The ratio is equivalent to 1 if its 90 % interval lies within the margin.
    """
    low, high = t_interval(logarithms, 0.9)
    inside = low > 1 - MARGIN and high < 1 + MARGIN
    outside = high < 1 - MARGIN or low > 1 + MARGIN
    return {
        "ratio": f"{np.exp(logarithms.mean()):.3g}",
        "low90": f"{low:.3g}",
        "high90": f"{high:.3g}",
        "verdict": "equivalent" if inside else "differs" if outside else "open",
    }


def comparisons() -> list[dict]:
    """Every cell against the hard threshold of its method (of ec-sgd for ef21-sgdm)."""
    names = [f"{source}-{split}" for source in SOURCES for split in SPLITS]
    names += ["fashion-shuffled-ef21", "fashion-sorted-ef21"]
    names += ["cancer-methods", "cancer-star"]
    rows = []
    for name in names:
        cells = read(name)
        for (method, compressor), runs in cells.items():
            own = "ec-sgd" if method == "ef21-sgdm" else method
            threshold = cells[own, "hard_threshold"]
            row = {"study": name, "method": method, "compressor": compressor}
            row["seeds"] = len(runs)
            for field in ("density", "bits", "encoded_bits", "total_error", QUALITY):
                row[field] = f"{column(runs, field).mean():.4g}"
            row |= ratio(column(runs, QUALITY), column(threshold, QUALITY))
            rows.append(row)
    return rows


def heterogeneity() -> list[dict]:
    """Every split against the shuffled one.

    A seed draws the same places in another split, so that runs with and without
    compression share their luck: `beyond` is what heterogeneity does to a compressor
    over and above what it does to plain SGD. Full gradients without compression end at
    x*, so there the ratio itself is the compressor's.
    """
    rows = []
    for source in SOURCES:
        shuffled = read(f"{source}-shuffled")
        for split in SPLITS[1:]:
            found = read(f"{source}-{split}")
            logarithms = {
                cell: np.log(column(runs, QUALITY) / column(shuffled[cell], QUALITY))
                for cell, runs in found.items()
            }
            for cell, values in logarithms.items():
                row = {"data": source, "split": split, "compressor": cell[1]}
                row |= equivalence(values)
                change = column(found[cell], "bits").mean()
                row["bits_ratio"] = (
                    f"{change / column(shuffled[cell], 'bits').mean():.3g}"
                )
                beyond = dict.fromkeys(("ratio", "low90", "high90", "verdict"), "")
                if cell[0] == "ec-sgd" and cell[1] != "none":
                    beyond = equivalence(values - logarithms[cell[0], "none"])
                row |= {f"beyond_{name}": value for name, value in beyond.items()}
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
            if compressor != "none" and run["status"] != "diverged"
        ]
        runs = distinct(runs)
        if runs:
            errors, quality = column(runs, "total_error"), column(runs, QUALITY)
            correlation, p = stats.spearmanr(errors, quality)
            print(
                f"{source}: rank correlation of total error and suboptimality over "
                f"{len(runs)} different runs: {correlation:.2f} (p = {p:.1g})"
            )


if __name__ == "__main__":
    main()
