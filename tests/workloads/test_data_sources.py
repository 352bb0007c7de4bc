"""Where data is found, how it is split, standardised and ordered."""

import re
import time

import numpy as np
import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads import data_places, data_sources, prepared_data
from tem_studies.workloads.data_sources import Split
from tests.workloads.files import (
    examples,
    write_cifar10,
    write_cifar100,
    write_mnist,
)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Nothing prepared, and a proxy at a port where nothing listens."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def load(datasource, path=None):
    """Locates and loads."""
    return data_sources.load(data_places.locate_images(datasource, path and str(path)))


def test_digits_have_the_documented_sizes():
    data = load("digits")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [
        1350,
        150,
        297,
    ]
    assert data.input_shape == (28, 28, 1)
    assert data.train.images.dtype == np.uint8
    # The largest grey value, 16 of 16, is kept where an image has it.
    assert data.train.images.max() == 255


def test_digits_have_the_grey_of_their_small_originals():
    from sklearn.datasets import load_digits

    small = load_digits().images[-297:].mean(axis=(1, 2)) * 255 / 16
    large = load("digits").test.images.mean(axis=(1, 2, 3))
    # Interpolation weighs the border otherwise than the middle: equal up to that.
    assert np.corrcoef(small, large)[0, 1] > 0.99


def test_interpolation_of_a_ramp_is_a_ramp():
    rows = data_sources._interpolation(8, 28)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    centres = (np.arange(28) + 0.5) * 8 / 28 - 0.5
    np.testing.assert_allclose(rows @ np.arange(8), np.clip(centres, 0, 7))


@pytest.mark.parametrize("datasource", ["mnist", "fashion-mnist", "cifar-10"])
def test_data_is_found_below_path_data(tmp_path, datasource):
    folder = tmp_path / data_places.IMAGE_FOLDERS[datasource]
    if datasource == "cifar-10":
        write_cifar10(folder)
    else:
        write_mnist(folder, train=50)
    data = load(datasource, tmp_path)
    assert len(data.train) == 45
    assert len(data.validation) == 5
    assert data.place == str(folder)


def test_cifar_100_has_its_fine_labels(tmp_path):
    images, labels = write_cifar100(tmp_path / "cifar-100-python")
    data = load("cifar-100", tmp_path)
    assert data.classes == 100
    order = np.random.RandomState(0).permutation(50)
    np.testing.assert_array_equal(data.validation.images, images[order[:5]])
    np.testing.assert_array_equal(data.train.labels, labels[order[5:]])
    assert max(data.train.labels.max(), data.validation.labels.max()) == 99


def test_split_and_order_follow_the_authors_generator():
    images, labels = examples(100, (8, 8, 1))
    images[:, 0, 0, 0] = np.arange(100)
    data = data_sources.split(Split(images, labels), Split(images, labels), "here")

    # The authors' code, step by step.
    rand = np.random.RandomState(seed=0)
    indices = list(range(100))
    rand.shuffle(indices)
    np.testing.assert_array_equal(data.validation.images[:, 0, 0, 0], indices[:10])
    np.testing.assert_array_equal(data.train.images[:, 0, 0, 0], indices[10:])
    np.testing.assert_array_equal(data.validation.labels, labels[indices[:10]])
    epochs = data.epochs(seed=0)
    for _ in range(3):
        example_ids = list(range(90))
        rand.shuffle(example_ids)
        np.testing.assert_array_equal(epochs.permutation(90), example_ids)


def test_another_seed_changes_the_order_and_not_the_split():
    images, labels = examples(100, (8, 8, 1))
    data = data_sources.split(Split(images, labels), Split(images, labels), "here")
    want = np.random.RandomState(7).permutation(90)
    np.testing.assert_array_equal(data.epochs(seed=7).permutation(90), want)
    assert (data.epochs(seed=0).permutation(90) != want).any()


def test_standardisation_is_over_train_and_validation_and_per_channel():
    images, labels = examples(100, (8, 8, 3))
    images[..., 1] //= 2
    test = Split(images // 4, labels)
    data = data_sources.split(Split(images, labels), test, "here")
    pixels = images.reshape(-1, 3).astype(np.float64)
    # The only rounding is that to float32.
    np.testing.assert_array_equal(data.mean, np.float32(pixels.mean(axis=0)))
    np.testing.assert_allclose(data.deviation, pixels.std(axis=0), rtol=1e-7)


def test_images_of_one_colour_are_refused():
    images = np.full((20, 8, 8, 1), 3, np.uint8)
    with pytest.raises(Refusal, match="every pixel of channel 0 is 3"):
        data_sources.standardisation(images)


def test_too_few_images_to_hold_out_a_tenth_are_refused(tmp_path):
    write_mnist(tmp_path / "MNIST", train=9)
    with pytest.raises(Refusal, match="at least 10 training images.*Received: 9"):
        load("mnist", tmp_path)


def test_images_of_another_shape_are_refused(tmp_path, monkeypatch):
    write_mnist(tmp_path / "MNIST")
    monkeypatch.setitem(data_sources._SHAPES, "mnist", (14, 14, 1))
    with pytest.raises(Refusal, match=r"shape \(14, 14, 1\). Received: \(28, 28, 1"):
        load("mnist", tmp_path)


def test_digest_tells_data_apart(tmp_path):
    write_mnist(tmp_path / "a" / "MNIST")
    write_mnist(tmp_path / "b" / "MNIST")
    write_mnist(tmp_path / "c" / "MNIST", train=41)
    a, b, c = (load("mnist", tmp_path / name).digest() for name in "abc")
    assert a == b != c


def test_missing_data_names_places_and_ways_on_at_once(no_network, tmp_path):
    start = time.perf_counter()
    with pytest.raises(Refusal) as caught:
        data_places.locate_images("cifar-10", str(tmp_path))
    assert time.perf_counter() - start < prepared_data.REACHABLE_SECONDS + 2
    message = str(caught.value)
    for part in (
        "`datasource` cifar-10",
        str(tmp_path / "cifar-10-batches-py"),
        str(tmp_path / "tfds" / "cifar10"),
        "cs.toronto.edu",
        "--path_data DIR",
        "TFDS_DATA_DIR",
        "another --datasource",
    ):
        assert part in message


def test_server_that_never_answers_is_given_up():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        name, _ = prepared_data.CATALOGUE["mnist"]
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(prepared_data.CATALOGUE, "mnist", (name, address))
            start = time.perf_counter()
            assert not prepared_data.is_reachable("mnist", seconds=0.5)
            assert time.perf_counter() - start < 2


def test_path_data_that_does_not_exist_is_refused():
    message = "`path_data` must be a directory. Received: path_data='/nowhere'."
    with pytest.raises(Refusal, match=re.escape(message)):
        data_places.locate_images("mnist", "/nowhere")


def test_newest_prepared_version_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for version in ("3.0.1", "3.0.10", "3.0.2", "3.1.0.incomplete", "1.0.0"):
        folder = tmp_path / "mnist" / version
        folder.mkdir(parents=True)
        if version != "3.0.2":
            (folder / "dataset_info.json").touch()
    assert prepared_data.find_prepared("mnist") == tmp_path / "mnist" / "3.0.10"
    assert data_places.locate_images("mnist", None).kind == "prepared"


def test_unreadable_prepared_directory_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(Refusal, match=f"{folder} is no data set"):
        load("mnist")


@pytest.mark.filterwarnings("ignore")  # tensorflow-datasets and its dependencies warn
def test_prepared_directory_is_read(monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    parts = {
        "train": examples(40, (28, 28, 1)),
        "test": examples(20, (28, 28, 1), seed=1),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version="3.0.1",
        data_dir=str(tmp_path),
        split_datasets={
            name: [
                (i, {"image": image, "label": int(label)})
                for i, (image, label) in enumerate(zip(*part, strict=True))
            ]
            for name, part in parts.items()
        },
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        ),
    )
    source = data_places.locate_images("mnist", None)
    assert source.needs_tensorflow
    data = data_sources.load(source)
    # tensorflow-datasets writes examples in an order of its own.
    read = np.concatenate([data.train.images, data.validation.images])
    want = parts["train"][0]
    assert sorted(i.tobytes() for i in read) == sorted(i.tobytes() for i in want)
    label_of = {i.tobytes(): y for i, y in zip(*parts["test"], strict=True)}
    assert [label_of[i.tobytes()] for i in data.test.images] == list(data.test.labels)


def test_fashion_mnist_is_what_it_is(data_dir):
    data = load("fashion-mnist", data_dir)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [
        54_000,
        6_000,
        10_000,
    ]
    # Known of this data set, in units of 255: mean 0.2860, deviation 0.3530.
    np.testing.assert_allclose(data.mean / 255, 0.2860, atol=5e-5)
    np.testing.assert_allclose(data.deviation / 255, 0.3530, atol=5e-5)
