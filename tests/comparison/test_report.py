"""Tables, figures and TensorBoard of a comparison whose results are known."""

import csv
import dataclasses
import json
import math
import threading
import types

import numpy as np
import pytest

from tem_studies.comparison import figures, report, study, tables, tensorboard
from tem_studies.comparison.directory import ComparisonDirectory
from tem_studies.refusal import Refusal
from tem_studies.workloads.study_files import alone_in
from tests.comparison import made_up


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished comparison, its report's place and text."""
    comparison = made_up.comparison(tmp_path_factory.mktemp("study"))
    made_up.write(comparison)
    place = comparison.path / "report"
    return comparison, place, report.make(comparison, place)


@pytest.mark.slow  # It draws and writes events of a hundred runs.
def test_table_has_a_line_per_method_budget_and_kind_of_rate(made):
    _, place, _ = made
    rows = rows_of(place / "comparison.csv")
    assert len(rows) == 2 * (5 * 2 + 1)
    by_name = {(r["kind"], r["budget"], r["method"]): r for r in rows}
    row = by_name["tuned", "0.05", "hard_threshold"]
    assert float(row["learning_rate"]) == 0.1
    assert float(row["strength"]) == pytest.approx(0.05, rel=0.01)
    assert float(row["test_accuracy"]) == pytest.approx(0.92, abs=0.02)
    assert float(row["total_error"]) == pytest.approx(40)
    assert (row["seeds"], row["diverged"]) == ("5", "0")
    marked = {r["method"] for r in rows if r["other_volume"] == "true"}
    assert marked == {"topk"}  # It sends 4 % too much.


@pytest.mark.slow  # It draws and writes events of a hundred runs.
def test_every_method_is_compared_with_every_other_on_paired_seeds(made):
    _, place, text = made
    rows = rows_of(place / "differences.csv")
    assert len(rows) == 2 * 2 * 6 * 5
    chosen = [
        r
        for r in rows
        if (r["kind"], r["budget"]) == ("tuned", "0.05")
        and (r["method"], r["minus"]) == ("topk_model", "hard_threshold")
    ]
    (row,) = chosen
    # What the seeds share, up to 0.02, is not in the interval.
    assert float(row["mean"]) == pytest.approx(-0.02, abs=0.005)
    assert float(row["high"]) - float(row["low"]) < 0.008
    assert row["verdict"] == "worse"
    assert "budget 5 %, tuned rates:" in text
    assert "budget 2 %, common rate 0.1:" in text
    assert "(not equal)" in text


@pytest.mark.slow  # It draws and writes events of a hundred runs.
def test_total_error_is_set_against_quality(made):
    _, place, text = made
    rows = {(r["kind"], r["budget"]): r for r in rows_of(place / "correlations.csv")}
    assert rows["tuned", "all"]["runs"] == "50"
    assert float(rows["tuned", "all"]["value"]) < -0.8
    assert "Spearman" in text


@pytest.mark.slow  # It draws and writes events of a hundred runs.
def test_curves_keep_the_sums_of_all_steps(made):
    _, place, _ = made
    rows = [
        r
        for r in rows_of(place / "curves.csv")
        if (r["kind"], r["budget"], r["method"]) == ("tuned", "0.05", "topk_model")
    ]
    assert len(rows) == made_up.STEPS
    assert sum(float(r["error"]) for r in rows) == pytest.approx(60)


@pytest.mark.slow  # It draws and writes events of a hundred runs.
def test_figures_and_events_are_there(made):
    _, place, _ = made
    names = "quality trajectories entries error total_error differences prediction"
    for name in [*names.split(), "tuning"]:
        for ending in ("png", "svg"):
            assert (place / f"{name}.{ending}").stat().st_size > 5000, name
    assert list(place.glob("tensorboard/tuned-0.05-topk/seed-0/events*"))
    assert list(place.glob("tensorboard/figures/events*"))


def test_report_can_be_made_before_all_is_finished(tmp_path):
    comparison = made_up.comparison(tmp_path, rates=(), budgets=(0.05,), nseeds=2)
    whole = made_up.write(
        dataclasses.replace(comparison, directory=str(tmp_path / "a"))
    )
    some = dataclasses.replace(comparison, directory=str(tmp_path / "b"))
    made_up.write(some, most=whole - 3)
    lines = report.read(some).lines
    assert 0 < sum(len(line.runs) for line in lines) <= 2 * 6 - 3
    # Where there is one rate, nothing was tuned.
    assert "\nbudget 5 %, learning rate 0.1:\n" in tables.text(report.read(some))
    with pytest.raises(Refusal, match="has no finished run to report yet"):
        report.read(dataclasses.replace(comparison, directory=str(tmp_path / "c")))


def test_methods_without_a_budget_are_reported_too(tmp_path):
    comparison = made_up.comparison(
        tmp_path,
        methods=("none", "all_sign", "local_int2"),
        baseline="none",
        budgets=(),
        rates=(),
        local_steps=4,
        nseeds=2,
    )
    made_up.write(comparison)
    said = report.make(comparison, tmp_path / "report")
    assert "not of fewer than 5 seeds" in said
    assert said.count("\nopen: these seeds show neither a difference of more than") == 1
    assert "\nlearning rate 0.1:\n" in said
    for name in ("none", "all_sign", "local_int2"):
        assert f"\n  {name} " in said
    assert "nan" not in said
    rows = rows_of(tmp_path / "report" / "differences.csv")
    assert len(rows) == 6
    assert {row["low"] for row in rows} == {""}
    for name in ("quality", "differences"):
        assert (tmp_path / "report" / f"{name}.png").exists()


def test_runs_that_diverged_are_counted_and_left_out(tmp_path):
    def change(task, result):
        if task.name.startswith("topk_model") and result["seed"] == 1:
            result.update(status="diverged", test=None, history=[], communication=None)
        if task.name.startswith("topk_model") and result["seed"] == 2:
            result.update(status="diverged", test=None)
            result["communication"]["payload_bytes"] //= 10

    comparison = made_up.comparison(tmp_path, rates=(), budgets=(0.05,))
    made_up.write(comparison, change=change)
    found = report.read(comparison)
    (line,) = [x for x in found.lines if x.row.method == "topk_model" and x.finished][
        :1
    ]
    assert [run.seed for run in line.finished] == [0, 3, 4]
    other = next(x for x in found.lines if x.row.method == "hard_threshold")
    assert found.difference(line, other).seeds == 3
    # What is left is at the budget.
    assert line.volume == pytest.approx(1)
    assert not line.is_marked
    (row,) = [r for r in tables.comparison(found) if r["method"] == "topk_model"]
    assert row["bytes_per_worker"] == pytest.approx(line.row.budget_bytes)
    assert (row["seeds"], row["diverged"]) == (5, 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b"entries" + path.read_bytes()),
        lambda path: np.savez(path, entries=[1]),
    ],
)
def test_records_of_steps_that_are_damaged_are_named(tmp_path, damage):
    comparison = made_up.comparison(tmp_path, rates=(), budgets=(0.05,), nseeds=1)
    made_up.write(comparison)
    path = next(tmp_path.glob("runs/topk-*-seed-0")) / "steps.npz"
    damage(path)
    words = f"{path} cannot be read .*: it is damaged or missing. Remove {path.parent}"
    with pytest.raises(Refusal, match=words):
        report.read(comparison)


def test_a_check_without_a_number_is_drawn_as_none(tmp_path):
    """A loss that is not finite has a perplexity that JSON lacks."""

    def change(task, result):
        if result["seed"] == 0:
            result.update(status="diverged", test=None)
            result["history"][-1]["validation_accuracy"] = None

    settings = {"methods": ("none", "hard_threshold"), "rates": (), "nseeds": 2}
    comparison = made_up.comparison(tmp_path, budgets=(0.05,), **settings)
    made_up.write(comparison, change=change)
    found = report.read(comparison)
    sent, value = found.lines[0].runs[0].history[-1]
    assert sent > 0
    assert math.isnan(value)
    tensorboard.write(found, [], tmp_path / "tensorboard")


def test_a_stretch_in_which_one_seed_sends_nothing_is_in_the_mean(tmp_path):
    settings = {"methods": ("none", "hard_threshold"), "rates": (), "nseeds": 2}
    comparison = made_up.comparison(tmp_path, budgets=(0.05,), **settings)
    made_up.write(comparison)
    found = report.read(comparison)
    line = next(x for x in found.lines if x.row.method == "hard_threshold")
    line.runs[1].entries[20:30] = 0
    figure = figures._over_time(found, "entries", "k")
    drawn = {x.get_label(): x.get_ydata() for x in figure.axes[0].lines}
    want = np.mean([run.entries for run in line.runs], axis=0)
    np.testing.assert_allclose(drawn[line.label], want)


def test_directory_of_another_configuration_is_refused_by_name(tmp_path):
    comparison = made_up.comparison(tmp_path)
    ComparisonDirectory(tmp_path).open(comparison)
    run = dataclasses.replace(comparison.run, batch_size=40)
    other = dataclasses.replace(comparison, run=run)
    words = r"another configuration: `batch_size` \(20 there, 40 here\)"
    with pytest.raises(Refusal, match=words):
        ComparisonDirectory(tmp_path).check(other)
    # More seeds, methods or budgets go on from what is there.
    ComparisonDirectory(tmp_path).check(dataclasses.replace(comparison, nseeds=9))


def test_runs_say_whose_they_are_where_comparison_json_is_gone(tmp_path):
    comparison = made_up.comparison(tmp_path, rates=(), budgets=(0.05,), nseeds=1)
    made_up.write(comparison)
    (tmp_path / "comparison.json").unlink()
    run = dataclasses.replace(comparison.run, batch_size=40)
    words = r"another configuration: `batch_size` \(20 there, 40 here\)"
    with pytest.raises(Refusal, match=words):
        ComparisonDirectory(tmp_path).open(dataclasses.replace(comparison, run=run))
    assert not (tmp_path / "comparison.json").exists()
    ComparisonDirectory(tmp_path).open(comparison)


def test_two_comparisons_cannot_both_open_an_empty_directory(tmp_path):
    one = made_up.comparison(tmp_path)
    run = dataclasses.replace(one.run, batch_size=40)
    errors = []

    def open_other():
        try:
            other = dataclasses.replace(one, run=run)
            ComparisonDirectory(tmp_path).open(other)
        except ValueError as error:
            errors.append(str(error))

    second = threading.Thread(target=open_other)
    with alone_in(tmp_path):  # The first is about to write what it has checked.
        second.start()
        second.join(timeout=0.5)
        assert second.is_alive()
        content = {"shared": one.identity()}
        (tmp_path / "comparison.json").write_text(json.dumps(content))
    second.join(timeout=10)
    assert ["another configuration: `batch_size`" in words for words in errors] == [
        True
    ]


def test_directory_of_other_data_is_refused(tmp_path, monkeypatch):
    """Whatever `path_data` says: a directory `tokens` may hold any text."""
    comparison = made_up.comparison(tmp_path, rates=(), budgets=(0.05,), nseeds=1)
    made_up.write(comparison)
    checksums = iter([7, 7, 8])
    data = types.SimpleNamespace(digest=lambda: next(checksums))
    monkeypatch.setattr(study, "load", lambda _: data)
    monkeypatch.setattr(study, "make_strategy", lambda _: None)
    for _ in range(2):
        study._work(comparison)  # Everything is finished.
    words = r"another configuration: `checksum of the data` \(7 there, 8 here\)"
    with pytest.raises(Refusal, match=words):
        study._work(comparison)


def test_finished_runs_may_be_forbidden_and_damaged_ones_are_named(tmp_path):
    comparison = made_up.comparison(tmp_path)
    made_up.write(comparison, most=3)
    with pytest.raises(Refusal, match="has 3 finished runs, and --no_load_cache"):
        ComparisonDirectory(tmp_path).check(
            dataclasses.replace(comparison, resumes=False)
        )
    path = next(tmp_path.glob("runs/*/result.json"))
    path.write_text(path.read_text()[:50])
    with pytest.raises(Refusal, match="half-written or damaged"):
        ComparisonDirectory(tmp_path).results()
    path.write_text("{}")
    with pytest.raises(Refusal, match=f"{path} is damaged, or not of this study: 'sta"):
        ComparisonDirectory(tmp_path).results()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"finished"',
            '"wonderful"',
            "'wonderful' is not one of .*status",
        ),
        (
            '"replicas": 2',
            '"replicas": -50',
            "-50 is less than the minimum of 1",
        ),
        ('"replicas": 2', '"replicas": 1e999', "1e999 is not finite"),
        ('"replicas": 2', '"replicas": NaN', "NaN is not finite"),
        ('"replicas": 2', f'"replicas": {"9" * 5000}', "an integer has 5000 digits"),
        ('"replicas": 2', f'"replicas": {"[" * 99999}', "maximum recursion depth"),
        ('"dense/kernel"', '"dense": 1, "other"', "1 is not of type 'object'"),
    ],
)
def test_altered_result_is_refused_by_what_is_wrong(tmp_path, old, new, message):
    comparison = made_up.comparison(tmp_path)
    made_up.write(comparison, most=1)
    path = next(tmp_path.glob("runs/*/result.json"))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(Refusal, match=f"{path} .*{message}"):
        ComparisonDirectory(tmp_path).results()


def test_what_meets_no_budget_is_marked_as_at_its_own_volume(tmp_path):
    comparison = made_up.comparison(
        tmp_path,
        methods=("none", "topk_model", "all_int8", "mine:Half"),
        budgets=(0.05,),
        rates=(),
        baseline="none",
        nseeds=1,
    )
    made_up.write(comparison)
    found = report.read(comparison)
    marks = {row["method"]: row["other_volume"] for row in tables.comparison(found)}
    own = {"all_int8": "own", "mine:Half": "own"}
    assert marks == {"none": "", "topk_model": ""} | own
    allowed = next(x.row.budget_bytes for x in found.lines if x.row.budget)
    share = 100 * 4 * made_up.SIZE * made_up.STEPS / allowed
    text = tables.text(found)
    assert text.count(f"  volume {share:.1f} % (its own)") == 2
    assert "mine:Half" in {line.label for line in found.lines if line.is_marked}
    # Without a budget there is nothing to be beside.
    alone = dataclasses.replace(comparison, methods=("none", "all_int8"), budgets=())
    assert not any(line.is_marked for line in report.read(alone).lines)
