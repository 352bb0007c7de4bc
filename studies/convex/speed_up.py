"""Linear speed-up: iterations to a goal with 1 to 16 workers, and their slope.

    python studies/convex/speed_up.py [LOGS]

A method with linear speed-up needs 1/n of the iterations with n workers: the slope of
log(iterations) in log(n) is -1. That can only show where noise, not curvature, sets the
step size, so l2 is L/100 here (a condition of 100, not the authors' 10,000) and the
goal is low. The step size is tuned for each compressor and number of workers on a seed
of its own, on a grid of powers of two that goes on while the best is at an edge; then
five other seeds run with it. A goal is reached when the mean of f - f* over the last
`WINDOW` records is below it, since the first single record below it would be luck.

λ follows the step size, as it is in units of the step size times a gradient. The floor
that error feedback alone leaves is that of full gradients (ec-gd) with the same step
size and compressor; speed-up.csv has it beside the goal.

LOGS (default: runs/convex) keeps what was run; another call goes on.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tem_studies.convex import data, problem, simulation, splits  # noqa: E402
from tem_studies.convex.methods import METHODS  # noqa: E402
from tem_studies.workloads import study_files  # noqa: E402
from tem_studies.written_files import opened, write_table  # noqa: E402
from tem_tf import HardThreshold, Identity, TopK  # noqa: E402

WORKERS = (1, 2, 4, 8, 16)
EXAMPLES = 560  # Of 569: a multiple of all of them, so that all share one f.
GOAL = 1e-3  # f - f*; 0.55 at the start.
L2_FACTOR = 1e-2
THRESHOLD = 0.1  # At step size 1.
TUNING_SEED, SEEDS = 100, range(5)
# With one worker; n workers have 1/n of both, so that the mean lags by as much.
INTERVAL, LONGEST = 16, 640 * 16  # Iterations.
WINDOW = 20  # Records.
MOST_STEP_SIZES = 12  # A factor of 2,000 between the first and the last.
DRAWS = 10_000  # Bootstrap samples.


def compressors(step_size: float) -> dict:
    """What is compared."""
    return {
        "none": Identity(),
        "hard_threshold": HardThreshold(THRESHOLD * step_size),
        "topk": TopK(k=1),
    }


class Runs:
    """Iterations to the goal, each run once."""

    def __init__(self, logs: pathlib.Path) -> None:
        loaded = data.load("breast-cancer")
        kept = splits.kept(len(loaded.labels), EXAMPLES)
        self._labels, self._signed = loaded.labels[kept], loaded.signed[kept]
        self._minimum = problem.minimise(self._signed, logs, L2_FACTOR)
        self._file = logs / "speed-up.json"
        self._known = {}
        if self._file.exists():
            self._known = study_files.read_json(self._file, dict)

    def steps(self, name: str, workers: int, step_size: float, seed: int) -> float:
        """Iterations to the goal, inf if it is not reached."""
        longest = LONGEST // workers
        trace = self._run("ec-sgd", name, workers, step_size, seed, longest)
        return trace["steps"] or float("inf")

    def floor(self, name: str, workers: int, step_size: float) -> float:
        """f - f* that full gradients come to rest at."""
        longest = LONGEST // workers
        return self._run("ec-gd", name, workers, step_size, 0, longest)["end"]

    def _run(self, method, name, workers, step_size, seed, iterations) -> dict:
        key = f"{method} {name} {workers} {step_size:g} {seed} {iterations}"
        if key not in self._known:
            shares = splits.share(self._labels, workers, "shuffled", seed)
            trace = simulation.run(
                problem.share_out(self._signed, shares, self._minimum),
                METHODS[method],
                compressors(step_size)[name],
                start=np.zeros(self._signed.shape[1]),
                iterations=iterations,
                interval=INTERVAL // workers,
                step_size=step_size,
                seed=seed,
            )
            sums = np.cumsum(trace.suboptimality)
            means = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW
            reached = np.flatnonzero(means <= GOAL)
            steps = int(trace.step[WINDOW + reached[0]]) if len(reached) else None
            end = float(trace.suboptimality[-WINDOW:].mean())
            self._known[key] = {"steps": steps, "end": end}
            study_files.write_json(self._file, self._known)
        return self._known[key]


def tuned(runs: Runs, name: str, workers: int) -> float:
    """The step size with the fewest iterations on the tuning seed."""
    centre = np.log2(workers / 16)
    powers = [centre + i for i in (-2, -1, 0, 1, 2)]
    while True:
        found = [runs.steps(name, workers, 2.0**p, TUNING_SEED) for p in powers]
        best = int(np.argmin(found))
        if 0 < best < len(powers) - 1:
            return 2.0 ** powers[best]
        if len(powers) == MOST_STEP_SIZES:
            sys.exit(f"{name}, {workers} workers: the best step size is at the edge.")
        if best == 0:
            powers.insert(0, powers[0] - 1)
        else:
            powers.append(powers[-1] + 1)


def slope(steps: np.ndarray) -> tuple[float, float, float]:
    """Of log(iterations) in log(n), and its 95 % interval over seeds: (n, seeds)."""
    chosen = np.random.default_rng(0).integers(steps.shape[1], size=(DRAWS, len(SEEDS)))
    means = np.log(steps)[:, chosen].mean(axis=2)
    slopes = np.polyfit(np.log(WORKERS), means, 1)[0]
    mean = np.polyfit(np.log(WORKERS), np.log(steps).mean(axis=1), 1)[0]
    return mean, *np.percentile(slopes, [2.5, 97.5])


def main() -> None:
    """Runs what is missing; writes speed-up.csv and speed-up.png."""
    logs = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "runs/convex")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    runs, rows, lines = Runs(logs), [], {}
    for name in compressors(1.0):
        steps = []
        for workers in WORKERS:
            step_size = tuned(runs, name, workers)
            steps.append([runs.steps(name, workers, step_size, s) for s in SEEDS])
            rows.append(
                {
                    "compressor": name,
                    "workers": workers,
                    "step_size": step_size,
                    "iterations": np.mean(steps[-1]),
                    "least": min(steps[-1]),
                    "greatest": max(steps[-1]),
                    "floor": f"{runs.floor(name, workers, step_size):.2g}",
                    "goal": GOAL,
                }
            )
            print(*rows[-1].values(), flush=True)
        lines[name] = np.array(steps)
        print(name, "slope {:.3f} ({:.3f} to {:.3f})".format(*slope(lines[name])))
    write_table(HERE / "speed-up.csv", rows)
    draw(lines)


def draw(lines: dict[str, np.ndarray]) -> None:
    """Iterations against workers, from the least to the greatest of the seeds."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for i, (name, steps) in enumerate(lines.items()):
        label = name + ": slope {:.2f} ({:.2f} to {:.2f})".format(*slope(steps))
        style = {"color": f"C{i}", "linestyle": ("-", "--", ":")[i]}
        axis.plot(WORKERS, steps.mean(axis=1), marker="o", label=label, **style)
        axis.fill_between(
            WORKERS, steps.min(1), steps.max(1), color=f"C{i}", alpha=0.15
        )
    first = lines["none"][0].mean()
    ideal = first / np.array(WORKERS)
    axis.plot(WORKERS, ideal, color="grey", linewidth=0.8, label="slope -1")
    axis.set(
        xscale="log",
        yscale="log",
        xticks=WORKERS,
        xticklabels=WORKERS,
        xlabel="workers n",
        ylabel=f"iterations to f - f* = {GOAL:g}",
        title="breast-cancer, l2 = L/100, step size tuned for each point",
    )
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    with opened(HERE / "speed-up.png", "wb") as file:
        figure.savefig(file, format="png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
