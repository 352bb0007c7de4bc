"""Altered files are refused or read: a short form of `mutated_files.py`."""

import random

import pytest

from tests.faults import mutated_files


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.exhaustive)])
@pytest.mark.timeout(900)
def test_every_altered_file_is_refused_or_read(count):
    found = list(mutated_files.run(mutated_files.KINDS, count, seed=0))
    assert [one["kind"] for one in found] == list(mutated_files.KINDS)
    assert {one["kind"]: one["faults"] for one in found if one["faults"]} == {}
    refused = {one["kind"]: one["refused"] for one in found}
    refused.pop("minimum")  # A cache: what is damaged is made again.
    assert all(refused.values())


def test_altered_files_are_the_same_again_and_differ_from_the_intact_one():
    content = bytes(range(200)) * 3
    files = [mutated_files.mutated(content, random.Random(i)) for i in range(300)]
    again = [mutated_files.mutated(content, random.Random(i)) for i in range(300)]
    assert files == again
    assert len(set(files)) > 250
    assert sum(file == content for file in files) < 10
