"""Every file of a checkpoint, cut short or altered anywhere: noticed, never taken."""

import hashlib
import random
import shutil

import numpy as np
import pytest

from tem_tf.checkpoint.array_files import (
    Damaged,
    Fingerprint,
    read_arrays,
    write_arrays,
)
from tem_tf.checkpoint.directory import SHARED, Directory
from tests.checkpoint.one_weight import OneWeight

WORKERS, STEP = 3, 4
TRUNCATED, FLIPPED = 20, 200
ABOUT = {"facts": {}, "versions": {}}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint of three workers."""
    directory = tmp_path_factory.mktemp("written")
    draw = np.random.default_rng(0)
    for worker in reversed(range(WORKERS)):
        files = Directory(directory, worker, WORKERS, keep=2)
        own = {
            "0/remembered/residual": draw.normal(size=40).astype(np.float32),
            "0/random/python": draw.integers(0, 9, 30).astype(np.uint32),
        }
        shared = {"weights/kernel": draw.normal(size=(5, 4))} if worker == 0 else None
        files.write(STEP, shared, own)
    files.commit(STEP, 1, ABOUT, seconds=0.0)
    return directory


def read_all(directory):
    files = Directory(directory, 0, WORKERS, keep=2)
    manifest = files.manifest(STEP)
    return [files.read(manifest, name) for name in (SHARED, *range(WORKERS))]


def damages(content, draw):
    """The content cut short at places, and with one bit altered at others."""
    lengths = {0, 1, len(content) - 1}
    while len(lengths) < TRUNCATED:
        lengths.add(draw.randrange(len(content)))
    for length in sorted(lengths):
        yield f"cut to {length} bytes", content[:length]
    for _ in range(FLIPPED):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        altered = bytearray(content)
        altered[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} altered", bytes(altered)


def in_words(arrays):
    return [
        {name: (a.dtype.name, a.shape, a.tobytes()) for name, a in each.items()}
        for each in arrays
    ]


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "shared.arrays", *(f"worker-{i}.arrays" for i in range(WORKERS))],
)
def test_damage_of_every_file_is_noticed(name, written, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(written, directory)
    (place,) = directory.iterdir()
    path = place / name
    content = path.read_bytes()
    assert in_words(read_all(directory)) == in_words(read_all(written))
    for what, damaged in damages(content, random.Random(name)):
        path.write_bytes(damaged)
        try:
            found = read_all(directory)
        except Damaged as error:
            assert name in str(error)
        else:
            pytest.fail(f"{name}, {what}: taken as {found}")
    path.unlink()
    with pytest.raises(Damaged, match=name):
        read_all(directory)


def test_the_checkpoint_has_no_other_files(written):
    (place,) = written.iterdir()
    assert sorted(path.name for path in place.iterdir()) == [
        "manifest.json",
        "shared.arrays",
        *(f"worker-{i}.arrays" for i in range(WORKERS)),
    ]


@pytest.mark.parametrize("size", [20, 200])
def test_arrays_whose_digest_was_altered_too_are_refused_or_read(size, tmp_path):
    """A damaged table costs no crash and no memory, even if nobody saw the damage."""
    path = tmp_path / "x.arrays"
    write_arrays(path, {"a": np.arange(size, dtype=np.int64), "b": np.zeros((2, 3))})
    content = path.read_bytes()
    noticed = 0
    for _, damaged in damages(content, random.Random(size)):
        path.write_bytes(damaged)
        digest = hashlib.sha256(damaged).hexdigest()
        try:
            arrays = read_arrays(path, Fingerprint(len(damaged), digest))
        except Damaged:
            noticed += 1
        else:
            assert sum(array.nbytes for array in arrays.values()) <= len(damaged)
    assert noticed >= TRUNCATED  # Each that was cut, and flips of the table.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return OneWeight(tmp_path_factory.mktemp("whole")).run(4)


@pytest.mark.parametrize("name", ["manifest.json", "shared.arrays", "worker-0.arrays"])
@pytest.mark.parametrize("damage", ["cut", "altered", "removed"])
def test_the_checkpoint_before_is_taken(damage, name, whole, tmp_path):
    directory = tmp_path / "killed"
    OneWeight(directory).run(3)
    places = sorted(directory.glob("step-*"))
    assert [place.name for place in places] == ["step-00000002", "step-00000003"]
    path = places[-1] / name
    content = path.read_bytes()
    half = len(content) // 2
    altered = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    if damage != "removed":
        path.write_bytes(altered if damage == "altered" else content[:-1])
        with pytest.warns(UserWarning, match=r"step 3 is damaged .*the one before it"):
            again = OneWeight(directory)
        assert (directory / "damaged-step-00000003" / name).exists()
    else:
        path.unlink()
        if name == "manifest.json":  # There is no checkpoint without.
            again = OneWeight(directory)
        else:
            with pytest.warns(UserWarning, match="cannot be read: No such file"):
                again = OneWeight(directory)
    assert again.start == 2
    assert again.run(4) == whole


def test_where_all_are_damaged_training_begins_anew(whole, tmp_path):
    directory = tmp_path / "killed"
    OneWeight(directory).run(3)
    for path in directory.glob("step-*/shared.arrays"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged") as warned:
        again = OneWeight(directory)
    assert len(warned) == 2
    assert again.start == 0
    assert again.run(4) == whole
