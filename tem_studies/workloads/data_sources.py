"""Data sources of images: how they are split, standardised and ordered.

Split and order are the DPS study's (arXiv 2003.11316, its authors' code): numpy's
RandomState(0) shuffles the training examples, the first tenth becomes the validation
split, and the same generator goes on to shuffle the pruning epoch and then every
training epoch.
"""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np

from tem_studies.missing_packages import importing
from tem_studies.refusal import Refusal
from tem_studies.workloads import data_files, own_data, prepared_data
from tem_studies.workloads.data_places import Source
from tem_studies.workloads.workload_settings import NPZ

_READERS = {
    "mnist": data_files.read_mnist,
    "fashion-mnist": data_files.read_mnist,
    "cifar-10": data_files.read_cifar10,
    "cifar-100": data_files.read_cifar100,
}
_SHAPES = {
    "digits": (28, 28, 1),
    "mnist": (28, 28, 1),
    "fashion-mnist": (28, 28, 1),
    "cifar-10": (32, 32, 3),
    "cifar-100": (32, 32, 3),
}
_CLASSES = {"cifar-100": 100}  # The others have 10.
VALIDATION_SHARE = 0.1
# scikit-learn's digits come without a test part: the last 297 of 1,797 images serve as
# one. They are in the order of their writers, so some test writers are new.
_DIGITS_TEST = 297


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and labels: uint8 (n, height, width, channels), int32 (n,).

    Of a user's own data `images` may be float32 (n, ...).
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> Split:
        """The first examples, or all of them if `count` is None."""
        return Split(self.images[:count], self.labels[:count])


@dataclasses.dataclass(frozen=True)
class Data:
    """A data source ready for training.

    Attributes:
        train, validation, test: The three splits, as bytes. A batch is standardised
            when it is used: (pixel - mean) / deviation.
        mean, deviation: float32 (channels,), over train and validation, or over train
            where a user's own validation split is beside it; 0 and 1 of a user's own
            numbers.
        place: Where the data came from.
        classes: Number of classes.
    """

    train: Split
    validation: Split
    test: Split
    mean: np.ndarray
    deviation: np.ndarray
    place: str
    classes: int = data_files.CLASSES

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of an image."""
        return self.train.images.shape[1:]

    def epochs(self, seed: int) -> np.random.RandomState:
        """A new generator that shuffles the pruning and then the training epochs.

        With seed 0 the generator that made the split goes on, as in the authors' code;
        with another RandomState(seed) takes over, and the split stays what it is.
        """
        if seed:
            return np.random.RandomState(seed)
        generator = np.random.RandomState(0)
        generator.permutation(len(self.train) + len(self.validation))
        return generator

    def digest(self) -> int:
        """A checksum (CRC-32) of all examples in their order, to compare workers."""
        checksum = 0
        for split in (self.train, self.validation, self.test):
            for array in (split.images, split.labels):
                checksum = zlib.crc32(np.ascontiguousarray(array), checksum)
        return checksum


def load(source: Source) -> Data:
    """Reads, checks, splits and measures a data source.

    The split is the same for every run, whatever its seed, so that all are validated on
    the same examples.

    Args:
        source: What `data_places.locate` returned.

    Raises:
        Refusal: a file is missing or wrong, naming it.
    """
    if source.datasource == NPZ:
        parts, classes = own_data.read(Path(source.place))
        splits = {name: Split(*part) for name, part in parts.items()}
        return split(place=source.place, classes=classes, **splits)
    if source.kind == "scikit-learn":
        train, test = _read_digits()
    elif source.kind == "files":
        train, test = _READERS[source.datasource](Path(source.place))
    else:
        prepared = Path(source.place)
        if source.kind == "download":
            prepared = prepared_data.download(source.datasource)
        train, test = prepared_data.read(prepared)
    classes = _CLASSES.get(source.datasource, data_files.CLASSES)
    for images, labels in (train, test):
        place = source.place
        data_files.check_labels(labels, len(images), place, place, classes)
        if images.shape[1:] != _SHAPES[source.datasource]:
            raise Refusal(
                f"Images of `datasource` {source.datasource} must have the shape "
                f"{_SHAPES[source.datasource]}. Received: {images.shape[1:]} in "
                f"{source.place}."
            )
    return split(Split(*train), Split(*test), source.place, classes)


def split(
    train: Split,
    test: Split,
    place: str,
    classes: int = data_files.CLASSES,
    validation: Split | None = None,
) -> Data:
    """Holds out the validation split; statistics are those before it is held out.

    Where there is a validation split nothing is held out.
    """
    if validation is not None:
        statistics = standardisation(train.images)
        return Data(train, validation, test, *statistics, place, classes)
    held_out = int(len(train) * VALIDATION_SHARE)
    if held_out < 1:
        raise Refusal(
            f"{place} must hold at least 10 training images, as a tenth of them is "
            f"held out. Received: {len(train)}."
        )
    mean, deviation = standardisation(train.images)
    # The same draws and the same order as the authors' shuffle(list(range(N))).
    order = np.random.RandomState(0).permutation(len(train))
    first, rest = order[:held_out], order[held_out:]
    return Data(
        train=Split(train.images[rest], train.labels[rest]),
        validation=Split(train.images[first], train.labels[first]),
        test=test,
        mean=mean,
        deviation=deviation,
        place=place,
        classes=classes,
    )


def standardisation(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel: float32 (channels,) each.

    From counts of the 256 values in float64, so exact to one rounding. Numbers that are
    no bytes stay what they are: 0 and 1, of the shape (1,).
    """
    if images.dtype != np.uint8:
        return np.zeros(1, np.float32), np.ones(1, np.float32)
    values = np.arange(256, dtype=np.float64)
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = (counts @ values) / counts.sum()
        variance = (counts @ (values - mean) ** 2) / counts.sum()
        if variance == 0:
            raise Refusal(
                "The training images must not all be of one colour. "
                f"Received: every pixel of channel {channel} is {mean:g}."
            )
        means.append(mean)
        deviations.append(np.sqrt(variance))
    return np.float32(means), np.float32(deviations)


def _read_digits() -> tuple[data_files.Arrays, data_files.Arrays]:
    """scikit-learn's 8×8 handwritten digits, 1,500 to train on and 297 to test.

    Values 0..16 become 0..255, the size 28×28 by bilinear interpolation (pixel centres
    aligned), rounded to bytes.
    """
    with importing():
        from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    rows = _interpolation(8, 28)
    large = rows @ (small.reshape(-1, 8, 8) * (255 / 16)) @ rows.T
    images = np.rint(large).astype(np.uint8)[..., np.newaxis]
    labels = labels.astype(np.int32)
    n = len(labels) - _DIGITS_TEST
    return (images[:n], labels[:n]), (images[n:], labels[n:])


def _interpolation(small: int, large: int) -> np.ndarray:
    """The (large, small) matrix of bilinear interpolation along one axis."""
    centres = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    lower = np.minimum(centres.astype(int), small - 2)
    matrix = np.zeros((large, small))
    matrix[np.arange(large), lower] = 1 - (centres - lower)
    matrix[np.arange(large), lower + 1] = centres - lower
    return matrix
