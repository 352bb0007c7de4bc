"""No header and no archive takes the memory that it claims."""

import bz2
import gzip
import io
import re
import tracemalloc
import zipfile

import numpy as np
import pytest

from tem_studies.convex import data
from tem_studies.refusal import Refusal
from tem_studies.workloads import bounded_files, data_files

ARRAYS = {
    "floats": np.linspace(0, 1, 7),
    "table": np.arange(12, dtype=np.int32).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "number": np.float64(3.5),
    "empty": np.zeros((0, 3), np.uint8),
}


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_as_written(tmp_path, name):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    read = bounded_files.read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, ARRAYS[name], strict=name != "number")
    read[...] = 0  # It may be written to.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_arrays_are_read_as_written(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    read = bounded_files.read_npz(tmp_path / "a.npz")
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.zeros(4))[:-1], r"announces float64 \(4,\), and 31 bytes follow"),
        (
            npy(np.zeros(4)).replace(b"(4,)", b"(9999999999,)"),
            "is not that|announces",
        ),
        (
            npy(np.zeros(4)).replace(b"<f8", b"|O4"),
            "is not that of an array",
        ),
        (npy(np.zeros(4)).replace(b"<f8", b"<f1"), "names no type: <f1"),
        (npy(np.zeros(4)).replace(b"(4,)", b"a()a"), "is not that of an array"),
        (b"\x93NUMPY\x03\0", "no npy file of version 1"),
        (b"", "no npy file of version 1"),
    ],
)
def test_damaged_array_is_named(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        bounded_files.read_npy(tmp_path / "a.npy")


def test_damaged_archives_are_errors(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", npy(np.zeros(4)))
    content = path.read_bytes()
    for damaged, message in (
        (content[:-30], "not a zip file"),
        (content.replace(b"NUMPY", b"numpy"), "Bad CRC-32"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            bounded_files.read_npz(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.npy is too long"):
        bounded_files.read_npz(path, maximal_bytes=100)


def peak_bytes(work):
    """The most memory that Python and numpy took meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip), (".bz2", bz2)])
def test_bomb_is_unpacked_no_further_than_the_limit(tmp_path, suffix, pack):
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(pack.compress(bytes(200 << 20)))
    limit = 4 << 20

    def work():
        with pytest.raises(Refusal, match="longer than 4,194,304 bytes, unpacked"):
            bounded_files.read_bytes(path, limit)

    assert peak_bytes(work) < 4 * limit


def test_damaged_and_missing_archives_are_named(tmp_path):
    for name, kind in (("a.gz", "gzipped"), ("a.bz2", "packed by bzip2")):
        with pytest.raises(Refusal, match=f"{name} cannot be read: .*No such file"):
            bounded_files.read_bytes(tmp_path / name)
        (tmp_path / name).write_bytes(b"other")
        with pytest.raises(Refusal, match=f"{name} is truncated or not {kind}"):
            bounded_files.read_bytes(tmp_path / name)


def test_idx_header_of_terabytes_takes_no_memory(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(b"\0\0\x08\x03" + b"\0\1\0\0" * 3 + bytes(8))
    with pytest.raises(Refusal, match="is truncated: .* 281474976710672 bytes"):
        data_files.read_idx(path, 3)


def test_libsvm_index_of_billions_takes_no_memory(tmp_path):
    path = tmp_path / "data"
    path.write_text("1 1:1\n-1 2000000000:1\n")

    def work():
        message = re.escape("Received: 2 examples of 2000000000 features.")
        with pytest.raises(Refusal, match=f"8 for each feature.*{message}"):
            data.read_libsvm(path, "data")

    assert peak_bytes(work) < 10 << 20
