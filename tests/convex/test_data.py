"""Readers and splits: what they give, and what they say of what is wrong."""

import bz2
import gzip

import numpy as np
import pytest

from tem_studies.convex import data, splits
from tem_studies.refusal import Refusal


def write(tmp_path, text, name="file.libsvm"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_libsvm_file_is_read_with_its_labels_mapped(tmp_path):
    path = write(tmp_path, "4 1:0.5 3:-2\n2 2:1 # a comment\n4 3:1e-3\n")
    loaded = data.load(str(path))
    np.testing.assert_array_equal(
        loaded.examples, [[0.5, 0, -2], [0, 1, 0], [0, 0, 1e-3]]
    )
    np.testing.assert_array_equal(loaded.labels, [1, -1, 1])
    np.testing.assert_array_equal(loaded.signed[1], [0, -1, 0])


@pytest.mark.parametrize("name", ["gisette", "madelon"])
def test_named_data_is_found_compressed_or_not(tmp_path, name):
    content = b"1 1:1\n-1 1:2\n"
    ending = "_scale.bz2" if name == "gisette" else ".bz2"
    (tmp_path / (name + ending)).write_bytes(bz2.compress(content))
    loaded = data.load(name, str(tmp_path))
    assert loaded.name == name
    np.testing.assert_array_equal(loaded.examples, [[1], [2]])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("1 1:0.5 2:x", "'2:x' is not index:value"),
        ("1 1:0.5 2", "'2' is not index:value"),
        ("one 1:0.5", "'one' is not a label"),
        ("1 2:0.5 1:0.5", "index 1 does not increase"),
        ("1 1:nan", "'1:nan' is not index:value"),
        ("inf 1:1", "the label 'inf' is not finite"),
    ],
)
def test_malformed_line_is_named(tmp_path, line, fault):
    path = write(tmp_path, f"1 1:1\n-1 1:2\n\n{line}\n1 1:3\n")
    with pytest.raises(Refusal) as caught:
        data.load(str(path))
    assert str(caught.value).startswith(f"{path}, line 4: {fault}. A line is `label")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("plain.gz", b"1 1:1\n-1 1:2\n", "not gzipped: Not a gzipped file"),
        (
            "short.gz",
            gzip.compress(b"1 1:1\n-1 1:2\n")[:-9],
            "not gzipped: Compressed file ended",
        ),
        (
            "other.gz",
            gzip.compress(b"")[:10] + b"1 1:1\n-1 1:2\n",
            "not gzipped: Error -3 while",
        ),
        ("plain.bz2", b"1 1:1\n-1 1:2\n", "not packed by bzip2: Invalid data"),
    ],
    ids=["not-gzip", "cut", "no-deflate", "not-bzip2"],
)
def test_damaged_archive_is_named(tmp_path, name, content, fault):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Refusal, match=f"^{path} is truncated or {fault}"):
        data.load(str(path))


@pytest.mark.parametrize(("labels", "count"), [((1, 1), 1), ((1, 2, 3), 3)])
def test_labels_that_are_not_two_classes_are_refused(tmp_path, labels, count):
    path = write(tmp_path, "".join(f"{label} 1:1\n" for label in labels))
    with pytest.raises(Refusal, match=f"labels of two classes. Received: {count} "):
        data.load(str(path))


def test_file_without_a_line_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"Received: 0 in .*file.libsvm \(no line\)."):
        data.load(str(write(tmp_path, "")))


def test_missing_data_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(Refusal, match="needs its LIBSVM file. Pass --path"):
        data.load("gisette")
    with pytest.raises(Refusal, match=f"no gisette_scale.*{tmp_path}"):
        data.load("gisette", str(tmp_path))
    with pytest.raises(Refusal, match="DIR holds Fashion-MNIST"):
        data.load("fashion-mnist", str(tmp_path))
    with pytest.raises(Refusal, match="`datasource` must be one of gisette"):
        data.load("nowhere")


def test_made_up_data_says_so_and_repeats():
    first, again = data.made_up(30, 4), data.made_up(30, 4)
    assert "made-up" in first.name and "made up" in first.place
    np.testing.assert_array_equal(first.examples, again.examples)
    assert first.examples.shape == (30, 4)
    assert set(first.labels) == {-1.0, 1.0}


def test_fashion_mnist_gives_two_classes(data_dir):
    loaded = data.load("fashion-mnist", str(data_dir), classes=(0, 6))
    assert loaded.examples.shape == (12_000, 784)
    assert loaded.examples.min() == 0 and loaded.examples.max() == 1
    assert loaded.labels.sum() == 0  # 6,000 images of each


# ------------------------------------------------------------------------------ splits


def labels_of(m=103, seed=0):
    return np.where(np.random.default_rng(seed).random(m) < 0.4, -1.0, 1.0)


@pytest.mark.parametrize("split", splits.SPLITS)
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_split_shares_out_the_same_examples_once(split, alpha):
    labels = labels_of()
    shares = splits.share(labels, 10, split, seed=4, alpha=alpha)
    assert shares.shape == (10, 10)
    np.testing.assert_array_equal(np.sort(shares.ravel()), splits.kept(103, 10))
    again = splits.share(labels, 10, split, seed=4, alpha=alpha)
    np.testing.assert_array_equal(shares, again)
    other = splits.share(labels, 10, split, seed=5, alpha=alpha)
    assert (shares != other).any()


def test_splits_differ_in_heterogeneity_as_they_say():
    labels = labels_of(2000)

    def spread(split, alpha=1.0):
        """Standard deviation over workers of the share of one class."""
        shares = splits.share(labels, 20, split, 0, alpha)
        return labels[shares].mean(axis=1).std()

    assert (
        spread("shuffled")
        < spread("dirichlet", 1.0)
        < spread("dirichlet", 0.1)
        <= spread("sorted")
    )
    one_class = np.abs(labels[splits.share(labels, 20, "sorted", 0)].mean(axis=1))
    assert np.sum(one_class < 1) <= 1  # at most the worker at the boundary has both


def test_fewer_examples_than_workers_are_refused():
    with pytest.raises(Refusal, match="`workers` must be at most the number of ex"):
        splits.share(labels_of(5), 6, "shuffled", 0)
