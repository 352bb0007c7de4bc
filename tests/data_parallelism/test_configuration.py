"""What a study leaves alone, and that its identity does not depend on it."""

import re

import pytest

from tem_studies.data_parallelism.configuration import Cell
from tem_studies.refusal import Refusal
from tem_studies.workloads.configuration import Configuration

RUN = {"goal_error": 0.3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"arch": "resnet-18"},
            "`arch` of a study must be one of simple-cnn, resnet-8, or "
            "module:function. Received: arch='resnet-18'.",
        ),
        (
            {"augmentation": "crop-flip"},
            "`augmentation` cannot be set in a study. Received: "
            "augmentation='crop-flip'. Leave --augmentation out.",
        ),
        (
            {"decay_type": "cosine"},
            "`decay_type` of a study must be one of constant, linear. Received: "
            "decay_type='cosine'.",
        ),
    ],
)
def test_settings_of_other_workloads_are_refused(settings, message):
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        Cell(Configuration(**RUN | settings))


def test_identity_names_the_settings_that_studies_have_always_had():
    identity = Cell(Configuration(**RUN)).identity()
    assert "weight_decay" not in identity
    assert {"arch", "datasource", "optimizer", "batch_size"} <= set(identity)
