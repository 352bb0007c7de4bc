"""Readers of image files: idx (MNIST, Fashion-MNIST) and CIFAR's pickled batches.

Every reader checks what it reads and names the file that is wrong.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tem_studies.refusal import Refusal
from tem_studies.workloads import batch_pickles
from tem_studies.workloads.bounded_files import read_bytes

CLASSES = 10

# First four bytes of an idx file: 0, 0, 8 (unsigned byte), number of dimensions.
# http://yann.lecun.com/exdb/mnist
_IDX_MAGIC = {1: 0x0801, 3: 0x0803}

_MNIST_PREFIXES = ("train", "t10k")
_CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_CIFAR_TEST = "test_batch"

Arrays = tuple[np.ndarray, np.ndarray]


def read_mnist(folder: Path) -> tuple[Arrays, Arrays]:
    """Reads the four idx files of MNIST or Fashion-MNIST, gzipped or not.

    Args:
        folder: Holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the
            `t10k-` ones, each plain or with `.gz`.

    Returns:
        (images, labels) of the training and of the test part: uint8 (n, h, w, 1) and
        int32 (n,).

    Raises:
        Refusal: a file is missing; a file is truncated, is no idx file, or does not
            match the others.
    """
    parts = []
    for prefix in _MNIST_PREFIXES:
        images_path = _plain_or_gzipped(folder / f"{prefix}-images-idx3-ubyte")
        labels_path = _plain_or_gzipped(folder / f"{prefix}-labels-idx1-ubyte")
        images = read_idx(images_path, dimensions=3)[..., np.newaxis]
        labels = read_idx(labels_path, dimensions=1).astype(np.int32)
        check_labels(labels, len(images), labels_path, images_path)
        parts.append((images, labels))
    if parts[0][0].shape[1:] != parts[1][0].shape[1:]:
        raise Refusal(
            f"Training and test images in {folder} must have one shape. Received: "
            f"{parts[0][0].shape[1:3]} and {parts[1][0].shape[1:3]}."
        )
    return parts[0], parts[1]


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads one idx file of unsigned bytes.

    Args:
        path: The file; gzipped if its name ends with `.gz`.
        dimensions: 1 for labels, 3 for images.

    Returns:
        uint8 array of that many dimensions.

    Raises:
        Refusal: naming the file and what is wrong with it.
    """
    content = read_bytes(path)
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise Refusal(
            f"{path} is truncated: an idx file with {dimensions} dimensions starts "
            f"with {header} bytes of header. Received: {len(content)} bytes."
        )
    magic, *shape = np.frombuffer(content, ">u4", count=1 + dimensions).tolist()
    if magic != _IDX_MAGIC[dimensions]:
        raise Refusal(
            f"{path} must start with the idx magic number {_IDX_MAGIC[dimensions]}. "
            f"Received: {magic}."
        )
    expected = header + math.prod(shape)
    if len(content) != expected:
        problem = "is truncated" if len(content) < expected else "is too long"
        raise Refusal(
            f"{path} {problem}: its header announces {shape}, {expected} bytes in all. "
            f"Received: {len(content)} bytes."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_cifar10(folder: Path) -> tuple[Arrays, Arrays]:
    """Reads CIFAR-10's python batches (`cifar-10-batches-py`).

    Returns:
        (images, labels) of the training and of the test part: uint8 (n, 32, 32, 3) and
        int32 (n,).

    Raises:
        Refusal: a batch is missing; a batch is damaged, holds anything but arrays, or
            does not match.
    """
    train = [read_cifar10_batch(folder / name) for name in _CIFAR_TRAIN]
    images, labels = zip(*train, strict=True)
    test = read_cifar10_batch(folder / _CIFAR_TEST)
    return (np.concatenate(images), np.concatenate(labels)), test


def read_cifar100(folder: Path) -> tuple[Arrays, Arrays]:
    """Reads CIFAR-100's python files (`cifar-100-python/train` and `test`).

    Returns:
        As `read_cifar10`; labels are the 100 fine ones.

    Raises:
        Refusal: as `read_cifar10`.
    """
    train, test = (
        read_cifar_batch(folder / name, "CIFAR-100 file", b"fine_labels", 100)
        for name in ("train", "test")
    )
    return train, test


def read_cifar10_batch(path: Path) -> Arrays:
    """Reads one batch of CIFAR-10."""
    return read_cifar_batch(path, "CIFAR-10 batch", b"labels", CLASSES)


def read_cifar_batch(path: Path, kind: str, key: bytes, classes: int) -> Arrays:
    """Reads one pickled batch; https://www.cs.toronto.edu/~kriz/cifar.html.

    It is parsed and not run: see `batch_pickles`.

    Args:
        path: The file.
        kind: What it should be, for messages.
        key: Of the labels.
        classes: Number of classes.
    """
    if not path.is_file():
        raise Refusal(f"{path} is missing.")
    content = read_bytes(path)
    try:
        batch = batch_pickles.load(content)
    except batch_pickles.Damaged as error:
        raise Refusal(f"{path} is truncated or no {kind}: {error}.") from error
    pixels, labels = batch.get(b"data"), batch.get(key)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise Refusal(
            f"{path} must hold a dict with b'data', an array, and {key!r}, a list. "
            f"Received: {type(pixels).__name__} and {type(labels).__name__}."
        )
    labels = _integers(labels, path)
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise Refusal(
            f"b'data' in {path} must be uint8 of shape (n, 3072). "
            f"Received: {pixels.dtype} {pixels.shape}."
        )
    check_labels(labels, len(pixels), path, path, classes)
    # Rows hold the red plane, then the green, then the blue one.
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int32)


def _integers(labels: list[Any], path: Path) -> np.ndarray:
    """A list as int64 (n,); numpy would also take lists of lists of any depth."""
    for label in labels:
        if type(label) is not int or abs(label) >= 2**63:
            raise Refusal(
                f"The labels in {path} must be a list of integers. "
                f"Received: {type(label).__name__} {str(label)[:60]}."
            )
    return np.array(labels, np.int64)


def check_labels(
    labels: np.ndarray,
    examples: int,
    labels_place: Any,
    images_place: Any,
    classes: int = CLASSES,
) -> None:
    """Raises unless there is one label in [0, classes) for every image."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise Refusal(
            f"The labels in {labels_place} must be a list of integers. "
            f"Received: {labels.dtype} {labels.shape}."
        )
    if examples == 0:
        raise Refusal(f"{images_place} holds no image.")
    if len(labels) != examples:
        raise Refusal(
            f"{labels_place} must hold one label for each image in {images_place}. "
            f"Received: {len(labels)} labels for {examples} images."
        )
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)]
        raise Refusal(
            f"Labels in {labels_place} must be in [0, {classes}). "
            f"Received: {wrong[0]} ({len(wrong)} labels are out of range)."
        )


def _plain_or_gzipped(path: Path) -> Path:
    gzipped = path.with_name(path.name + ".gz")
    for candidate in (path, gzipped):
        if candidate.is_file():
            return candidate
    raise Refusal(f"{path} is missing, and so is {gzipped.name}.")
