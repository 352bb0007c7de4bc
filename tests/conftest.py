"""What all tests share: four logical CPUs, quiet logs, and the path of real data."""

import os
import pathlib

# Before TensorFlow is imported, and handed down to the processes that tests start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Errors only.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import pytest
import tensorflow as tf

# Tests of MirroredStrategy take two to four of them. They must exist before
# TensorFlow first runs anything, and for that any test may be the first.
LOGICAL_CPUS = 4
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * LOGICAL_CPUS,
)


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


tf.distribute.MirroredStrategy._collective_key_base = _FreshKeys()


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The directory of real data that TEM_TF_DATA names; skips where it is not set."""
    path = os.environ.get("TEM_TF_DATA")
    if not path:
        pytest.skip("TEM_TF_DATA does not name a directory of data")
    if not pathlib.Path(path).is_dir():
        pytest.fail(f"TEM_TF_DATA is not a directory: {path}")
    return pathlib.Path(path)
