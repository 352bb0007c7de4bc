"""Compressors and memories are named in one table, and everything else follows it."""

import dataclasses

import pytest

from tem_studies import command_line
from tem_studies.comparison.configuration import FIXED_SETTINGS, OWN_SETTINGS
from tem_studies.comparison.methods import METHODS
from tem_studies.convex.configuration import NEEDS
from tem_studies.workloads.compression import make_compressor, make_memory
from tem_studies.workloads.compression_rows import (
    COMPRESSOR_ROWS,
    MEMORY_ROWS,
    alternatives,
    owners,
)
from tem_studies.workloads.configuration import Configuration
from tem_tf.compressors import COMPRESSORS
from tem_tf.memory import MEMORIES

FIELDS = {field.name for field in dataclasses.fields(Configuration)}
VALUES = {"threshold": 0.1, "counts": None, "memory_decay": 0.5}


def needed(row):
    """Values of all settings that a row must have."""
    return {name: VALUES.get(name, 0.1) for name in row.needs}


@pytest.mark.parametrize("name", COMPRESSOR_ROWS)
def test_every_compressor_is_made_of_what_it_needs(name, tmp_path):
    row, settings = COMPRESSOR_ROWS[name], needed(COMPRESSOR_ROWS[name])
    if "counts" in settings:
        settings["counts"] = str(tmp_path / "counts.txt")
        (tmp_path / "counts.txt").write_text("3\n")
    configuration = Configuration(compressor=name, **settings)
    kind = COMPRESSORS[row.kind or name]
    assert type(make_compressor(configuration, steps_per_epoch=5)) is kind
    memory = make_memory(configuration)
    assert memory == "auto" if row.memory is None else type(memory) is MEMORIES["dgc"]


@pytest.mark.parametrize("name", MEMORY_ROWS)
def test_every_memory_is_made_of_what_it_needs(name):
    settings = needed(MEMORY_ROWS[name]) | {"compressor": "topk", "density": 0.1}
    memory = make_memory(Configuration(memory=name, **settings))
    assert type(memory) is MEMORIES[name]


def test_every_setting_has_a_flag_that_says_whose_it_is():
    for rows in (COMPRESSOR_ROWS, MEMORY_ROWS):
        for row in rows.values():
            for setting in row.settings:
                assert setting in FIELDS
                text = command_line.FLAGS[setting].help
                assert text.startswith(f"Of {owners(setting)}")
    assert alternatives(COMPRESSOR_ROWS) in command_line.FLAGS["compressor"].help
    assert alternatives(MEMORY_ROWS) in command_line.FLAGS["memory"].help


def test_every_setting_is_a_methods_own_or_fixed_in_a_comparison():
    of_rows = {name for row in COMPRESSOR_ROWS.values() for name in row.settings}
    of_rows |= {name for row in MEMORY_ROWS.values() for name in row.settings}
    assert of_rows <= {*OWN_SETTINGS, *FIXED_SETTINGS}


@pytest.mark.parametrize(
    "name", [name for name, row in COMPRESSOR_ROWS.items() if row.knob]
)
def test_a_compressor_with_a_knob_is_a_method(name):
    method = METHODS[name]
    assert method.has_budget and method.compressor == name
    strength = method.start(0.01, 10_000)
    # What it is given is what it must have, at any strength.
    Configuration(**method.settings(strength, steps=60))
    assert method.searched in COMPRESSOR_ROWS[name].needs


def test_accordion_is_set_up_as_in_its_study():
    method = METHODS["accordion"]
    assert method.start(0.01, 10_000) == 0.005
    assert method.settings(0.2, steps=60) == {
        "compressor": "accordion",
        "low_density": 0.2,
        "high_density": 1.0,
        "accordion_interval": 2,
    }


def test_the_laboratory_sets_up_what_has_one_setting_that_it_knows():
    assert NEEDS == {
        "hard_threshold": "threshold",
        "topk": "density",
        "random_k": "density",
    }
