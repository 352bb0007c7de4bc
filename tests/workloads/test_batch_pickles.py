"""Pickled batches are parsed, whoever wrote them, and never run."""

import pickle
import struct

import numpy as np
import pytest

from tem_studies.workloads import batch_pickles

ROWS = np.arange(12, dtype=np.uint8).reshape(2, 6)
BATCH = {b"data": ROWS, b"labels": [1, 2], b"names": [b"a", b"b"], b"label": b"x"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_python_3_writes_is_read(protocol):
    read = batch_pickles.load(pickle.dumps(BATCH, protocol=protocol))
    assert read.keys() == BATCH.keys()
    np.testing.assert_array_equal(read[b"data"], ROWS)
    assert read[b"data"].dtype == np.uint8
    assert {k: v for k, v in read.items() if k != b"data"} == {
        k: v for k, v in BATCH.items() if k != b"data"
    }


def python_2(data=bytes(ROWS), shape=(2, 6), after=b""):
    """As Python 2 wrote the original files: numpy's old names, byte strings."""

    def text(word):
        return b"U" + bytes([len(word)]) + word

    def numbers(values):
        return b"".join(b"J" + struct.pack("<i", value) for value in values)

    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02"
    array += b"K\0\x85" + text(b"b") + b"\x87Rq\x03"
    kind = b"cnumpy\ndtype\nq\x04" + text(b"u1") + b"K\0K\x01\x87Rq\x05"
    kind += b"(K\x03" + text(b"|") + b"NNN" + numbers([-1, -1, 0]) + b"tb"
    content = b"T" + struct.pack("<i", len(data)) + data
    array += b"(K\x01" + numbers(shape) + b"\x86" + kind + b"\x89" + content + b"tb"
    labels = b"](K\x01K\x02e"
    items = text(b"data") + array + after + text(b"labels") + labels
    return b"\x80\x02}q\x00(" + items + b"u."


def test_what_python_2_wrote_is_read():
    content = python_2()
    loaded = pickle.loads(content, encoding="bytes")  # So that it is a pickle indeed.
    np.testing.assert_array_equal(loaded[b"data"], ROWS)
    read = batch_pickles.load(content)
    np.testing.assert_array_equal(read[b"data"], ROWS)
    assert read[b"labels"] == [1, 2]


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def with_data(value):
    return pickle.dumps({b"data": value}, protocol=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_data(Call(print, "run")), "asks for __builtin__.print"),
        (with_data(Call(np.zeros, 10**13)), "asks for numpy.zeros"),
        (with_data(Call(np.ndarray, (2,))), "asks for numpy.ndarray"),
        (python_2(shape=(2, 7)), r"shape \(2, 7\) and type \|u1 has 12 bytes"),
        (python_2(shape=(2**30, 2**30)), "has 12 bytes"),
        (python_2(shape=(-2, -6)), "an array has no shape"),
        # The type of the array, made larger after the array is there.
        (
            python_2(after=b"h\x05(K\x03U\x01<NNNJ\0\1\0\0K\x01K\0tb0"),
            "operation POP, which a batch",
        ),
        (pickle.dumps([1]), "it holds no dict"),
        (pickle.dumps(BATCH)[:-20], "not enough data|expected .* bytes"),
        (b"\x80\x02}.junk"[:2], "exhausted"),
        (b"\x80\x02e.", "a mark is missing"),
        (b"\x80\x02h\x07.", "an operation takes what is not there"),
        (b"\x80\x02}(K\x01K\x02u.", "its keys are not all bytes"),
        (b"\x80\x02}(U\x01au.", "its keys are not all bytes"),
        (b"\x80\x02N(K\x01e.", "items are added to what is no list"),
        (b"\x80\x02NNb.", "sets the state of what has none"),
        (b"\x80\x02NNR.", "it calls what is no function"),
        (b"\x80\x02B\xff\xff\xff\x7f.", "expected 2147483647 bytes"),
    ],
)
def test_what_a_batch_does_not_need_is_refused(content, message, capsys):
    with pytest.raises(batch_pickles.Damaged, match=message):
        batch_pickles.load(content)
    assert capsys.readouterr().out == ""


def test_memory_is_bounded_by_the_file():
    """One text of 100 kB, encoded again and again, would be 100 GB."""
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000
    start = b"\x80\x02c_codecs\nencode\nq\0" + text + b"q\x01X\x06\0\0\0latin1q\x02"
    content = start + b"h\x00h\x01h\x02\x86R" * 1_000_000 + b"."
    with pytest.raises(batch_pickles.Damaged, match="more bytes than it has"):
        batch_pickles.load(content)


def test_time_is_bounded():
    content = b"\x80\x02" + b"]" * (batch_pickles._MAXIMAL_OPERATIONS + 1) + b"."
    with pytest.raises(batch_pickles.Damaged, match="4,000,000 operations"):
        batch_pickles.load(content)
