"""Trials in one file: what was in the files of each comes back, byte for byte."""

import json
import os
import pathlib
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tem_studies.data_parallelism import packed_trials
from tem_studies.data_parallelism.command_line import export, pack
from tem_studies.data_parallelism.directory import StudyDirectory
from tem_studies.refusal import Refusal
from tem_studies.written_files import durable_files
from tests.faults import intact_files


@pytest.fixture
def study(tmp_path):
    """A study of three trials and a rerun, each with files of its own."""
    place = intact_files.trials(tmp_path / "studies" / "s0-b20")
    first = json.loads((place / "run-0/result.json").read_text())
    shutil.rmtree(place / "run-0")
    directory = StudyDirectory(place)
    for trial, steps in enumerate((40, 30, None)):
        result = json.loads(json.dumps(first))
        result |= {"trial": trial, "steps_to_result": steps, "steps": steps or 100}
        result["status"] = "complete" if steps else "incomplete"
        result["history"][0]["step"] = steps or 100
        directory.save(f"run-{trial}", result)
    directory.save("rerun-1-seed-3", result | {"seed": 3, "trial": 1})
    return place


def contents(place):
    """All files below a directory by name, without claims."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and path.name != ".claim"
    }


def test_packed_trials_are_exported_to_the_same_bytes(study, tmp_path):
    before, results = contents(study), StudyDirectory(study).results()
    assert "4 trials" in pack([study.parent])
    assert sorted(contents(study)) == [
        "metaparameters.json",
        "study.json",
        "trials.jsonl",
    ]
    assert StudyDirectory(study).results() == results
    assert list(StudyDirectory(study).results()) == list(results)
    assert "4 trials" in export(study.parent, str(tmp_path / "copy"))
    assert contents(tmp_path / "copy" / study.name) == before


def test_what_is_shared_is_written_once(study):
    pack([study])
    first, *others = map(json.loads, (study / "trials.jsonl").read_text().splitlines())
    assert first["name"] == "run-0" and "goal_error" in first["result"]["configuration"]
    assert set(others[0]["changes"]) == {
        "/trial",
        "/steps_to_result",
        "/steps",
        "/history",
    }


def test_more_trials_are_packed_beside_the_first(study):
    pack([study])
    directory = StudyDirectory(study)
    assert len(directory.finished()) == 4
    result = directory.results()["run-2"]
    directory.save("run-3", result | {"trial": 3})
    assert len(directory.finished()) == 5
    pack([study])
    assert not (study / "run-3").exists()
    assert list(directory.results()) == [
        *("run-0", "run-1", "run-2", "run-3", "rerun-1-seed-3")
    ]


def test_a_packed_trial_cannot_be_claimed(study):
    directory = StudyDirectory(study)
    pack([study])
    with directory.claim("run-0") as packed, directory.claim("run-9") as other:
        assert (packed, other) == (False, True)


def test_what_others_have_put_into_a_folder_stays(study):
    (study / "run-1" / "notes.txt").write_text("the best one")
    pack([study])
    assert [path.name for path in (study / "run-1").iterdir()] == ["notes.txt"]


class Killed(BaseException):
    """Ends the process here: nothing tidies up behind it."""


@pytest.mark.parametrize("killed", range(1, 13))
def test_packing_may_be_killed(study, tmp_path, monkeypatch, killed):
    before, results = contents(study), StudyDirectory(study).results()
    removed = []

    def unlink(path, missing_ok=False):
        removed.append(path)
        if len(removed) == killed:
            raise Killed
        if path.exists():
            os.unlink(path)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(pathlib.Path, "unlink", unlink)
        pack([study])
    assert StudyDirectory(study).results() == results
    pack([study])
    export(study, str(tmp_path / "copy"))
    assert contents(tmp_path / "copy") == before


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda lines: lines[:1] + ["{"] + lines[2:], "cannot be read as JSON"),
        (lambda lines: lines[1:], "line 1 is not of one trial more"),
        (lambda lines: [lines[0]] + lines, "line 2 is not of one trial more"),
        (lambda lines: [lines[0], *lines[1:], lines[1]], "line 5 is not"),
        (lambda lines: [lines[0], lines[1].replace("/steps", "/no")], "is nowhere in"),
        (lambda lines: [lines[0].replace("run-0", "../run-0")], "does not match"),
        (lambda lines: [lines[0].replace('"status": "complete"', '"status": 1')], "1"),
    ],
)
def test_a_damaged_file_is_refused_and_stays(study, tmp_path, alter, words):
    pack([study])
    file = study / "trials.jsonl"
    file.write_text("\n".join(alter(file.read_text().splitlines())))
    before = contents(study)
    for call in (lambda: pack([study]), lambda: export(study, str(tmp_path / "copy"))):
        with pytest.raises(Refusal, match=words):
            call()
    assert contents(study) == before and not (tmp_path / "copy").exists()


def test_folders_of_other_names_are_left_alone(study):
    shutil.copytree(study / "run-0", study / "run-0-old")
    pack([study])
    assert len(StudyDirectory(study).results()) == 4
    assert (study / "run-0-old" / "result.json").exists()


def test_another_result_of_a_packed_trial_is_refused_and_stays(study):
    pack([study])
    directory = StudyDirectory(study)
    directory.save("run-0", directory.results()["run-0"] | {"seed": 9})
    before = contents(study)
    with pytest.raises(Refusal, match="is another result than the one of that name"):
        pack([study])
    assert contents(study) == before


def test_what_is_packed_while_it_is_read_is_read(study, monkeypatch):
    """Before the packed file is looked at, and after the files were listed."""
    results = StudyDirectory(study).results()
    other = StudyDirectory(study)
    real = other._result_files

    def packed_meanwhile():
        found = real()
        if (study / "run-0").exists():
            pack([study])
        return found

    monkeypatch.setattr(other, "_result_files", packed_meanwhile)
    assert other.results() == results


def test_a_folder_that_was_packed_just_now_is_nobodys(study, monkeypatch):
    make = durable_files.make_directory

    def packed_meanwhile(folder, **options):
        make(folder, **options)
        if folder.name == "run-0" and not (study / "trials.jsonl").exists():
            pack([study])

    monkeypatch.setattr(durable_files, "make_directory", packed_meanwhile)
    with StudyDirectory(study).claim("run-0") as is_ours:
        assert not is_ours


@pytest.mark.parametrize("call", [lambda p: pack([p]), lambda p: export(p, "copy")])
def test_no_directory_is_not_this_one(call):
    with pytest.raises(Refusal, match="must have a name"):
        call("")


def test_a_study_without_trials_is_packed_to_nothing(study):
    for folder in study.glob("*run-*"):
        shutil.rmtree(folder)
    assert "nothing to pack" in pack([study])
    assert not (study / "trials.jsonl").exists()


def test_a_copy_is_not_mixed_with_other_files(study, tmp_path):
    with pytest.raises(Refusal, match="Pass one as --logdir"):
        export(study, None)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "other").touch()
    with pytest.raises(Refusal, match="is not empty"):
        export(study, str(tmp_path / "used"))
    with pytest.raises(Refusal, match="There is no study"):
        pack([tmp_path / "used"])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), json_values), min_size=1, max_size=4))
def test_any_results_come_back(tmp_path_factory, results):
    place = tmp_path_factory.mktemp("packed")
    named = {f"run-{i}": result for i, result in enumerate(results)}
    packed_trials.write(place, named)
    text = json.dumps(packed_trials.read(place, {}))
    assert text == json.dumps(packed_trials.finite_or_null(named))
