"""Settings that fit together and do not do what their user may want."""

import pytest

from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.setting_warnings import warnings_of

DENSE = {"target_sparsity": 0.0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"compressor": "dgc", "density": 0.1, "optimizer": "momentum"},
            "warning: momentum twice: `memory` dgc has one of its own, and so has",
        ),
        (
            {
                "compressor": "topk",
                "density": 0.1,
                "memory": "ef21_sgdm",
                "optimizer": "adam",
            },
            "warning: momentum twice: `memory` ef21_sgdm has one of its own",
        ),
        (
            {"compressor": "random_k", "density": 0.1},
            "warning: random_k draws pruned entries, too: 90 % of the numbers that it",
        ),
        (
            DENSE | {"compressor": "topk", "density": 1.0},
            "warning: topk sends every entry in float32, no less than no compressor",
        ),
        (
            DENSE | {"compressor": "all"},
            "warning: all sends every entry in float32, no less than no compressor",
        ),
        (
            DENSE
            | {"compressor": "topk", "density": 0.1, "warmup_steps": 9}
            | {"train_iterations": 9},
            "warning: everything is sent in all steps, as `warmup_steps` 9 says.",
        ),
    ],
)
def test_they_are_said(settings, words):
    (line,) = warnings_of(Configuration(**settings))
    assert line.startswith(words)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compressor": "dgc", "density": 0.1},
        {"compressor": "topk", "density": 0.1, "optimizer": "momentum"},
        DENSE | {"compressor": "random_k", "density": 0.1},
        DENSE | {"compressor": "all", "value_dtype": "int4"},
        DENSE | {"compressor": "topk", "density": 1.0, "density_ramp_steps": 9},
    ],
)
def test_others_are_not(settings):
    assert warnings_of(Configuration(**settings)) == []
