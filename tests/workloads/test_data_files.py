"""Readers give back what was written, and name a file that is wrong."""

import gzip
import os
import pickle

import numpy as np
import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads import data_files
from tests.workloads.files import (
    IDX_NAMES,
    idx_bytes,
    write_cifar10,
    write_cifar100,
    write_mnist,
)


@pytest.mark.parametrize("gzipped", [True, False])
def test_mnist_is_read_as_written(tmp_path, gzipped):
    written = write_mnist(tmp_path / "MNIST", gzipped=gzipped)
    read = data_files.read_mnist(tmp_path / "MNIST")
    for (images, labels), (want_images, want_labels) in zip(read, written, strict=True):
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(images, want_images[..., np.newaxis])
        np.testing.assert_array_equal(labels, want_labels)


@pytest.mark.parametrize("name", IDX_NAMES)
def test_missing_idx_file_is_named(tmp_path, name):
    write_mnist(tmp_path / "MNIST")
    (tmp_path / "MNIST" / f"{name}.gz").unlink()
    with pytest.raises(Refusal, match=f"{name} is missing"):
        data_files.read_mnist(tmp_path / "MNIST")


@pytest.mark.parametrize("name", IDX_NAMES)
@pytest.mark.parametrize("missing", [1, 100])
def test_truncated_idx_file_is_named(tmp_path, name, missing):
    path = tmp_path / name
    array = np.zeros((5, 28, 28)[: IDX_NAMES[name]], np.uint8)
    if IDX_NAMES[name] == 1:
        array = np.zeros(200, np.uint8)
    path.write_bytes(idx_bytes(array)[:-missing])
    with pytest.raises(Refusal, match=f"{name} is truncated: its header announces"):
        data_files.read_idx(path, IDX_NAMES[name])


def test_idx_file_with_half_a_header_is_truncated(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(b"\0\0\x08\x01")
    with pytest.raises(Refusal, match="is truncated.*Received: 4 bytes"):
        data_files.read_idx(path, 1)


def test_idx_file_with_more_than_announced_is_refused(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes([1, 2, 3]) + b"\0")
    with pytest.raises(Refusal, match="labels is too long: its header announces"):
        data_files.read_idx(path, 1)


def test_wrong_magic_number_is_refused(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.zeros((1, 28, 28))))
    with pytest.raises(Refusal, match="idx magic number 2049. Received: 2051"):
        data_files.read_idx(path, 1)


@pytest.mark.parametrize(
    "content", [gzip.compress(idx_bytes(range(200)))[:-20], b"not gzipped at all"]
)
def test_damaged_gzip_is_named(tmp_path, content):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(Refusal, match="labels.gz is truncated or not gzipped"):
        data_files.read_idx(path, 1)


def _overwrite(folder, name, array):
    (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))


def test_fewer_labels_than_images_is_refused(tmp_path):
    write_mnist(tmp_path / "MNIST", train=40)
    _overwrite(tmp_path / "MNIST", "train-labels-idx1-ubyte", np.zeros(39))
    with pytest.raises(Refusal, match="Received: 39 labels for 40 images"):
        data_files.read_mnist(tmp_path / "MNIST")


def test_label_out_of_range_is_refused(tmp_path):
    write_mnist(tmp_path / "MNIST", train=40)
    labels = np.zeros(40)
    labels[7] = 10
    _overwrite(tmp_path / "MNIST", "train-labels-idx1-ubyte", labels)
    with pytest.raises(Refusal, match=r"train-labels.*\[0, 10\). Received: 10"):
        data_files.read_mnist(tmp_path / "MNIST")


def test_images_of_two_sizes_are_refused(tmp_path):
    write_mnist(tmp_path / "MNIST", test=20)
    _overwrite(tmp_path / "MNIST", "t10k-images-idx3-ubyte", np.zeros((20, 14, 14)))
    with pytest.raises(Refusal, match="must have one shape"):
        data_files.read_mnist(tmp_path / "MNIST")


def test_cifar10_is_read_as_written(tmp_path):
    images, labels = write_cifar10(tmp_path / "cifar")
    (read_images, read_labels), test = data_files.read_cifar10(tmp_path / "cifar")
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_labels, labels)
    assert test[0].shape == (10, 32, 32, 3)


def test_cifar10_batch_of_an_older_numpy_is_read(tmp_path):
    write_cifar10(tmp_path / "cifar")
    path = tmp_path / "cifar" / "test_batch"
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multi", b"numpy.core.multi"))
    assert len(data_files.read_cifar10_batch(path)[0]) == 10


def test_cifar10_missing_batch_is_named(tmp_path):
    write_cifar10(tmp_path / "cifar")
    (tmp_path / "cifar" / "data_batch_3").unlink()
    with pytest.raises(Refusal, match="data_batch_3 is missing"):
        data_files.read_cifar10(tmp_path / "cifar")


class _Attack:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (self.victim,)


def test_cifar10_batch_that_runs_a_program_is_refused(tmp_path):
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps({b"data": _Attack(str(tmp_path / "made"))}))
    with pytest.raises(Refusal, match="test_batch.*mkdir, which a batch of images"):
        data_files.read_cifar10_batch(path)
    assert not (tmp_path / "made").exists()


def _batch(**changes):
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}
    return batch | {name.encode(): value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (_batch(labels=[0, 1, 2]), "Received: 3 labels for 4 images"),
        (_batch(labels=[0, 1, 2, -1]), r"must be in \[0, 10\). Received: -1"),
        (_batch(labels=[0.5] * 4), "must be a list of integers. Received: float 0.5"),
        (_batch(data=np.zeros((4, 3072))), "must be uint8 of shape .*float64"),
        (_batch(data=np.zeros((4, 99), np.uint8)), r"Received: uint8 \(4, 99\)"),
        (
            {b"data": []},
            "must hold a dict with b'data', an array, and b'labels', a list",
        ),
        ([], "is truncated or no CIFAR-10 batch: it holds no dict"),
    ],
)
def test_wrong_cifar10_batch_is_refused(tmp_path, batch, message):
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(Refusal, match=f"test_batch.*{message}"):
        data_files.read_cifar10_batch(path)


def test_truncated_cifar10_batch_is_named(tmp_path):
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(_batch(), protocol=2)[:-100])
    with pytest.raises(Refusal, match="test_batch is truncated or no CIFAR-10"):
        data_files.read_cifar10_batch(path)


def test_cifar_100_labels_out_of_range_are_refused(tmp_path):
    write_cifar100(tmp_path / "cifar")
    path = tmp_path / "cifar" / "train"
    batch = pickle.loads(path.read_bytes(), encoding="bytes")
    batch[b"fine_labels"][3] = 100
    path.write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(Refusal, match=r"must be in \[0, 100\). Received: 100"):
        data_files.read_cifar100(tmp_path / "cifar")


def test_cifar_100_without_fine_labels_is_refused(tmp_path):
    write_cifar10(tmp_path / "cifar")
    (tmp_path / "cifar" / "data_batch_1").rename(tmp_path / "cifar" / "train")
    with pytest.raises(
        Refusal, match="b'fine_labels', a list. Received: ndarray and NoneType"
    ):
        data_files.read_cifar100(tmp_path / "cifar")
    (tmp_path / "cifar" / "train").unlink()
    with pytest.raises(Refusal, match="train is missing"):
        data_files.read_cifar100(tmp_path / "cifar")
