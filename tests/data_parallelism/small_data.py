"""A small stand-in for MNIST and CIFAR-10 that can be learnt, in the DPS layout."""

import pickle

import numpy as np

from tests.workloads.files import idx_bytes


def examples(count, shape, seed):
    """Noise with a bright bar whose height is the label: uint8 images, labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 60, (count, *shape), dtype=np.uint8)
    labels = generator.integers(0, 10, count)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 7] += 150
    return images, labels


def write_mnist(folder, train=400, test=50):
    """Writes the four idx files."""
    folder.mkdir(parents=True)
    for seed, (prefix, count) in enumerate((("train", train), ("t10k", test))):
        images, labels = examples(count, (28, 28), seed)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))


def write_cifar10(folder, per_batch=60):
    """Writes the six pickled batches."""
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for seed, name in enumerate(names):
        images, labels = examples(per_batch, (32, 32, 3), seed)
        rows = images.transpose(0, 3, 1, 2).reshape(per_batch, 3072)
        batch = {b"data": rows, b"labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
