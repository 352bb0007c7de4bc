"""Fixtures with two and three real workers, kept alive over all tests of this folder.

    def test_sum_over_two_workers(two_workers):
        assert two_workers.run(laws.sum_over_workers, 3.0) == [6.0, 6.0]

`workers` runs a test with two and again with three. Everything here is marked
`multi_worker`.
"""

import pathlib
from collections.abc import Iterator

import pytest

from tests.multi_worker.harness import WorkerGroup

SIZES = {"two_workers": 2, "three_workers": 3}


def _size(item: pytest.Item) -> int:
    """How many of the kept workers a test uses; 0 if none."""
    if hasattr(item, "callspec") and "workers" in item.callspec.params:
        return item.callspec.params["workers"]
    return max(
        (SIZES.get(name, 0) for name in getattr(item, "fixturenames", ())), default=0
    )


@pytest.hookimpl(tryfirst=True)  # Before pytest deselects by marker.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks this folder's tests, and puts those with equally many workers together."""
    here = pathlib.Path(__file__).parent
    places = [i for i, item in enumerate(items) if here in item.path.parents]
    ours = sorted((items[place] for place in places), key=_size)
    for place, item in zip(places, ours, strict=True):
        item.add_marker(pytest.mark.multi_worker)
        items[place] = item


class _Pool:
    """The kept groups, of which one lives at a time: the machine may be small."""

    def __init__(self):
        self._group: WorkerGroup | None = None

    def get(self, size: int) -> WorkerGroup:
        if self._group is None or self._group.size != size:
            self.stop()
            self._group = WorkerGroup(size)
        return self._group

    def stop(self) -> None:
        if self._group is not None:
            self._group.stop()


@pytest.fixture(scope="session")
def _pool() -> Iterator[_Pool]:
    pool = _Pool()
    yield pool
    pool.stop()


@pytest.fixture
def two_workers(_pool: _Pool) -> WorkerGroup:
    """Two worker processes, started when they are first asked to run something."""
    return _pool.get(2)


@pytest.fixture
def three_workers(_pool: _Pool) -> WorkerGroup:
    """Three worker processes, started when they are first asked to run something."""
    return _pool.get(3)


@pytest.fixture(params=[2, 3], ids="{}_workers".format)
def workers(_pool: _Pool, request: pytest.FixtureRequest) -> WorkerGroup:
    """Two worker processes, and in a second run of the test three."""
    return _pool.get(request.param)
