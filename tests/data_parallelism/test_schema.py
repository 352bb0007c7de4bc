"""What a trial leaves is as its schema says, the studies of this repository, too."""

import json
import pathlib

import jsonschema
import pytest

from tem_studies.data_parallelism.directory import TRIAL_SCHEMA, StudyDirectory
from tem_studies.refusal import Refusal
from tests.faults import intact_files

STUDIES = pathlib.Path(__file__).parents[2] / "studies" / "data_parallelism"


def test_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(TRIAL_SCHEMA)


def test_results_in_the_repository_are_read():
    places = sorted(path.parent for path in STUDIES.glob("**/study.json"))[:4]
    assert len(places) == 4
    for place in places:
        directory = StudyDirectory(place)
        assert directory.results()
        assert directory.points()
        assert directory.configuration()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("status", "wonderful", "'wonderful' is not one of"),
        ("steps_to_result", None, "None is not of type 'integer'"),
        ("steps", -1, "-1 is less than the minimum of 0"),
        ("metaparameters", {"learning_rate": "high"}, "'high' is not of type 'number'"),
        ("history", [{"step": 1}], "'validation_accuracy' is a required property"),
    ],
)
def test_altered_trial_is_refused_by_what_is_wrong(tmp_path, name, value, message):
    place = intact_files.trials(tmp_path / "study")
    path = place / "run-0" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(Refusal, match=f"{path} is damaged, .*{message}.*{name}"):
        StudyDirectory(place).results()
