"""Runs the convex studies of README.md and writes their tables and figures here.

    python studies/convex/run.py PATH_DATA [LOGS] [STUDY ...]

PATH_DATA holds Fashion-MNIST/, LOGS (default: runs/convex) receives the runs, STUDY
names those to run (default: all). A run that LOGS holds is not repeated, so that an
interrupted study goes on where it was; studies of the same data share their runs.

Every study is `python main.py --arch logistic-regression` with the flags that are
printed before it; all run in one process here to start TensorFlow once.
"""

import dataclasses
import pathlib
import sys

import tensorflow as tf
from PIL import Image
from sklearn.datasets import dump_svmlight_file, load_breast_cancer

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tem_studies import written_files  # noqa: E402
from tem_studies.convex import study  # noqa: E402
from tem_studies.convex.configuration import METHODS, ConvexConfiguration  # noqa: E402

SEEDS = 5
CONTROLS = ("topk_equal", "topk_replay", "topk_warmup")
# Thresholds come from one run of seed 100, which is not used again: the largest that
# left SGD's curve per epoch as it was, of 0.02, 0.05, 0.1, 0.2 and 0.4 for made-up (the
# authors' λ for gisette, 5e-3, sends 38 % of all entries there).
THRESHOLDS = {"cancer": 0.1, "fashion": 0.03, "made-up": 0.4}
ITERATIONS = {"cancer": 5000, "fashion": 6000, "made-up": 3000}
SPLITS = {
    "shuffled": {"split": "shuffled"},
    "dirichlet-1": {"split": "dirichlet", "dirichlet_alpha": 1.0},
    "dirichlet-0.1": {"split": "dirichlet", "dirichlet_alpha": 0.1},
    "sorted": {"split": "sorted"},
}
SWEEPS = {
    "cancer": (
        "threshold=0.01,0.03,0.1,0.2,0.4,0.8",
        "density=0.002,0.005,0.01,0.03,0.1",
    ),
    "fashion": ("threshold=0.01,0.03,0.1,0.3", "density=0.003,0.01,0.03,0.1"),
}
COLOURS = 128  # Of the copies of figures here: a third of the size.


def cancer_file(logs: pathlib.Path) -> str:
    """A LIBSVM file of scikit-learn's 569 × 30 breast-cancer data, standardised."""
    path = logs / "breast_cancer.libsvm"
    if not path.exists():
        features, labels = load_breast_cancer(return_X_y=True)
        features = (features - features.mean(axis=0)) / features.std(axis=0)
        logs.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".partial-{path.name}")
        dump_svmlight_file(features, 2 * labels - 1, str(partial), zero_based=False)
        partial.replace(path)
    return str(path)


def configurations(path_data: str, logs: pathlib.Path) -> dict[str, dict]:
    """The settings of every study by its name, in the order in which they run."""
    sources = {
        "cancer": {"datasource": cancer_file(logs)},
        "fashion": {"datasource": "fashion-mnist", "path_data": path_data},
        "made-up": {"datasource": "made-up"},
    }
    for source, settings in sources.items():
        settings["logdir"] = str(logs / source)
        settings["train_iterations"] = ITERATIONS[source]
        settings["threshold"] = THRESHOLDS[source]
        settings["check_interval"] = 20
    studies = {}
    for source in sources:
        for split, flags in SPLITS.items():
            # A run of the larger data with Top-k takes ten seconds: no dense warm-up
            # there but on the shuffled split.
            short = source != "cancer" and split != "shuffled"
            controls = CONTROLS[:2] if short else CONTROLS
            studies[f"{source}-{split}"] = {
                **sources[source],
                **flags,
                "compressors": ("none", "hard_threshold", *controls),
            }
    # Full local gradients, started near x*: what is left is the compression's.
    for split, flags in SPLITS.items():
        studies[f"cancer-gd-{split}"] = {
            **sources["cancer"],
            **flags,
            "methods": ("ec-gd",),
            "compressors": ("none", "hard_threshold", "topk", *CONTROLS[:2]),
            "k": 1,
            "start_offset": 0.01,
        }
    for split in ("shuffled", "sorted"):
        studies[f"fashion-{split}-ef21"] = {
            **sources["fashion"],
            **SPLITS[split],
            "methods": ("ec-sgd", "ef21-sgdm"),
            "compressors": ("hard_threshold", "topk_equal"),
        }
    studies["cancer-methods"] = {
        **sources["cancer"],
        "methods": METHODS,
        "compressors": ("hard_threshold", "topk_equal"),
        "threshold": 1e-3,
        "start_offset": 0.01,
        "train_iterations": 10_000,
        "check_interval": 100,
    }
    studies["cancer-star"] = {
        **sources["cancer"],
        "methods": ("ec-gd-star",),
        "compressors": ("hard_threshold", "topk", *CONTROLS[:2]),
        "k": 1,
        "threshold": 1e-6,
        "start_offset": 0.01,
        "train_iterations": 60_000,
        "check_interval": 300,
    }
    for source, sweep in SWEEPS.items():
        studies[f"{source}-sweep"] = {
            **sources[source],
            "compressors": ("none", "hard_threshold", "topk", "random_k"),
            "sweep": sweep,
            "threshold": None,
            "goal_suboptimality": 0.05,
        }
    return studies


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


def copy_figure(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a PNG with fewer colours."""
    with Image.open(source) as picture:
        rgb = picture.convert("RGB")
        small = rgb.quantize(COLOURS, dither=Image.Dither.NONE)
    with written_files.opened(target, "wb") as file:
        small.save(file, format="PNG", optimize=True)


def main() -> None:
    """Runs what has no result yet and copies tables and figures."""
    path_data = sys.argv[1]
    logs = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "runs/convex").resolve()
    chosen = sys.argv[3:]
    studies = configurations(path_data, logs)
    if not set(chosen) <= set(studies):
        sys.exit(f"STUDY must be among {', '.join(studies)}. Received: {chosen}.")
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for name in chosen or studies:
        configuration = ConvexConfiguration(seeds=SEEDS, threads=1, **studies[name])
        print(f"== {name}\n{command_line(configuration)}", flush=True)
        study.run(configuration, lambda line: print(line, flush=True))
        # Of runs that share a directory, these are the last one's.
        logdir = pathlib.Path(configuration.logdir)
        summary = (logdir / "summary.csv").read_bytes()
        written_files.write_bytes(HERE / f"{name}.csv", summary)
        figure = "trade_off.png" if configuration.sweep else "curves.png"
        copy_figure(logdir / figure, HERE / f"{name}.png")


if __name__ == "__main__":
    main()
