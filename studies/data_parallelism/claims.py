"""What the finished cells of the study say of its claims, as text.

    python studies/data_parallelism/claims.py STUDIES > claims.txt

K* is the least of 20 trials of one seed and so optimistic. Claims are judged by the
winner's reruns instead: the median over seeds 11 to 15, with 95 % intervals from a
bootstrap over these seeds. For one median of five this is the range of the five, which
holds the true median in 94 % of cases. STUDIES is the directory that run.py was given.
"""

import itertools
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import least_squares

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tem_studies.data_parallelism import report
from tem_studies.data_parallelism.directory import STUDY_NAME, StudyDirectory

DRAWS = 2000
# Steps to the result by seed, for each batch size.
Reruns = dict[int, np.ndarray]


def reruns(directory: pathlib.Path) -> dict[str, Reruns]:
    """By series ("s0", "s0.9"), of one study; tells what is left out or censored.

    A seed that did not reach the goal has infinitely many steps.
    """
    found: dict[str, Reruns] = {}
    if not list(directory.glob(f"*/{STUDY_NAME}")):
        return found
    for series in report.read([directory]):
        for study in series.studies:
            cell, title = study.cell, f"{directory.name}/{study.path.name}"
            if len(cell.rerun_steps) != 5:
                print(f"{title}: left out, {len(cell.rerun_steps)} of 5 reruns")
                continue
            if cell.censored:
                print(f"{title}: taken, though its K* is censored ({cell.censored})")
            name, batch = study.path.name.split("-b")
            found.setdefault(name, {})[int(batch)] = np.array(cell.rerun_steps)
    return found


def trend(batches: Sequence[int], steps: np.ndarray) -> np.ndarray:
    """c1, c2 of K* = c1 / B + c2 with the least squares in log K*; nan with inf."""
    inverse = 1 / np.asarray(batches, float)
    if not np.isfinite(steps).all():
        return np.full(2, np.nan)

    def residuals(logs: np.ndarray) -> np.ndarray:
        return np.logaddexp(logs[0] + np.log(inverse), logs[1]) - np.log(steps)

    start = np.log([np.max(steps / inverse), np.min(steps)])
    return np.exp(least_squares(residuals, start, bounds=(start - 15, start + 5)).x)


def drawn(steps: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Medians of seeds drawn with replacement, `DRAWS` of them."""
    return np.median(generator.choice(steps, (DRAWS, len(steps))), axis=1)


def told(value: float, draws: np.ndarray) -> str:
    """A number with its 95 % interval, of the draws in which it is defined."""
    draws = draws[~np.isnan(draws)]
    if not draws.size:
        return f"{value:.4g} (no interval)"
    low = np.quantile(draws, 0.025, method="lower")
    high = np.quantile(draws, 0.975, method="higher")
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


def medians(cells: Reruns) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Batch sizes, medians, and drawn medians (draws x batch sizes)."""
    generator = np.random.default_rng(0)
    batches = sorted(cells)
    draws = np.transpose([drawn(cells[b], generator) for b in batches])
    return batches, np.array([np.median(cells[b]) for b in batches]), draws


def tell_trend(cells: Reruns) -> None:
    """The trend of one series, where it bends, and its slopes."""
    batches, steps, draws = medians(cells)
    for batch, value, column in zip(batches, steps, draws.T, strict=True):
        seeds = " ".join(f"{k:g}" for k in sorted(cells[batch]))
        print(f"  B {batch:>5}: {told(value, column)}   ({seeds})")
    for (i, low), (j, high) in itertools.pairwise(enumerate(batches)):

        def slope(k: np.ndarray, i=i, j=j, ratio=high / low) -> np.ndarray:
            return np.log(k[..., j] / k[..., i]) / np.log(ratio)

        print(f"  slope {low} to {high}: {told(float(slope(steps)), slope(draws))}")
    if len(batches) < 3:
        return
    c1, c2 = trend(batches, steps)
    fits = np.array([trend(batches, one) for one in draws[:400]])
    fitted = np.log(c1 / np.array(batches) + c2)
    spread = np.sum((np.log(steps) - np.log(steps).mean()) ** 2)
    r_squared = 1 - np.sum((np.log(steps) - fitted) ** 2) / spread
    print(f"  c1 {told(c1, fits[:, 0])}, c2 {told(c2, fits[:, 1])}, R2 {r_squared:.3f}")
    print(f"  half-way c1/c2: B = {told(c1 / c2, fits[:, 0] / fits[:, 1])}")


def tell_ratio(title: str, above: Reruns, below: Reruns) -> None:
    """How many times the steps, at each batch size, and of the half-way points.

    Seeds are paired: `medians` draws the same ones in both.
    """
    shared = sorted(above.keys() & below.keys())
    if not shared:
        return
    print(title)
    _, top, top_draws = medians({b: above[b] for b in shared})
    _, bottom, bottom_draws = medians({b: below[b] for b in shared})
    for i, batch in enumerate(shared):
        ratio = told(top[i] / bottom[i], top_draws[:, i] / bottom_draws[:, i])
        print(f"  B {batch:>5}: {ratio}")
    if len(shared) < 3:
        return

    def half_way(steps: np.ndarray) -> float:
        c1, c2 = trend(shared, steps)
        return c1 / c2

    ratios = [
        half_way(a) / half_way(b)
        for a, b in zip(top_draws[:400], bottom_draws[:400], strict=True)
    ]
    ratio = half_way(top) / half_way(bottom)
    print(f"  half-way point: {told(ratio, np.array(ratios))} times that")


# ------------------------------------------------------------- density of the gradient


def predictor(names: list[str], common_c1: bool, common_c2: bool) -> tuple:
    """Number of parameters, and (logs, series index, batch) -> log K*."""
    ones = 1 if common_c1 else len(names)
    count = ones + (1 if common_c2 else len(names))

    def predict(logs: np.ndarray, index: np.ndarray, batch: np.ndarray) -> np.ndarray:
        c1 = logs[np.where(common_c1, 0, index)]
        c2 = logs[ones + np.where(common_c2, 0, index)]
        return np.logaddexp(c1 - np.log(batch), c2)

    return count, predict


def tell_densities(series: dict[str, Reruns]) -> None:
    """Nested models of K*(B, density), by what they predict of a cell left out."""
    names = list(series)
    rows = [(i, b, k) for i, n in enumerate(names) for b in series[n] for k in
            series[n][b]]  # fmt: skip
    late = sum(not np.isfinite(k) for _, _, k in rows)
    if late:  # The models are of log K*.
        print(f"  without {late} of {len(rows)} reruns, which did not reach the goal")
        rows = [row for row in rows if np.isfinite(row[2])]
    index, batch, steps = (np.array(column) for column in zip(*rows, strict=True))
    cells = sorted({(i, b) for i, b, _ in rows})
    print(f"K*(B, density): {len(cells)} cells of {', '.join(names)}")
    for title, *common in (
        ("c1 and c2 common to all densities", True, True),
        ("c1 common, c2 by density", True, False),
        ("c1 by density, c2 common", False, True),
        ("c1 and c2 by density", False, False),
    ):
        count, predict = predictor(names, *common)

        def fitted(chosen: np.ndarray, count=count, predict=predict) -> Callable:
            def residuals(logs: np.ndarray) -> np.ndarray:
                here = predict(logs, index[chosen], batch[chosen])
                return here - np.log(steps[chosen])

            logs = least_squares(residuals, np.full(count, 6.0)).x
            return lambda i, b: predict(logs, i, b)

        everything = np.ones(len(rows), bool)
        inside = fitted(everything)(index, batch) - np.log(steps)
        outside = []
        for cell in cells:
            left_out = (index == cell[0]) & (batch == cell[1])
            model = fitted(~left_out)
            outside.append(model(index, batch)[left_out] - np.log(steps[left_out]))
        print(
            f"  {title} ({count} parameters): root mean square of log K*, "
            f"inside {np.sqrt(np.mean(inside**2)):.3f}, "
            f"cell left out {np.sqrt(np.mean(np.concatenate(outside) ** 2)):.3f}"
        )


# ------------------------------------------------------------------------ smoothness


def tell_smoothness(directory: pathlib.Path) -> None:
    """Median and range of L over the steps at which it was measured."""
    for path in sorted(directory.glob(f"*/{STUDY_NAME}")):
        result = StudyDirectory(path.parent).results().get("run-0")
        if result is None:
            continue
        values = [one["lipschitz"] for one in result["lipschitz"]["history"]]
        error = 1 - result["history"][-1]["validation_accuracy"]
        print(
            f"smoothness, {path.parent.name}: median of {len(values)} measurements "
            f"{np.median(values):.4g} ({min(values):.4g} to {max(values):.4g}), "
            f"validation error at the end {error:.4f}"
        )


def main() -> None:
    """Tells all that is there."""
    place = pathlib.Path(sys.argv[1])
    found = {name: reruns(place / name) for name in ("sgd", "momentum")}
    for study, series in found.items():
        for name, cells in sorted(series.items()):
            print(f"{study}, sparsity {name[1:]}: median of the winner's reruns")
            tell_trend(cells)
    for study, series in found.items():
        if {"s0", "s0.9"} <= series.keys():
            tell_ratio(f"{study}: sparse / dense", series["s0.9"], series["s0"])
    for name in ("s0", "s0.9"):
        if all(name in series for series in found.values()):
            title = f"sparsity {name[1:]}: momentum / SGD"
            tell_ratio(title, found["momentum"][name], found["sgd"][name])
    densities = {"1": found["sgd"].get("s0", {})}
    for density in ("0.1", "0.01"):
        cells = reruns(place / f"topk-{density}").get("s0", {})
        if cells:
            densities[density] = cells
    if len(densities) > 1:
        shared = set.intersection(*(set(cells) for cells in densities.values()))
        for density in list(densities)[1:]:
            title = f"density {density} / density 1"
            tell_ratio(title, densities[density], densities["1"])
        if len(shared) > 2:  # Without one of them, two parameters need two others.
            tell_densities(
                {n: {b: c[b] for b in sorted(shared)} for n, c in densities.items()}
            )
    tell_smoothness(place / "smoothness")


if __name__ == "__main__":
    main()
