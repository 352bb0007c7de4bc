"""One SLURM for all tests of a file."""

import pathlib

import pytest

from tests.slurm.one_machine import one_machine_slurm

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def slurm():
    with one_machine_slurm() as running:
        running.environment |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        yield running
