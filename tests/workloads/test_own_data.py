"""A user's own examples: what is taken of a file, and what is refused."""

import dataclasses

import numpy as np
import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads import data_places, data_sources
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.image_task import ImageTask
from tests.own_modules import write_npz
from tests.workloads.files import examples

NPZ = Configuration(datasource="npz", batch_size=10)


def load(path):
    return data_sources.load(data_places.locate_images("npz", str(path)))


def test_numbers_are_taken_as_they_are(tmp_path):
    path = tmp_path / "own.npz"
    arrays = write_npz(path, x_train=np.arange(360.0).reshape(60, 6))
    data = load(path)
    order = np.random.RandomState(0).permutation(60)
    np.testing.assert_array_equal(
        data.validation.images, np.float32(arrays["x_train"][order[:6]])
    )
    np.testing.assert_array_equal(data.train.labels, arrays["y_train"][order[6:]])
    assert (data.classes, data.input_shape, data.place) == (3, (6,), str(path))
    assert data.train.images.dtype == np.float32
    np.testing.assert_array_equal(data.test.labels, arrays["y_test"])
    task = ImageTask(dataclasses.replace(NPZ, path_data=str(path)), data)
    taken, _ = task.train.take(np.arange(2))
    np.testing.assert_array_equal(taken, data.train.images[:2])
    assert task.unit == "examples"


def test_bytes_are_images_and_standardised(tmp_path):
    path = tmp_path / "own.npz"
    images, labels = examples(60, (8, 8))
    write_npz(path, x_train=images, y_train=labels, x_test=images[:20])
    data = load(path)
    assert data.input_shape == (8, 8, 1)
    assert data.mean == pytest.approx(images.mean(), rel=1e-6)
    assert data.deviation == pytest.approx(images.std(), rel=1e-6)


def test_a_validation_split_of_ones_own_is_kept_whole(tmp_path):
    path = tmp_path / "own.npz"
    arrays = write_npz(path)
    x, y = arrays["x_test"][:7], arrays["y_test"][:7]
    arrays = write_npz(path, x_validation=x, y_validation=y)
    data = load(path)
    np.testing.assert_array_equal(data.validation.images, x)
    np.testing.assert_array_equal(data.train.images, arrays["x_train"])
    assert len(data.epochs(0).permutation(60)) == 60


WORDS = np.array(["a"] * 60)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "must hold x_train, .*, without y_test"),
        ({"x_validation": np.ones((3, 6))}, "without y_validation"),
        ({"x_valid": np.ones((3, 6))}, "must hold nothing but .* Received: x_valid"),
        ({"y_train": WORDS}, "with arrays of numbers, .*its header is not that of"),
        ({"x_train": np.array([{}] * 60)}, "with arrays of numbers, .*its header"),
        ({"y_train": np.ones((60, 1), int)}, r"must be integers of the shape \(n,\)"),
        ({"y_train": np.ones(60)}, "must be integers .* Received: float64"),
        ({"y_train": np.ones(0, int)}, r"must be integers .* Received: int64 \(0,\)"),
        ({"y_train": np.zeros(60, int)}, "at least two classes, numbered from 0 on"),
        ({"y_train": np.arange(60) * 2}, "a largest label of 118 in 60 examples"),
        ({"y_train": np.arange(60) - 1}, r"y_train in .* must be in \[0, 59\)"),
        ({"y_test": np.arange(20)}, r"y_test in .* must be in \[0, 3\). Received: 3"),
        ({"y_train": np.arange(59) % 3}, "59 labels for 60 images"),
        ({"x_train": np.ones(60)}, r"x_train in .* must have the shape \(n, ...\)"),
        ({"x_train": np.ones((60, 0))}, r"must have the shape \(n, ...\) of n exam"),
        ({"x_train": np.ones((60, 6), int)}, "must be uint8, images, or floating num"),
        ({"x_train": np.ones((60, 6), np.uint8)}, "are bytes, and must be images"),
        ({"x_train": np.full((60, 6), np.nan)}, "must be finite numbers .* 360 that"),
        ({"x_train": np.full((60, 6), 1e300)}, "must be finite numbers of float32"),
        ({"x_test": np.ones((20, 5))}, r"x_test and x_train .* of one shape and type"),
        (
            {"x_test": np.ones((20, 6, 1), np.uint8)},
            r"Received: uint8 \(6, 1, 1\) and float32 \(6,\)",
        ),
        (
            {"x_train": np.ones((9, 6)), "y_train": np.arange(9) % 3},
            "must hold at least 10 training images",
        ),
    ],
)
def test_arrays_that_are_not_as_they_must_be_are_named(tmp_path, changes, words):
    path = tmp_path / "own.npz"
    write_npz(path, **changes)
    with pytest.raises(Refusal, match=words):
        load(path)


def test_a_file_that_is_none_is_named(tmp_path):
    path = tmp_path / "own.npz"
    for place in (None, str(path), str(tmp_path)):
        with pytest.raises(Refusal, match="`datasource` npz needs `path_data`, a f"):
            data_places.locate_images("npz", place)
    path.write_text("x_train")
    with pytest.raises(Refusal, match=f"{path} must be an npz file .*: it is no npz f"):
        load(path)


def test_only_images_are_augmented(tmp_path):
    path = tmp_path / "own.npz"
    write_npz(path)
    settings = dataclasses.replace(NPZ, augmentation="crop-flip")
    with pytest.raises(Refusal, match="`augmentation` is of images, which are bytes."):
        ImageTask(settings, load(path))
