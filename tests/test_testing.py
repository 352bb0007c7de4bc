"""Laws of tem_tf.testing: what is right passes, and each wrong thing is named."""

import pathlib
import re

import pytest
import tensorflow as tf

import tem_tf
from tem_tf.testing import (
    COMPRESSOR_LAWS,
    MEMORY_LAWS,
    check_compressor,
    check_memory,
)
from tests import mutants
from tests.compressor_cases import ALL
from tests.memory_cases import KEEPING

# Rows that differ from another in a number or a schedule.
VARIANTS = [
    *("hard_threshold_sends_none", "hard_threshold_sends_all", "topk_layer_k"),
    *("topk_model_all", "hard_threshold_ramp", "topk_warmup", "random_k_ramp"),
    *("topk_model", "topk_ramp_model", "dgc_unmasked", "ef21_of_a_user"),
]


def rows(table):
    """Of a table; variants in the slow part."""
    return [
        pytest.param(row, marks=[pytest.mark.slow] if name in VARIANTS else [], id=name)
        for name, row in table.items()
    ]


@pytest.mark.parametrize("compressor", rows(ALL))
def test_every_compressor_keeps_the_laws(compressor):
    check_compressor(compressor)


@pytest.mark.parametrize("memory", rows(KEEPING))
def test_every_memory_keeps_the_laws(memory):
    check_memory(memory)


def name_of(value):
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("mutant", "law"), mutants.COMPRESSORS, ids=name_of)
def test_a_wrong_compressor_is_caught_by_the_law_it_breaks(mutant, law):
    says = f"{type(mutant).__name__} breaks the law `{law}`: "
    with pytest.raises(AssertionError) as error:
        check_compressor(mutant)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize(("mutant", "law"), mutants.MEMORIES, ids=name_of)
def test_a_wrong_memory_is_caught_by_the_law_it_breaks(mutant, law):
    says = f"{type(mutant).__name__} breaks the law `{law}`: "
    with pytest.raises(AssertionError) as error:
        check_memory(mutant)
    assert str(error.value).startswith(says)


def test_every_law_catches_something():
    assert {law for _, law in mutants.COMPRESSORS} == set(COMPRESSOR_LAWS)
    assert {law for _, law in mutants.MEMORIES} == set(MEMORY_LAWS)


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (mutants.Unregistered, "registered"),
        (mutants.IsNotVectorised, "simulated"),
        (mutants.Unbiased, "contracts"),
    ],
)
def test_what_a_compressor_is_not_for_need_not_hold(kind, option):
    check_compressor(kind(), **{option: False})


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (mutants.UnregisteredMemory, "registered"),
        (mutants.NormalisesAll, "by_variable"),
    ],
)
def test_what_a_memory_is_not_for_need_not_hold(kind, option):
    check_memory(kind(), **{option: False})


@pytest.mark.parametrize(
    "kind", [mutants.Sends, mutants.Gathers, mutants.GathersEntries]
)
def test_what_the_wrong_ones_are_made_from_is_right(kind):
    """So that each is wrong in the one thing that it changes."""
    check_compressor(kind(), registered=False)


def test_what_the_wrong_memories_are_made_from_is_right():
    check_memory(mutants.Keeps(), registered=False)


def test_a_failure_says_where_and_with_which_numbers():
    class Halves(tem_tf.Compressor):
        def compress(self, state, corrected, step, segments, heard=()):
            if not heard:
                return tem_tf.Sum(corrected)
            total = [tf.where(step > 0, v / 2, v) for v in heard[0].total]
            return tem_tf.Done(total, state, own=corrected)

    with pytest.raises(AssertionError) as error:
        check_compressor(Halves(), registered=False)
    assert str(error.value) == (
        "Halves breaks the law `conservation`: what leaves the workers' corrected "
        "gradients must add up to the total. Received: 0.5, expected 1.0, at entry [0] "
        "of tensor 0 (47 of 48 differ). On variables: kernel (8, 6), empty (0, 4), "
        "scalar (), long (70,); gradients: equal magnitudes; workers: 1; step 2."
    )


def test_every_block_of_the_page_on_own_compressors_runs():
    page = pathlib.Path(__file__).parents[1] / "docs" / "own-compressors.md"
    text = page.read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    commands = text.count("```\npython main.py ")  # Which test_own.py runs.
    assert len(blocks) + commands == text.count("```") / 2
    names = {"__name__": "own_compressors"}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
