"""Two-class data: LIBSVM files, what scikit-learn ships, Fashion-MNIST, and made-up.

A data set is float64 examples (m, d) and labels in {-1, 1}; the lesser of the two
labels of a file becomes -1.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tem_studies.convex.data_places import FASHION, MADE_UP, NAMES, locate
from tem_studies.missing_packages import importing
from tem_studies.refusal import Refusal
from tem_studies.workloads import data_files
from tem_studies.workloads.bounded_files import MAXIMAL_BYTES, read_bytes

# Of the made-up data: share of labels that are flipped. Our choice.
_FLIPPED = 0.05


class Data(NamedTuple):
    """Examples with their labels.

    Attributes:
        examples: float64 (m, d).
        labels: float64 (m,), -1 or 1.
        name: For titles; says so where the data is made up.
        place: Where it came from.
    """

    examples: np.ndarray
    labels: np.ndarray
    name: str
    place: str

    @property
    def signed(self) -> np.ndarray:
        """Rows y_j a_j: float64 (m, d)."""
        return self.labels[:, np.newaxis] * self.examples


def load(
    datasource: str,
    path_data: str | None = None,
    *,
    classes: tuple[int, ...] = (0, 6),
    size: tuple[int, ...] = (6000, 5000),
) -> Data:
    """Reads a data set by its name, or a LIBSVM file by its path.

    Args:
        datasource: One of `data_places.NAMES`, or the path of a file.
        path_data: Directory with the files of gisette, madelon and Fashion-MNIST.
        classes: Of fashion-mnist: the labels that become -1 and 1.
        size: Of made-up: examples and features.

    Raises:
        Refusal: it is not there; the message says where it was looked for; a file is
            wrong; the message says which and where.
    """
    place = locate(datasource, path_data)
    if datasource == MADE_UP:
        return made_up(size[0], size[1])
    if place is None:
        return _breast_cancer()
    if datasource == FASHION:
        return _fashion_mnist(place, classes)
    return read_libsvm(place, datasource if datasource in NAMES else place.name)


def read_libsvm(path: Path, name: str) -> Data:
    """Reads a file of lines `label index:value …` with scikit-learn's loader.

    Raises:
        Refusal: the file or a line cannot be read (naming it), or the labels are
            not of two classes.
    """
    with importing():
        from sklearn.datasets import load_svmlight_file

    content = read_bytes(path)
    try:
        found = load_svmlight_file(io.BytesIO(content), dtype=np.float64)
    except (ValueError, OverflowError) as error:
        raise Refusal(_what_is_wrong(path, content, error)) from error
    examples, labels = found[:2]
    if not np.isfinite(examples.data).all() or not np.isfinite(labels).all():
        raise Refusal(_what_is_wrong(path, content, "a value is not finite"))
    # Features that no line has are zeros in memory, however many there are said to be.
    if 8 * math.prod(examples.shape) > MAXIMAL_BYTES:
        raise Refusal(
            f"{path} must be of at most {MAXIMAL_BYTES:,} bytes in memory, 8 for each "
            f"feature of each example. Received: {examples.shape[0]} examples of "
            f"{examples.shape[1]} features."
        )
    return Data(examples.toarray(), two_classes(labels, str(path)), name, str(path))


def two_classes(labels: np.ndarray, place: str) -> np.ndarray:
    """Maps two distinct labels to -1 and 1, in their order.

    >>> two_classes(np.array([4, 2, 2]), "here")
    array([ 1., -1., -1.])
    """
    found = np.unique(labels)
    if len(found) != 2:
        shown = ", ".join(f"{label:g}" for label in found[:5]) or "no line"
        raise Refusal(
            f"Logistic regression needs labels of two classes. Received: {len(found)} "
            f"in {place} ({shown}{', …' if len(found) > 5 else ''})."
        )
    return np.where(labels == found[0], -1.0, 1.0)


def made_up(examples: int, features: int, seed: int = 0) -> Data:
    """Makes data of a given size: no real data, and named so everywhere.

    Features are normal with deviations j^-1/2, as the spectrum of real data falls off;
    labels are the side of a random plane, 5 % of them flipped.
    """
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((examples, features))
    rows /= np.sqrt(np.arange(1, features + 1))
    labels = np.sign(rows @ generator.standard_normal(features))
    labels[generator.random(examples) < _FLIPPED] *= -1
    place = f"made up with seed {seed}"
    labels = two_classes(labels, place)
    return Data(rows, labels, f"made-up {examples} x {features}", place)


def _what_is_wrong(path: Path, content: bytes, error: Exception | str) -> str:
    """Names the first line that is not `label index:value …`."""
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", errors="replace")
    for number, line in enumerate(lines, 1):
        fault = _fault(line.partition("#")[0].split())
        if fault:
            return (
                f"{path}, line {number}: {fault}. A line is `label index:value …` "
                "with finite numbers and increasing indices from 1."
            )
    return f"{path} cannot be read as a LIBSVM file: {error}."


def _fault(words: list[str]) -> str | None:
    if not words:
        return None
    try:
        label = float(words[0])
    except ValueError:
        return f"{words[0]!r} is not a label"
    if not np.isfinite(label):
        return f"the label {words[0]!r} is not finite"
    before = -1
    for word in words[1:]:
        index, colon, value = word.partition(":")
        if index == "qid":
            continue
        try:
            position, number = int(index), float(value)
        except ValueError:
            return f"{word!r} is not index:value"
        if not colon or not np.isfinite(number) or position < 0:
            return f"{word!r} is not index:value"
        if position <= before:
            return f"index {position} does not increase"
        before = position
    return None


def _breast_cancer() -> Data:
    """scikit-learn's 569 × 30 of breast-cancer, each feature standardised."""
    with importing():
        from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    labels = two_classes(labels, "scikit-learn")
    return Data(features, labels, "breast-cancer", "scikit-learn")


def _fashion_mnist(folder: Path, classes: tuple[int, ...]) -> Data:
    """The 12,000 training images of two classes, pixels in [0, 1]."""
    (images, labels), _ = data_files.read_mnist(folder)
    chosen = np.isin(labels, classes)
    pixels = images[chosen].reshape(chosen.sum(), -1) / 255.0
    name = f"fashion-mnist {classes[0]} against {classes[1]}"
    signs = np.where(labels[chosen] == classes[0], -1.0, 1.0)
    return Data(pixels, signs, name, str(folder))
