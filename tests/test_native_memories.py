"""Kernels keep what TensorFlow's operations do, in vectors of several tasks.

The small cases are in test_native_path.py; here whole registers and tasks are filled.
"""

import os

import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tests.native_cases import needs_native
from tests.steps import apply_gradients
from tests.test_native_path import states
from tests.test_native_selection import splitmix64
from tests.training import make_strategy

pytestmark = needs_native

# By factors that round, as those of memory_cases do not.
MEMORIES = {
    "feedback": tem_tf.ErrorFeedback(),
    "decaying": tem_tf.DecayingErrorFeedback(0.9),
    "momentum": tem_tf.MomentumCorrection(0.9),
    "unmasked": tem_tf.MomentumCorrection(0.9, masking=False),
    "ef21": tem_tf.EF21(),
}
COMPRESSORS = {
    "threshold": tem_tf.HardThreshold(2.5),
    "topk_layer": tem_tf.TopK(density=0.002),
    "topk_model": tem_tf.TopK(density=0.3, scope="model"),
    "random_k": tem_tf.RandomK(0.01),
}
SIZE = 210_000  # Variables of 70,000 and 140,000: of two tasks, and of three.


def assert_same(monkeypatch, gradients, compressor, memory, **options):
    """Equal, bit for bit: weights after every step, and at the end all that is kept."""
    outcomes, kernels = [], os.environ.get("TEM_TF_NATIVE", "built")
    for mode in (kernels, "0"):
        monkeypatch.setenv("TEM_TF_NATIVE", mode)
        strategy = make_strategy(1)
        weights, optimizer = apply_gradients(
            strategy, gradients, compressor, False, memory=memory, **options
        )
        assert (optimizer.path == "native kernels") == (mode != "0")
        outcomes.append([weights, *states(strategy, optimizer, "memory/")])
    for own, other in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(own.view(np.uint32), other.view(np.uint32))


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_large_variables(monkeypatch, memory, compressor):
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((4, 1, SIZE), np.float32)
    gradients[2, 0, 5] = np.nan
    options = {"nonfinite": "zero", "local_clipnorm": 300.0}
    if not isinstance(memory, tem_tf.ErrorFeedback):
        options["value_dtype"] = "int2"
    assert_same(monkeypatch, gradients, compressor, memory, **options)


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_topk_where_the_sample_sees_the_large_entries_alone(monkeypatch, memory):
    """What was collected is put back then, and collected again."""
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((3, 1, 3 * 65_536), np.float32)
    for line in range(600):  # Of the first variable, of one task.
        begin = splitmix64(line) % (65_536 - 15)
        gradients[:, 0, begin : begin + 16] += 100
    assert_same(monkeypatch, gradients, tem_tf.TopK(density=0.05), memory)


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_a_variable_without_entries_and_one_that_sends_none(monkeypatch, memory):
    gradients = np.zeros((3, 1, 2), np.float32)  # Variables of none and of two.
    gradients[1] = 1.0
    compressor = tem_tf.HardThreshold(0.5)
    assert_same(monkeypatch, tf.constant(gradients), compressor, memory)
