"""Laws 8 and 9: every run has the same bits, with one and with several threads.

In the graph no sum is left to chance (addn.py), and in whole trainings no bit is. All
rows of compressors, memories and value types take half an hour:

    pytest tests/test_same_bits.py -m exhaustive
"""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tests.addn import added_chains
from tests.native_cases import needs_native
from tests.same_bits import COMPRESSORS, FEW, MEMORIES, ROWS, Training, rows_of
from tests.training import make_strategy

SMALL = ((6, 10), (20,), (7, 7), (7,))
# Each memory, where the corrected gradient is sent whole.
BY_MEMORY = [("identity", memory, "float32") for memory in MEMORIES]
OTHERS = [row for row in ROWS if row not in FEW + BY_MEMORY]
SELECTED_BY_KERNELS = [
    *(row for row in FEW if row[1:] == ("error_feedback", "float32")),
    ("topk_layer", "dgc", "int2"),
    ("hard_threshold", "ef21", "float16"),
    ("accordion", "decaying", "float32"),  # Clipped.
]
named = pytest.mark.parametrize(
    "row",
    [
        *dict.fromkeys(FEW + BY_MEMORY),
        *(pytest.param(row, marks=pytest.mark.exhaustive) for row in OTHERS),
    ],
    ids="-".join,
)


# ------------------------------------------------------------------------- in the graph


def chains(row, strategy=None):
    training = Training(row, strategy, SMALL)
    return added_chains(training.steps, tf.constant(1))


@named
def test_no_sum_of_operations_is_left_to_chance(row, monkeypatch):
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    assert not chains(row)


@needs_native
@pytest.mark.parametrize(
    "row",
    [
        *SELECTED_BY_KERNELS,
        *(
            pytest.param(row, marks=pytest.mark.exhaustive)
            for row in ROWS
            if row not in SELECTED_BY_KERNELS
        ),
    ],
    ids="-".join,
)
def test_no_sum_beside_the_kernels_is_left_to_chance(row):
    assert not chains(row)


@pytest.mark.slow
@pytest.mark.parametrize("row", FEW, ids="-".join)
def test_no_sum_over_devices_is_left_to_chance(row):
    assert not chains(row, make_strategy(2))


@dataclasses.dataclass(frozen=True)
class Naive(tem_tf.MomentumCorrection):
    """The same sum with two additions."""

    def compensate(self, state, gradient, step, segments):
        held = zip(state["residual"], state["velocity"], gradient, strict=True)
        return [m + (u * self.momentum + g) for m, u, g in held]


@pytest.mark.parametrize("compressor", ["hard_threshold", "identity", "sign"])
def test_a_memory_that_leaves_it_to_chance_is_found(compressor):
    found = chains((compressor, Naive(), "float32"))
    assert found
    assert all(line.startswith("3 x float32: ") for line in found)


def shared_layers(uses, wrap):
    """Chains of a step of a model that uses one kernel so often."""
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(6, use_bias=False, activation="tanh")
    inputs = outputs = keras.Input((6,))
    for _ in range(uses):
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    optimizer = keras.optimizers.SGD(0.1)
    if wrap is not None:
        optimizer = tem_tf.SparsifiedOptimizer(optimizer, *wrap)
    model.compile(optimizer, "mse", jit_compile=False)
    return added_chains(model.train_on_batch, np.ones((4, 6)), np.ones((4, 6)))


WRAPS = {
    "kernels": (tem_tf.TopK(0.5),),
    "momentum": (tem_tf.TopK(0.5), tem_tf.MomentumCorrection()),
    "operations": (tem_tf.TopK(0.5), tem_tf.EF21SGDM()),
    "decaying": (tem_tf.HardThreshold(0.1), tem_tf.DecayingErrorFeedback(0.5)),
    "identity": (tem_tf.Identity(), tem_tf.ErrorFeedback()),
    "nothing": (tem_tf.Identity(),),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_gradient_that_is_a_sum_is_not_added_up_with_a_residual(wrap):
    """Two uses of a kernel: the tape adds both gradients, a memory adds to the sum."""
    assert not shared_layers(2, wrap)


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_of_three_uses_the_tapes_own_sum_is_all_that_is_found(wrap):
    """TensorFlow's own: with plain Keras the same one is there."""
    (plain,) = shared_layers(3, None)
    assert plain.startswith("3 x float32: ")
    (found,) = shared_layers(3, wrap)
    assert found.startswith("3 x float32: ")


@pytest.mark.parametrize("wrap", [None, *WRAPS.values()], ids=["plain", *WRAPS])
def test_tied_embeddings(wrap):
    """A matrix that words are looked up in and compared with."""

    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = keras.layers.Embedding(9, 4)

        def call(self, words):
            return self.embedding(words) @ tf.transpose(self.embedding.embeddings)

    model = Tied()
    optimizer = keras.optimizers.SGD(0.1)
    if wrap is not None:
        optimizer = tem_tf.SparsifiedOptimizer(optimizer, *wrap)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    words = np.arange(8).reshape(4, 2)
    assert not added_chains(model.train_on_batch, words, words)


# ---------------------------------------------------------------------- whole trainings


@pytest.mark.parametrize(
    ("rows", "native"),
    [
        ("few", "built"),
        pytest.param("few", "0", marks=pytest.mark.slow),
        *(
            pytest.param(compressor, native, marks=pytest.mark.exhaustive)
            for compressor in COMPRESSORS
            for native in ("built", "0")
        ),
    ],
)
def test_every_run_has_the_same_bits(rows, native, tmp_path):
    """Two runs with one thread and two with four: both processes at once."""
    environment = {**os.environ, "TEM_TF_NATIVE": native, "CUDA_VISIBLE_DEVICES": "-1"}
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        environment.pop(name, None)
    outs = {threads: tmp_path / f"{threads}.json" for threads in (1, 4)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.same_bits", str(threads), rows, str(out)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for threads, out in outs.items()
    ]
    try:
        for process in processes:
            output = process.communicate(timeout=250)[0].decode(errors="replace")
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    one, four = (json.loads(out.read_text()) for out in outs.values())
    for row, runs in zip(rows_of(rows), np.hstack([one, four]), strict=True):
        assert len(set(runs)) == 1, row
