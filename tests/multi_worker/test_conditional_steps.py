"""Steps that are skipped or held back, on two and three real workers."""

import itertools

import numpy as np
import pytest

import tem_tf
from tests.conditional import train
from tests.conditional_cases import SKIPPING, WAYS, overflowing
from tests.multi_worker import conditional_laws
from tests.steps import dyadic
from tests.training import make_strategy

# Compression, what skips, steps that are added up, native kernels.
FEW = [
    ("topk", "skip", 1, "built"),
    ("topk", "skip", 1, "0"),
    ("threshold", "dynamic", 2, "built"),
    ("powersgd", "dynamic", 1, "built"),
    ("identity", "skip", 1, "built"),
]
ALL = list(itertools.product(WAYS, SKIPPING, [1, 2], ["built", "0"]))


def assert_equal(found, expected):
    assert found["iterations"] == expected["iterations"]
    for one, other in zip(found["ends"], expected["ends"], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "table",
    [
        FEW,
        *(
            pytest.param(
                [row for row in ALL if row[:2] == pair], marks=pytest.mark.exhaustive
            )
            for pair in itertools.product(WAYS, SKIPPING)
        ),
    ],
    ids=lambda table: "few" if table is FEW else "-".join(table[0][:2]),
)
def test_an_overflow_on_one_worker_is_as_if_the_step_had_not_been(workers, table):
    """At step 7, on the last worker; with accumulation its partner goes with it."""
    with_it, without = [], []
    for way, options, accumulated, native in table:
        gradients, rest = overflowing(workers.size)
        if accumulated == 2:
            rest = np.delete(gradients, [6, 7], axis=0)
        settings = {**SKIPPING[options], "accumulate_steps": accumulated}
        with_it.append((gradients, native, WAYS[way], settings))
        without.append((rest, native, WAYS[way], settings))
    found = workers.run(conditional_laws.train_rows, with_it, timeout=120)
    expected = workers.run(conditional_laws.train_rows, without, timeout=120)
    for own, other in zip(found, expected, strict=True):
        for row, one, two in zip(table, own, other, strict=True):
            assert_equal(one, two)
            assert one["summary"]["skipped_steps"] == 1, row
            assert one["iterations"] == (11 if row[2] == 1 else 5), row


def test_held_back_steps_are_those_of_virtual_workers(two_workers):
    """Bit for bit, natively or not; what each holds back is its own."""
    gradients = dyadic(9, 2)
    rows = [
        (gradients, native, WAYS[name], {"accumulate_steps": 4})
        for name, native in [("topk", "built"), ("sign", "0"), ("identity", "0")]
    ]
    results = two_workers.run(conditional_laws.train_rows, rows, timeout=120)
    for row, (one, two) in zip(rows, zip(*results, strict=True), strict=True):
        expected = train(make_strategy(2), gradients, *row[2], **row[3])
        assert one["iterations"] == two["iterations"] == 2
        assert_equal({**one, "ends": one["ends"] + two["ends"]}, expected)


MEMORIES = {
    "error_feedback": "auto",
    "no_memory": None,
    "decaying": tem_tf.DecayingErrorFeedback(0.9),
    "dgc": tem_tf.MomentumCorrection(0.5),
    "ef21": tem_tf.EF21(),
    "ef21_sgdm": tem_tf.EF21SGDM(0.5),
}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_fit_in_sixteen_bits(two_workers, policy):
    """Every memory; alone, accumulated, skipping."""
    options = [{}, {"accumulate_steps": 2}, {"nonfinite": "skip"}]
    rows = [(memory, options[i % 3]) for i, memory in enumerate(MEMORIES.values())]
    if policy == "mixed_float16":  # Slow on processors that have no such numbers.
        rows = rows[:3]
    rows += [("auto", {"accumulate_steps": 2, "nonfinite": "skip"})]
    results = two_workers.run(conditional_laws.fit_by_policy, policy, rows, timeout=200)
    for row, (one, two) in zip(rows, zip(*results, strict=True), strict=True):
        assert one["iterations"] == two["iterations"]
        assert one["loss"] == two["loss"], row
        assert one["loss"][-1] < one["loss"][0], row
        for own, other in zip(one["weights"], two["weights"], strict=True):
            np.testing.assert_array_equal(own, other)
        steps = one["summary"]["steps"]
        assert one["iterations"] == steps - one["summary"]["skipped_steps"]
        assert steps == 16 // row[1].get("accumulate_steps", 1)
