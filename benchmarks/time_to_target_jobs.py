"""Writes a job's file for time_to_target.py: its network, data and order of examples.

    python benchmarks/time_to_target_jobs.py gpt PATH_TEXT OUT.npz --seed 1
    python benchmarks/time_to_target_jobs.py cnn PATH_DATA OUT.npz --seed 1
    python benchmarks/time_to_target_jobs.py linear PATH_DATA

"gpt": nanoGPT's network of characters for a CPU on one text (PATH_TEXT), 12 windows of
each worker. "cnn": Simple-CNN on Fashion-MNIST (in PATH_DATA/Fashion-MNIST), 32 images
of each worker; its validation split is the last 5,000 of the training images. "linear"
prints the error on that split of a linear model, which a target has to be well below.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import keras
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from time_to_target_data import Job, save, standardised  # noqa: E402

from tem_studies.workloads import architectures, character_files, data_files
from tem_studies.workloads.data_places import Source
from tem_studies.workloads.transformer import Transformer

BATCH = {"gpt": 12, "cnn": 32}  # Of each worker.
SIZES = {"context": 64, "layers": 4, "heads": 4, "features": 128}  # nanoGPT's.
TINY = {"context": 16, "layers": 1, "heads": 2, "features": 32}  # For rehearsals.
TINY_SHARE = 64  # One n-th of the validation split, likewise.
VALIDATION = 5000  # Images.
SHAPE = (28, 28, 1)


def gpt(path: str, seed: int, steps: int, workers: int, is_tiny: bool) -> Job:
    """The GPT."""
    data = character_files.load(Source("text", "files", path))
    sizes = {"characters": len(data.characters), **(TINY if is_tiny else SIZES)}
    context = sizes["context"]
    model = Transformer(*sizes.values(), seed=seed)
    places = len(data.train) - context
    # Every character but the first is predicted once: windows side by side.
    count = len(data.validation) - 1
    if is_tiny:
        count //= TINY_SHARE
    behind = np.arange(count + -count % context)
    last = np.minimum(behind, count - 1)
    inputs, targets, counts = (
        table.reshape(-1, context)
        for table in (
            data.validation[last],
            data.validation[last + 1],
            (behind < count).astype(np.float32),
        )
    )
    rows = _rows(seed, steps, places, workers * BATCH["gpt"])
    return _with_logits(
        Job(
            "gpt", sizes, _paths(model), model.get_weights(), rows,
            data.train, np.zeros(0, np.int32), inputs, targets, counts, np.zeros(0),
        ),
        model,
    )  # fmt: skip


def cnn(path: str, seed: int, steps: int, workers: int, is_tiny: bool) -> Job:
    """Simple-CNN."""
    images, labels, held_out, answers = _fashion(path)
    if is_tiny:
        held_out, answers = held_out[::TINY_SHARE], answers[::TINY_SHARE]
    model = architectures.build("simple-cnn", SHAPE, seed)
    rows = _rows(seed, steps, len(images), workers * BATCH["cnn"])
    counts = np.ones(len(held_out), np.float32)
    return _with_logits(
        Job(
            "cnn", {}, _paths(model), model.get_weights(), rows,
            images, labels, held_out, answers, counts, np.zeros(0),
        ),
        model,
    )  # fmt: skip


def linear_error(path: str) -> float:
    """Share of the validation split that logistic regression gets wrong.

    The least of 20 epochs with each of three rates, so that no better rate is missed
    by much.
    """
    images, labels, held_out, answers = _fashion(path)
    least = 1.0
    for rate in (1e-4, 3e-4, 1e-3):
        keras.utils.set_random_seed(0)
        layers = [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(10)]
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        history = model.fit(
            standardised(images),
            labels,
            batch_size=128,
            epochs=20,
            verbose=0,
            validation_data=(standardised(held_out), answers),
        ).history
        least = min(least, 1 - max(history["val_accuracy"]))
    return least


def _rows(seed: int, steps: int, examples: int, size: int) -> np.ndarray:
    """Of each step a draw of its own: whoever trains longer draws the same first."""
    return np.stack(
        [
            np.random.default_rng((seed, step)).integers(examples, size=size)
            for step in range(steps)
        ]
    ).astype(np.int32)


def _fashion(path: str) -> tuple[np.ndarray, ...]:
    (images, labels), _ = data_files.read_mnist(pathlib.Path(path, "Fashion-MNIST"))
    parts = images[:-VALIDATION], labels[:-VALIDATION]
    return *parts, images[-VALIDATION:], labels[-VALIDATION:]


def _paths(model: keras.Model) -> list[str]:
    return [variable.path for variable in model.weights]


def _with_logits(job: Job, model: keras.Model) -> Job:
    rows = job.of_worker(0, 0, len(job.rows[0]) // BATCH[job.name])
    inputs, _ = job.examples(rows)
    return job._replace(logits=np.asarray(model(inputs)))


def main() -> None:
    """Writes what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", choices=("gpt", "cnn", "linear"))
    parser.add_argument("path_data")
    parser.add_argument("out", nargs="?", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, help="rows to draw")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tiny", action="store_true", help="for rehearsals")
    arguments = parser.parse_args()
    if arguments.job == "linear":
        print(linear_error(arguments.path_data))
        return
    if arguments.out is None:
        parser.error("OUT is missing")
    make = gpt if arguments.job == "gpt" else cnn
    save(
        arguments.out,
        make(
            arguments.path_data,
            arguments.seed,
            arguments.steps,
            arguments.workers,
            arguments.tiny,
        ),
    )


if __name__ == "__main__":
    main()
