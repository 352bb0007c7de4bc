"""Keras's own tests of its optimizers pass when the wrapper stands for them.

They are in the Keras wheel. Each optimizer that they make is wrapped with `Identity`;
see wrap_keras_optimizers.py.
"""

import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[1]
KERAS = pathlib.Path(keras.__file__).parent / "src"
FILES = [
    "optimizers/sgd_test.py",
    "optimizers/adam_test.py",
    "optimizers/optimizer_test.py",
    "backend/tensorflow/optimizer_distribute_test.py",
]
# It asks `keras.optimizers.get` for an instance of the plain class.
ABOUT_THE_CLASS = "test_get_method"
# Two optimizers with a momentum out of range, neither of which comes to be.
WITHOUT_OPTIMIZER = {("SGDTest", "test_invalid_momentum")}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """The test cases that ran: (class, name) -> JUnit element."""
    directory = tmp_path_factory.mktemp("keras")
    (directory / "pytest.ini").write_text("[pytest]\n")  # Not our settings.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--junit-xml=report.xml"),
            *("-c", "pytest.ini", "--rootdir=.", "-p", "no:cacheprovider"),
            *(
                "-p",
                "tests.wrap_keras_optimizers",
            ),
            *("-k", f"not {ABOUT_THE_CLASS}", *(str(KERAS / file) for file in FILES)),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,  # It takes about 15 s; kills the process, which has no children.
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = xml.etree.ElementTree.parse(directory / "report.xml")
    return {
        (case.get("classname", "").rpartition(".")[2], case.get("name")): case
        for case in report.iter("testcase")
    }


def count(case, name):
    (found,) = case.findall(f"properties/property[@name='{name}']")
    return int(found.get("value"))


def test_they_pass(cases):
    skipped = {case for case in cases if cases[case].find("skipped") is not None}
    # It asks for Keras 2, in the package tf_keras.
    assert skipped <= {("OptimizerDistributeTest", "test_single_step1")}
    # 68 in Keras 3.15.1, and the one left out.
    assert len(cases) - len(skipped) >= 60


def test_the_wrapper_is_what_ran(cases):
    ran = {case for case in cases if cases[case].find("skipped") is None}
    assert {case for case in ran if count(cases[case], "wrapped") == 0} == (
        WITHOUT_OPTIMIZER
    )
    summing = {case for case in ran if count(cases[case], "summed") > 0}
    assert summing >= {
        ("SGDTest", "test_single_step"),
        ("AdamTest", "test_correctness_with_golden"),
        ("OptimizerTest", "test_ema_with_model_fit"),
        ("OptimizerDistributeTest", "test_gradient_accumulation"),
    }
