"""Data sets through tensorflow-datasets: one prepared before, or a bounded download.

A machine without network is told so within seconds: before any download is started,
one small request with a time limit asks whether the data's own server answers.

This file imports neither TensorFlow nor numpy: see data_places.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tem_studies.missing_packages import importing
from tem_studies.refusal import Refusal, refusing, writing
from tem_studies.written_files import make_directory

if TYPE_CHECKING:
    import numpy as np

# data source -> (name in tensorflow-datasets, an address that its download needs).
# Addresses as in tensorflow_datasets 4.9: image_classification/mnist.py, cifar.py.
CATALOGUE = {
    "mnist": (
        "mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
    ),
    "fashion-mnist": (
        "fashion_mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
        "train-labels-idx1-ubyte.gz",
    ),
    "cifar-10": (
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    ),
    "cifar-100": (
        "cifar100",
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    ),
    "movielens-20m": (
        "movielens/20m-ratings",
        "https://files.grouplens.org/datasets/movielens/ml-20m.zip",
    ),
    "movielens-1m": (
        "movielens/1m-ratings",
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    ),
    "movielens-small": (
        "movielens/latest-small-ratings",
        "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
    ),
}

# Our choice: a server that answers at all answers a HEAD request within this time, and
# the whole command still ends well within 20 seconds where there is no network.
REACHABLE_SECONDS = 6.0


def directory() -> Path:
    """Where tensorflow-datasets keeps its data: TFDS_DATA_DIR or its default."""
    default = Path("~/tensorflow_datasets")
    return Path(os.environ.get("TFDS_DATA_DIR") or default).expanduser()


def find_prepared(datasource: str) -> Path | None:
    """Returns the newest prepared version's directory, or None if there is none."""
    name, _ = CATALOGUE[datasource]
    versions = [
        path.parent
        for path in (directory() / name).glob("*/dataset_info.json")
        if _version(path.parent.name)
    ]
    return max(versions, key=lambda path: _version(path.name), default=None)


def is_reachable(datasource: str, seconds: float = REACHABLE_SECONDS) -> bool:
    """Whether the data set's server answers within `seconds`.

    In a thread of its own, as looking up a host name has no time limit.
    """
    import urllib.error
    import urllib.request

    _, address = CATALOGUE[datasource]
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                answers.append(response.status < 400)
        except (urllib.error.URLError, OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers and answers[0])


def download(datasource: str) -> Path:
    """Downloads and prepares a data set; returns the prepared version's directory.

    Several processes of one machine may call it at once: one downloads, the others
    wait and find it done.
    """
    with importing():
        import tensorflow_datasets as tfds

    name, _ = CATALOGUE[datasource]
    make_directory(directory())
    with (
        _Lock(directory() / f".{name.replace('/', '-')}.lock"),
        # Theirs, and the network's and the disk's.
        refusing(ValueError, OSError, ImportError),
    ):
        builder = tfds.builder(name, data_dir=str(directory()))
        builder.download_and_prepare()
    return Path(builder.data_dir)


def read(prepared: Path) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Reads a prepared directory of images, without a download.

    Returns:
        (images, labels) of the training and of the test part: uint8 (n, h, w, c) and
        int32 (n,).

    Raises:
        Refusal: it cannot be read, or has no "train" and "test" of images.
    """

    def take(part: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return part["image"], part["label"].astype("int32")

    return _parts(prepared, "train", take), _parts(prepared, "test", take)


def read_ratings(prepared: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads a prepared directory of MovieLens ratings.

    Returns:
        Users, items and times: int64 (n,) each.

    Raises:
        Refusal: it cannot be read, or holds no ratings.
    """

    def take(part: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        names = ("user_id", "movie_id", "timestamp")
        return tuple(part[name].astype("int64") for name in names)

    return _parts(prepared, "train", take)


def _parts(prepared: Path, split: str, take: Callable[[Any], Any]) -> Any:
    with importing():
        import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(prepared))
        return take(tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1)))
    except Exception as error:  # tensorflow-datasets raises many kinds
        raise Refusal(
            f"{prepared} is no data set that tensorflow-datasets can read: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}."
        ) from error


def _version(name: str) -> tuple[int, ...]:
    """(3, 0, 1) for "3.0.1"; empty if it is no version."""
    numbers = name.split(".")
    if all(number.isdecimal() for number in numbers):
        return tuple(int(number) for number in numbers)
    return ()


class _Lock:
    """A lock file that only one process of a machine holds at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        with writing(self._path):
            self._file = self._path.open("w")
        try:
            import fcntl
        except ImportError:  # Windows: no lock, as before
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
