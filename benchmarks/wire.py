r"""Size and speed of the wire format.

    python benchmarks/wire.py [--data FASHION_MNIST] [--json FILE] [--short]

Size: bits that an index takes, beside log2 C(n, k)/k, the least that a code can take
for a random set of k among n, and beside Elias-Fano; and bits of a whole entry, header
included. Indices are random ones, and those that whole-model Top-k with error feedback
picks from the gradients of an MLP and of the Simple-CNN of the DPS study, in training
on Fashion-MNIST (`--data` names the directory of its idx files, gzipped or not) or,
without it, on the digits that scikit-learn ships.

Speed: milliseconds of encoding and decoding, in TensorFlow's ops and in native ones
where they are built, beside selecting (`tf.where(|x| >= λ)` and gathering) and, where
it is built, native selection, which updates the residual too, in the same run, one
thread. What is compared alternates; medians of the ratios of a round.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras
import numpy as np
import tensorflow as tf

from tem_studies.written_files import write_text  # noqa: E402
from tem_tf import native, wire
from tem_tf.native import ops
from tem_tf.sparse_gradient import SparseGradient
from tem_tf.wire import VALUE_DTYPES

SIZE = 11_173_962  # Entries of ResNet-18's gradient.
DENSITIES = (0.001, 0.01)
BATCH = 100
STEPS_BETWEEN = 10  # From one measured gradient to the next.


# ------------------------------------------------------------------------------- size


def least_bits(size: int, count: int) -> float:
    """log2 C(n, k) / k."""
    ways = math.lgamma(size + 1) - math.lgamma(count + 1)
    return (ways - math.lgamma(size - count + 1)) / math.log(2) / count


def elias_fano_bits(indices: np.ndarray, size: int) -> float:
    """Bits per index of Elias-Fano with its usual number of low bits."""
    count = len(indices)
    low_bits = max(0, math.floor(math.log2(size / count)))
    return low_bits + 1 + (int(indices[-1]) >> low_bits) / count


def sizes_of(indices: np.ndarray, size: int) -> dict[str, float]:
    """Bits per index and per entry of one message."""
    count = len(indices)
    message = SparseGradient(tf.ones([count]), tf.constant(indices, tf.int32), size)

    def words(value_dtype: str) -> int:
        payload = wire.encode(message, tf.zeros([0]), tf.constant(0), value_dtype)
        return payload.shape[0]

    index_words = words("float32") - wire.HEADER_WORDS - count
    index_bits = 32 * index_words / count
    least = least_bits(size, count)
    return {
        "entries": count,
        "index_bits": index_bits,
        "least_index_bits": least,
        "above_least": index_bits / least - 1,
        "elias_fano_bits": elias_fano_bits(indices, size),
        **{f"entry_bits_{x}": 32 * words(x) / count for x in VALUE_DTYPES},
    }


def summary_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Medians, and the worst of what is bounded."""
    result = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return {**result, "worst_above_least": max(row["above_least"] for row in rows)}


def random_indices(density: float, generator: np.random.Generator) -> np.ndarray:
    """k distinct indices of `SIZE`, ascending."""
    count = int(density * SIZE)
    return np.sort(generator.choice(SIZE, count, replace=False))


# --------------------------------------------------------------------- real gradients


def read_idx(directory: pathlib.Path, name: str) -> np.ndarray:
    """An array of bytes from an idx file, gzipped or not."""
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
            header = 4 + 4 * raw[3]
            shape = np.frombuffer(raw[4:header], ">i4")
            return np.frombuffer(raw[header:], np.uint8).reshape(shape)
    raise SystemExit(f"--data must have {name} or {name}.gz. Received: {directory}")


def load(directory: pathlib.Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Images (examples, 28 or 8, same, 1), standardised, and labels."""
    if directory is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = digits.images, digits.target
    else:
        images = read_idx(directory, "train-images-idx3-ubyte")
        labels = read_idx(directory, "train-labels-idx1-ubyte")
    images = images.astype(np.float32)[..., np.newaxis]
    return (images - images.mean()) / images.std(), labels.astype(np.int64)


def make_models(shape: tuple[int, ...]) -> Iterator[tuple[str, keras.Model]]:
    """An MLP of about 2 M parameters, and Simple-CNN where the images allow it."""
    layers = keras.layers
    dense = [layers.Dense(1024, activation="relu") for _ in range(2)]
    parts = [keras.Input(shape), layers.Flatten(), *dense, layers.Dense(10)]
    yield "MLP", keras.Sequential(parts)
    if shape[0] >= 28:
        stages = [
            layer
            for filters in (32, 64)
            for layer in (
                layers.Conv2D(filters, 5, activation="relu"),
                layers.MaxPooling2D(2),
            )
        ]
        ends = [layers.Flatten(), layers.Dense(10)]
        yield "Simple-CNN", keras.Sequential([keras.Input(shape), *stages, *ends])


def top_indices(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    density: float,
    rows: int,
) -> Iterator[tuple[np.ndarray, int]]:
    """Trains with error feedback; yields the indices of some steps, and n."""
    generator = np.random.default_rng(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    variables = model.trainable_variables
    shapes = [tuple(v.shape) for v in variables]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    size = int(ends[-1])
    count = max(1, int(density * size))

    @tf.function
    def gradient_of(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = tape.gradient(value, [v.value for v in variables])
        return tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)

    residual = np.zeros(size, np.float32)
    for step in range(1, rows * STEPS_BETWEEN + 1):
        batch = generator.integers(0, len(images), BATCH)
        corrected = residual + gradient_of(images[batch], labels[batch]).numpy()
        kept = np.sort(np.argpartition(-np.abs(corrected), count)[:count])
        sent = np.zeros_like(corrected)
        sent[kept] = corrected[kept]
        residual = corrected - sent
        for v, part, shape in zip(
            variables, np.split(sent, ends[:-1]), shapes, strict=True
        ):
            v.assign_sub(0.1 * part.reshape(shape))
        if step % STEPS_BETWEEN == 0:
            yield kept, size


# ------------------------------------------------------------------------------ speed


def milliseconds(function: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - began)


def speed(density: float, value_dtype: str, rounds: int, native: Any) -> dict[str, Any]:
    """Medians of selecting, encoding and decoding, and of their ratios."""
    vector = tf.random.stateless_normal([SIZE], seed=[0, 0])
    count = int(density * SIZE)
    threshold = tf.math.top_k(tf.abs(vector), count).values[-1]
    block, none = tf.zeros([0]), tf.constant(0)

    @tf.function
    def select() -> tuple[tf.Tensor, tf.Tensor]:
        message = SparseGradient.from_mask(vector, tf.abs(vector) >= threshold)
        return message.values, message.indices

    values, indices = select()

    message = SparseGradient(values, indices, SIZE)
    payload = wire.encode(message, block, none, value_dtype)

    def encoder(library: Any) -> Callable[[], tf.Tensor]:
        return tf.function(
            lambda: wire.encode(message, block, none, value_dtype, library=library)
        )

    def decoder(library: Any) -> Callable[[], tf.Tensor]:
        def decode() -> tf.Tensor:
            got = wire.decode(payload, SIZE, 0, value_dtype, library=library)
            return got.message.values

        return tf.function(decode)

    functions = {"select": select, "encode": encoder(None), "decode": decoder(None)}
    if native is not None:
        functions["encode_native"] = encoder(native)
        functions["decode_native"] = decoder(native)
        functions["select_native"] = native_selection(native, vector, threshold)
    taken = {name: [] for name in functions}
    for round_ in range(rounds + 2):
        for name, function in functions.items():
            taken[name].append(milliseconds(function))
        if round_ == 1:  # The first two trace and warm up.
            taken = {name: [] for name in functions}
    result = {f"{x}_milliseconds": statistics.median(t) for x, t in taken.items()}
    for selection in {"select", "select_native"} & set(functions):
        for name in set(functions) - {"select", "select_native"}:
            pairs = zip(taken[name], taken[selection], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            result[f"{name}_by_{selection}"] = ratio
    return {"entries": int(tf.size(values)), **dict(sorted(result.items()))}


def native_selection(
    library: Any, vector: tf.Tensor, threshold: tf.Tensor
) -> Callable[[], tf.Tensor]:
    """Selects as many entries at every call: the gradient's sign alternates.

    What is held back then goes up and down between 0 and the gradient.
    """
    residual, sign = tf.Variable(tf.zeros([SIZE])), itertools.cycle([1, -1])
    gradients = {1: vector, -1: -vector}

    @tf.function(autograph=False)
    def select(gradient: tf.Tensor) -> tf.Tensor:
        return ops.select_threshold(
            *(library, [gradient], [], ops.Kept([residual.handle]), threshold),
            zero_nonfinite=False,
        ).values

    return lambda: select(gradients[next(sign)])


# ------------------------------------------------------------------------------- main


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    info = pathlib.Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.machine(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }


def show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Prints a table, one row to a line of figures."""
    print(f"\n{title}")
    for name, row in rows.items():
        print(f"  {name}")
        for key, value in row.items():
            print(f"    {key:28} {value:>12,.4g}")


def main() -> None:
    """Measures, prints tables, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="directory of Fashion-MNIST")
    parser.add_argument("--json", type=pathlib.Path, help="file for the figures")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument(
        "--short", action="store_true", help="seconds, for a first look"
    )
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    rows = 1 if arguments.short else 5
    rounds = 3 if arguments.short else arguments.rounds

    sizes = {}
    generator = np.random.default_rng(0)
    for density in DENSITIES:
        found = [
            sizes_of(random_indices(density, generator), SIZE) for _ in range(rows)
        ]
        sizes[f"random, n = {SIZE:,}, density {density}"] = summary_of(found)
    images, labels = load(arguments.data)
    for density in DENSITIES:
        for name, model in make_models(images.shape[1:]):
            chosen = top_indices(model, images, labels, density, rows)
            found = [sizes_of(indices, size) for indices, size in chosen]
            title = f"{name}, n = {model.count_params():,}, density {density}"
            sizes[title] = summary_of(found)
    show("Size, in bits", sizes)

    library = native.library()
    dtypes = ("float16",) if arguments.short else VALUE_DTYPES
    speeds = {
        f"density {density}, {value_dtype}": speed(
            density, value_dtype, rounds, library
        )
        for density in DENSITIES
        for value_dtype in dtypes
    }
    show(f"Speed, n = {SIZE:,}, one thread, {rounds} rounds", speeds)
    result = {"machine": machine(), "size": sizes, "speed": speeds}
    print(f"\n{json.dumps(result['machine'])}")
    if arguments.json:
        write_text(arguments.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
