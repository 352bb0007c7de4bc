"""Examples of a user's own: the arrays of an npz file, checked before any work.

    x_train, y_train, x_test, y_test         and, if they are there,
    x_validation, y_validation

x are bytes, images (n, height, width) or (n, height, width, channels), or floating
numbers of any shape (n, ...), which are taken as they are; y are integers (n,), the
classes from 0 on. Whatever else the file holds is refused: it may be misspelt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tem_studies.refusal import Refusal
from tem_studies.workloads.bounded_files import read_npz
from tem_studies.workloads.data_files import Arrays, check_labels

_NEEDED, _OPTIONAL = ("train", "test"), "validation"
_IMAGES = (3, 4)  # Axes of an array of images.


def read(path: Path) -> tuple[dict[str, Arrays], int]:
    """Reads and checks a file.

    Returns:
        Examples and labels of "train", "test" and, where the file has it,
        "validation": uint8 (n, height, width, channels) or float32 (n, ...), and int32
        (n,). And the number of classes.

    Raises:
        Refusal: an array is missing, or is not what it must be, naming it.
    """
    try:
        found = read_npz(path)
    except ValueError as error:
        raise Refusal(
            f"{path} must be an npz file with arrays of numbers, as np.savez writes "
            f"them: {error}."
        ) from error
    splits = _splits(found, path)
    classes = _classes(found["y_train"], path)
    parts = {}
    for split in splits:
        x, y = found[f"x_{split}"], found[f"y_{split}"]
        places = f"y_{split} in {path}", f"x_{split} in {path}"
        examples = _examples(x, places[1])
        check_labels(y, len(examples), *places, classes)
        parts[split] = examples, y.astype(np.int32)
    train = parts["train"][0]
    for split, (examples, _) in parts.items():
        if (examples.shape[1:], examples.dtype) != (train.shape[1:], train.dtype):
            raise Refusal(
                f"x_{split} and x_train in {path} must have examples of one shape and "
                f"type. Received: {found[f'x_{split}'].dtype} {examples.shape[1:]} and "
                f"{found['x_train'].dtype} {train.shape[1:]}."
            )
    return parts, classes


def _splits(found: Mapping[str, np.ndarray], path: Path) -> list[str]:
    """The splits that a file has, each with its two arrays."""
    splits = [*_NEEDED, *([_OPTIONAL] if _of(_OPTIONAL) & {*found} else [])]
    wanted = [name for split in splits for name in (f"x_{split}", f"y_{split}")]
    if missing := [name for name in wanted if name not in found]:
        raise Refusal(
            f"{path} must hold x_train, y_train, x_test, y_test, and may hold "
            f"x_validation with y_validation. Received: {', '.join(found) or 'none'}, "
            f"without {', '.join(missing)}."
        )
    if unknown := sorted({*found} - {*wanted}):
        raise Refusal(
            f"{path} must hold nothing but x_train, y_train, x_test, y_test, "
            f"x_validation and y_validation. Received: {', '.join(unknown)} beside."
        )
    return splits


def _of(split: str) -> set[str]:
    return {f"x_{split}", f"y_{split}"}


def _classes(labels: np.ndarray, path: Path) -> int:
    """How many classes there are, by the labels of the training examples."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise Refusal(
            f"y_train in {path} must be integers of the shape (n,), one for each "
            f"example. Received: {labels.dtype} {labels.shape}."
        )
    classes = int(labels.max()) + 1
    if not 2 <= classes <= len(labels):
        raise Refusal(
            f"y_train in {path} must hold at least two classes, numbered from 0 on. "
            f"Received: a largest label of {classes - 1} in {len(labels)} examples."
        )
    return classes


def _examples(x: np.ndarray, place: str) -> np.ndarray:
    """Checked examples, as they are kept."""
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise Refusal(
            f"{place} must have the shape (n, ...) of n examples. Received: {x.shape}."
        )
    if x.dtype == np.uint8:
        if x.ndim not in _IMAGES:
            raise Refusal(
                f"{place} are bytes, and must be images (n, height, width) or (n, "
                f"height, width, channels). Received: {x.shape}. Pass other data as "
                "float32."
            )
        return x[..., np.newaxis] if x.ndim == _IMAGES[0] else x
    if x.dtype.kind != "f":
        raise Refusal(
            f"{place} must be uint8, images, or floating numbers. Received: {x.dtype}."
        )
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise Refusal(
            f"{place} must be finite numbers of float32. Received: "
            f"{np.count_nonzero(~np.isfinite(x))} that are not."
        )
    return x
