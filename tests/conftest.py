"""What all tests share: four logical CPUs, quiet logs, and the path of real data."""

import os
import pathlib

# Before TensorFlow is imported, and handed down to the processes that tests start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Errors only.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# launch/test.sh builds the native kernels beforehand; no test shall do so on its way.
os.environ.setdefault("TEM_TF_NATIVE", "built")

import pytest

# Tests of MirroredStrategy take two to four of them.
LOGICAL_CPUS = 4


class _FreshKeys:
    """A range of collective keys for each MirroredStrategy of this process.

    TensorFlow numbers the collectives of every MirroredStrategy from the same start,
    and remembers their shapes for the life of the process, so a second one fails with
    "Shape mismatch in the collective instance 100". TensorFlow's own tests set the
    same attribute.
    """

    def __init__(self):
        self._next = 0

    def __get__(self, instance: object, owner: type) -> int:
        self._next += 100_000  # As in TensorFlow's strategy_combinations.py.
        return self._next


def pytest_configure(config: pytest.Config) -> None:
    """Sets TensorFlow up, but for a process in which xdist only shares tests out.

    The logical CPUs must exist before TensorFlow first runs anything, and for that any
    test may be the first.
    """
    if config.getoption("numprocesses", None):
        return
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * LOGICAL_CPUS,
    )
    tf.distribute.MirroredStrategy._collective_key_base = _FreshKeys()


# Files with tests that start workers, or that hold processes to seconds.
WITH_PROCESSES = (
    "tests/cluster/test_roll_call.py",
    "tests/faults/test_kills.py",
    "tests/launch/",
    "tests/multi_worker/",
    "tests/program/test_predict.py",
    "tests/slurm/",
    "tests/test_benchmarks.py",
    "tests/test_relay.py",
    "tests/test_time_to_target.py",
    "tests/test_wheel.py",
    "tests/workloads/test_main.py",
)


def _group(nodeid: str) -> str:
    """What stays in one process where xdist shares the tests out to several.

    A file does, because its tests share fixtures; and all of WITH_PROCESSES, so that
    one cluster runs at a time.
    """
    path = nodeid.partition("::")[0]
    return "processes" if path.startswith(WITH_PROCESSES) else path


@pytest.hookimpl(tryfirst=True)  # Before pytest deselects by marker.
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leaves out what only `-m exhaustive` runs, and orders the rest.

    A row of a table that is slow for two reasons, as in a graph and by the native
    kernels, is such a one: rows beside it are slow for either. The long groups come
    first in xdist's processes, so that they end together.
    """
    for item in items:
        if len(list(item.iter_markers("slow"))) > 1:
            item.add_marker(pytest.mark.exhaustive)
    if "exhaustive" not in config.option.markexpr:
        left_out = [i for i in items if i.get_closest_marker("exhaustive")]
        items[:] = [i for i in items if not i.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left_out)
    slow = {_group(i.nodeid) for i in items if i.get_closest_marker("slow")}
    for item in items:
        marked = item.get_closest_marker("multi_worker") is not None
        if marked and _group(item.nodeid) != "processes":
            raise pytest.UsageError(
                f"{item.nodeid} is marked multi_worker: its file must be among "
                "WITH_PROCESSES of tests/conftest.py."
            )
    if hasattr(config, "workerinput"):
        items.sort(key=lambda i: _group(i.nodeid) not in slow)
        items.sort(key=lambda i: _group(i.nodeid) != "processes")


@pytest.hookimpl(optionalhook=True)  # xdist's.
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """Shares out by `_group` under `--dist loadfile`.

    Not by `--dist loadgroup`: with pytest 9.2, xdist 3.8 does not see groups, and with
    others it adds them to the names of the tests.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LoadGroups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return LoadGroups(config, log)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The directory of real data that TEM_TF_DATA names; skips where it is not set."""
    path = os.environ.get("TEM_TF_DATA")
    if not path:
        pytest.skip("TEM_TF_DATA does not name a directory of data")
    if not pathlib.Path(path).is_dir():
        pytest.fail(f"TEM_TF_DATA is not a directory: {path}")
    return pathlib.Path(path)
