"""Writes small data sets in the formats that the readers take."""

import gzip
import pathlib
import pickle
import struct

import numpy as np

IDX_NAMES = {
    "train-images-idx3-ubyte": 3,
    "train-labels-idx1-ubyte": 1,
    "t10k-images-idx3-ubyte": 3,
    "t10k-labels-idx1-ubyte": 1,
}


def examples(count, shape, seed=0, classes=10):
    """Random images, uint8 (count, *shape), and labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, generator.integers(0, classes, count)


def idx_bytes(array):
    """An array of bytes in the idx format."""
    array = np.asarray(array, np.uint8)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_mnist(folder: pathlib.Path, train=40, test=20, gzipped=True):
    """Writes the four files; returns ((images, labels), (images, labels))."""
    folder.mkdir(parents=True)
    parts = examples(train, (28, 28)), examples(test, (28, 28), seed=1)
    for prefix, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            name = f"{prefix}-{kind}-ubyte"
            if gzipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return parts


def write_cifar10(folder: pathlib.Path, per_batch=10):
    """Writes the six batches; returns images (n, 32, 32, 3) and labels of train."""
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    parts = []
    for seed, name in enumerate(names):
        images, labels = examples(per_batch, (32, 32, 3), seed)
        parts.append((images, labels))
        rows = images.transpose(0, 3, 1, 2).reshape(per_batch, 3072)
        # As in the original files: protocol 2, keys of bytes, a list of labels.
        batch = {b"data": rows, b"labels": labels.tolist(), b"batch_label": b"1"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    images, labels = zip(*parts[:-1], strict=True)
    return np.concatenate(images), np.concatenate(labels)


def write_cifar100(folder: pathlib.Path, train=50, test=10):
    """Writes the two files; returns images (n, 32, 32, 3) and fine labels of train."""
    folder.mkdir(parents=True)
    parts = []
    for seed, (name, count) in enumerate((("train", train), ("test", test))):
        images, labels = examples(count, (32, 32, 3), seed, classes=100)
        labels[0] = 99
        parts.append((images, labels))
        rows = images.transpose(0, 3, 1, 2).reshape(count, 3072)
        batch = {
            b"data": rows,
            b"fine_labels": labels.tolist(),
            b"coarse_labels": (labels // 5).tolist(),
            b"filenames": [b"x.png"] * count,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return parts[0]
