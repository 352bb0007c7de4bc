"""Runs the convex studies of README.md and writes their tables and figures here.

    python docs/studies/convex/run.py PATH_DATA [LOGS] [STUDY ...]

PATH_DATA holds Fashion-MNIST/, LOGS (default: runs/convex) receives the runs, STUDY
names those to run (default: all). A run that LOGS holds is not repeated, so that an
interrupted study goes on where it was. About half an hour on one core.

Every study is `python main.py --arch logistic-regression` with the flags that are
printed before it; all run in one process here to start TensorFlow once.
"""

import csv
import dataclasses
import pathlib
import shutil
import sys

import numpy as np
import tensorflow as tf
from sklearn.datasets import dump_svmlight_file, load_breast_cancer

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

from tem_tf.convex import study  # noqa: E402
from tem_tf.convex.configuration import ConvexConfiguration  # noqa: E402

SEEDS = 5
CONTROLS = ("topk_equal", "topk_replay", "topk_warmup")
# Thresholds come from one run of seed 100, which is not used again: the largest that
# left SGD's curve per epoch as it was.
THRESHOLDS = {"cancer": 0.1, "fashion": 0.03, "made-up": 5e-3}
ITERATIONS = {"cancer": 5000, "fashion": 6000, "made-up": 3000}
SPLITS = {
    "shuffled": {"split": "shuffled"},
    "dirichlet-1": {"split": "dirichlet", "dirichlet_alpha": 1.0},
    "dirichlet-0.1": {"split": "dirichlet", "dirichlet_alpha": 0.1},
    "sorted": {"split": "sorted"},
}
_SWEEP = {
    "compressors": ("none", "hard_threshold", "topk", "random_k"),
    "sweep": (
        "threshold=0.01,0.03,0.1,0.2,0.4,0.8",
        "density=0.002,0.005,0.01,0.03,0.1",
    ),
    "goal_suboptimality": 0.05,
    "check_interval": 20,
}
WORKERS = (1, 2, 4, 8, 16)
_SPEED_UP_SPLITS = ("shuffled",)
STEP_SIZES = (0.5, 1.0, 2.0)


def cancer_file(logs: pathlib.Path) -> str:
    """A LIBSVM file of scikit-learn's 569 × 30 breast-cancer data, standardised."""
    path = logs / "breast_cancer.libsvm"
    if not path.exists():
        features, labels = load_breast_cancer(return_X_y=True)
        features = (features - features.mean(axis=0)) / features.std(axis=0)
        logs.mkdir(parents=True, exist_ok=True)
        dump_svmlight_file(features, 2 * labels - 1, str(path), zero_based=False)
    return str(path)


def configurations(path_data: str, logs: pathlib.Path) -> dict[str, dict]:
    """The settings of every study by its name, in the order in which they run."""
    sources = {
        "cancer": {"datasource": cancer_file(logs)},
        "fashion": {"datasource": "fashion-mnist", "path_data": path_data},
        "made-up": {"datasource": "made-up"},
    }
    studies = {}
    for source in ("cancer", "fashion"):
        for split, flags in SPLITS.items():
            studies[f"{source}-{split}"] = {
                **sources[source],
                **flags,
                "compressors": ("none", "hard_threshold", *CONTROLS),
                "threshold": THRESHOLDS[source],
                "train_iterations": ITERATIONS[source],
                "check_interval": 20,
            }
    for split in ("shuffled", "sorted"):
        studies[f"fashion-{split}-ef21"] = {
            **sources["fashion"],
            **SPLITS[split],
            "methods": ("ec-sgd", "ef21-sgdm"),
            "compressors": ("hard_threshold", "topk_equal"),
            "threshold": THRESHOLDS["fashion"],
            "train_iterations": ITERATIONS["fashion"],
            "check_interval": 20,
        }
    studies["cancer-sweep"] = {
        **sources["cancer"],
        **_SWEEP,
        "train_iterations": ITERATIONS["cancer"],
    }
    studies["cancer-methods"] = {
        **sources["cancer"],
        "methods": (
            "ec-sgd",
            "ec-gd",
            "ec-gd-star",
            "ec-gd-diana",
            "ec-lsvrg",
            "ec-lsvrg-diana",
        ),
        "compressors": ("hard_threshold", "topk_equal"),
        "threshold": 1e-3,
        "train_iterations": 20_000,
        "check_interval": 100,
    }
    # Three seeds: a run takes a minute where Top-k selects thousands of entries.
    studies["made-up-shuffled"] = {
        **sources["made-up"],
        "compressors": ("none", "hard_threshold", "topk_equal", "topk_replay"),
        "threshold": THRESHOLDS["made-up"],
        "train_iterations": ITERATIONS["made-up"],
        "seeds": 3,
    }
    studies["fashion-sweep"] = {
        **sources["fashion"],
        **_SWEEP,
        "train_iterations": ITERATIONS["fashion"],
    }
    return studies


def speed_up(path_data: str, logs: pathlib.Path, source: str) -> None:
    """Iterations to a goal for 1 to 16 workers, each with its best step size."""
    is_fashion = source == "fashion"
    settings = {
        "datasource": "fashion-mnist" if is_fashion else cancer_file(logs),
        "path_data": path_data,
        "compressors": ("none", "hard_threshold", "topk"),
        "density": 0.01 if is_fashion else 0.03,
        "goal_suboptimality": 0.01,
        "check_interval": 20,
        "train_iterations": ITERATIONS[source],
        "seeds": SEEDS,
        "threads": 1,
    }
    directory = logs / f"speed-up-{source}"
    rows = []
    for split in _SPEED_UP_SPLITS:
        for workers in WORKERS:
            for step_size in STEP_SIZES:
                configuration = ConvexConfiguration(
                    **settings,
                    split=split,
                    workers=workers,
                    step_size=step_size,
                    # λ is in units of the step size times a gradient.
                    threshold=THRESHOLDS[source] * step_size,
                    logdir=str(directory / f"{split}-{workers}-{step_size}"),
                )
                for row in study.run(configuration, lambda line: None)["rows"]:
                    cell = {"split": split, "workers": workers, "step_size": step_size}
                    rows.append({**cell, **row})
            print(f"speed-up {source}: {split}, {workers} workers", flush=True)
    write_speed_up(rows, source)


def write_speed_up(rows: list[dict], source: str) -> None:
    """One line per split, compressor and number of workers, and the slope of each.

    A step size counts if all seeds reach the goal; the best has the fewest iterations
    in the mean. The slope is that of log(iterations) in log(workers), one fit per seed.
    """
    lines = []
    for split in _SPEED_UP_SPLITS:
        for compressor in ("none", "hard_threshold", "topk"):
            best = {}
            for workers in WORKERS:
                for step_size in STEP_SIZES:
                    steps = [
                        row["step_to_goal"]
                        for row in rows
                        if row["split"] == split
                        and row["compressor"] == compressor
                        and row["workers"] == workers
                        and row["step_size"] == step_size
                    ]
                    if len(steps) == SEEDS and "" not in steps:
                        mean = float(np.mean(steps))
                        if workers not in best or mean < best[workers][0]:
                            best[workers] = (mean, step_size, steps)
            common = {"split": split, "compressor": compressor}
            for workers, (mean, step_size, steps) in best.items():
                lines.append(
                    {
                        **common,
                        "workers": workers,
                        "step_size": step_size,
                        "iterations": mean,
                        "least": min(steps),
                        "greatest": max(steps),
                        "slope": "",
                    }
                )
            if len(best) > 1:
                logs_of_workers = np.log(list(best))
                steps = np.log([steps for _, _, steps in best.values()])
                slopes = np.polyfit(logs_of_workers, steps, 1)[0]
                lines[-1]["slope"] = (
                    f"{slopes.mean():.2f} ({slopes.min():.2f} to {slopes.max():.2f})"
                )
    with (HERE / f"speed-up-{source}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def command_line(configuration: ConvexConfiguration) -> str:
    """The same study as a command."""
    words = ["python main.py --arch logistic-regression"]
    for field in dataclasses.fields(configuration):
        value = getattr(configuration, field.name)
        if value == field.default:
            continue
        if field.name == "sweep":
            words += [f"--sweep {text}" for text in value]
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        words.append(f"--{field.name} {text}")
    return " ".join(words)


def main() -> None:
    """Runs what has no result yet and copies tables and figures."""
    path_data = sys.argv[1]
    logs = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "runs/convex").resolve()
    chosen = sys.argv[3:]
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for name, settings in configurations(path_data, logs).items():
        if chosen and name not in chosen:
            continue
        settings = {"seeds": SEEDS, "threads": 1, **settings}
        configuration = ConvexConfiguration(**settings, logdir=str(logs / name))
        print(f"== {name}\n{command_line(configuration)}", flush=True)
        study.run(configuration, lambda line: print(line, flush=True))
        shutil.copyfile(logs / name / "summary.csv", HERE / f"{name}.csv")
        figure = "trade_off.png" if configuration.sweep else "curves.png"
        shutil.copyfile(logs / name / figure, HERE / f"{name}.png")
    for source in ("cancer",):
        if not chosen or f"speed-up-{source}" in chosen:
            speed_up(path_data, logs, source)


if __name__ == "__main__":
    main()
