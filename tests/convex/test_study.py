"""Studies from one command: what they write, how they go on, what they refuse."""

import csv
import dataclasses
import pathlib
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

import tem_tf
from tem_studies import command_line
from tem_studies.convex import (
    cells,
    data,
    figures,
    run_files,
    simulation,
    study,
    trace,
)
from tem_studies.convex.configuration import METHODS, SPLITS, ConvexConfiguration
from tem_studies.convex.methods import METHODS as METHOD_OBJECTS
from tem_studies.convex.splits import SPLITS as SPLIT_NAMES
from tem_studies.refusal import Refusal

pytestmark = pytest.mark.slow  # Whole runs.

SHORT = (
    "--arch logistic-regression --compressors hard_threshold,topk,topk_equal "
    "--threshold 0.05 --k 2 --workers 4 --train_iterations 60 --seeds 2"
)


def run_main(text):
    """Runs main.py in this process; returns the exit code."""
    with flagsaver.flagsaver():
        for name in command_line.FLAGS:
            command_line.FLAGS[name].present = 0
        return command_line.main(["main.py", *text.split()])


@pytest.fixture
def command(capsys):
    """The same; returns what was printed too."""
    return lambda text: (run_main(text), capsys.readouterr())


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study_done(tmp_path_factory):
    """A small study, done; tests take a copy."""
    directory = tmp_path_factory.mktemp("study")
    assert run_main(f"{SHORT} --logdir {directory}") == 0
    return directory


@pytest.fixture
def finished(study_done, tmp_path):
    """A copy of a small study."""
    return shutil.copytree(study_done, tmp_path / "study")


def test_study_writes_tables_figures_and_events(finished):
    for name in ("curves.png", "curves.svg", "summary.csv", "curves.csv"):
        assert (finished / name).stat().st_size > 0
    rows = rows_of(finished / "summary.csv")
    assert [(row["compressor"], row["seed"]) for row in rows] == [
        (name, seed)
        for name in ("hard_threshold", "topk", "topk_equal")
        for seed in ("0", "1")
    ]
    assert {row["status"] for row in rows} == {"finished"}
    # Equal volume: the mean over workers, rounded down to an entry.
    for copy, original in zip(rows[4:], rows[:2], strict=True):
        assert 0 <= float(original["bits"]) - float(copy["bits"]) < 32 + 0.01
    curves = rows_of(finished / "curves.csv")
    assert float(curves[1]["bits_least"]) <= float(curves[1]["bits"])
    directory = next((finished / "runs").iterdir())
    recorded = rows_of(directory / "curves.csv")
    assert [int(row["step"]) for row in recorded] == list(range(0, 61, 10))
    (events,) = directory.glob("events.out.tfevents.*")
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    fields = [field.name for field in dataclasses.fields(trace.Trace)]
    fields = fields[: fields.index("schedule")]
    assert tags == {f"convex/{name}" for name in fields if name != "step"}


def test_interrupted_study_goes_on_where_it_was(finished, command, monkeypatch):
    before = rows_of(finished / "summary.csv")
    stamps = {p: p.stat().st_mtime_ns for p in finished.glob("runs/*/run.json")}
    removed = min(stamps)
    removed.unlink()
    runs, original = [], simulation.run
    monkeypatch.setattr(
        simulation, "run", lambda *a, **k: runs.append(k["seed"]) or original(*a, **k)
    )
    assert command(f"{SHORT} --logdir {finished}")[0] == 0
    assert len(runs) == 1
    again = rows_of(finished / "summary.csv")
    for row in before + again:
        row.pop("seconds")
    assert again == before
    for path, stamp in stamps.items():
        assert (path.stat().st_mtime_ns == stamp) == (path != removed)


def test_two_at_once_share_the_runs(tmp_path):
    # Threads stand for processes: a lock on a file is one of its open descriptor.
    configuration = ConvexConfiguration(
        compressors=("none", "hard_threshold", "topk_equal"),
        threshold=0.05,
        workers=4,
        train_iterations=60,
        seeds=2,
        logdir=str(tmp_path),
    )
    said = []
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(study.run, configuration, said.append) for _ in range(2)]
    first, second = (future.result() for future in both)
    assert first == second
    assert len([line for line in said if "finished after" in line]) == 6
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("run.json", run_files.read),
        ("curves.csv", run_files.read),
        ("entries.npy", run_files.read_entries),
    ],
)
def test_damaged_run_is_named(finished, name, read, share):
    (directory,) = (finished / "runs").glob("*hard_threshold*seed0*")
    read(directory)
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(Refusal, match=f"{directory}.*damaged.*emove it"):
        read(directory)


def test_control_of_ef21_is_not_taken_for_one_of_another_volume(command, tmp_path):
    text = (
        "--arch logistic-regression --compressors hard_threshold,topk_equal "
        f"--threshold 0.05 --workers 4 --train_iterations 60 --logdir {tmp_path} "
    )
    assert command(text + "--methods ef21-sgdm")[0] == 0
    assert command(text + "--methods ec-sgd,ef21-sgdm")[0] == 0
    rows = rows_of(tmp_path / "summary.csv")
    density = {(row["method"], row["compressor"]): row["density"] for row in rows}
    assert density["ef21-sgdm", "topk_equal"] == density["ec-sgd", "topk_equal"]


def test_other_settings_do_not_take_what_is_there(finished, command):
    count = len(list(finished.glob("runs/*")))
    text = f"{SHORT} --step_size 0.5 --logdir {finished}"
    assert command(text)[0] == 0
    assert len(list(finished.glob("runs/*"))) == 2 * count


def test_other_local_steps_are_another_run_of_that_method_alone(command, tmp_path):
    text = (
        "--arch logistic-regression --methods ec-sgd,ec-local-sgd --compressor topk "
        f"--k 2 --workers 4 --train_iterations 60 --logdir {tmp_path} --local_steps "
    )
    assert command(text + "3")[0] == 0
    assert command(text + "6")[0] == 0
    assert len(list(tmp_path.glob("runs/*"))) == 3
    rows = {row["method"]: row for row in rows_of(tmp_path / "summary.csv")}
    ratio = float(rows["ec-local-sgd"]["bits"]) / float(rows["ec-sgd"]["bits"])
    assert ratio == pytest.approx(1 / 6)


def test_sweep_draws_the_bits_to_the_goal(command, tmp_path):
    code, _ = command(
        "--arch logistic-regression --compressors hard_threshold,topk,random_k "
        "--sweep threshold=0.02,0.1 --sweep density=0.05,0.2 --workers 4 "
        f"--train_iterations 200 --goal_suboptimality 0.5 --logdir {tmp_path}"
    )
    assert code == 0
    assert (tmp_path / "trade_off.png").stat().st_size > 0
    rows = rows_of(tmp_path / "summary.csv")
    assert [row["setting"] for row in rows] == [
        *("threshold=0.02", "threshold=0.1"),
        *("density=0.05", "density=0.2") * 2,
    ]
    for row in rows[:4]:
        assert 0 < float(row["bits_to_goal"]) <= float(row["bits"])
        assert float(row["encoded_bits_to_goal"]) >= float(row["bits_to_goal"])
    # A goal is a share of the first value, and the first record that meets it counts.
    directory = next((tmp_path / "runs").glob("*threshold=0.02*"))
    curve = rows_of(directory / "curves.csv")
    goal = 0.5 * float(curve[0]["suboptimality"])
    met = next(row for row in curve if float(row["suboptimality"]) <= goal)
    assert float(rows[0]["bits_to_goal"]) == float(met["bits"])


def test_trade_off_leaves_out_what_a_seed_did_not_reach(tmp_path):
    reached = {"method": "ec-sgd", "setting": "", "status": "finished", "density": 0.1}
    rows = [
        reached | {"compressor": "all", "encoded_bits_to_goal": 10.0},
        reached | {"compressor": "all", "encoded_bits_to_goal": 20.0},
        reached | {"compressor": "one", "encoded_bits_to_goal": 10.0},
        reached | {"compressor": "one", "encoded_bits_to_goal": ""},
        reached | {"compressor": "diverges", "encoded_bits_to_goal": 10.0},
        reached
        | {
            "compressor": "diverges",
            "encoded_bits_to_goal": 10.0,
            "status": "diverged",
        },
    ]
    figures.draw_trade_off(rows, 0.1, "title", tmp_path / "figure")
    drawn = (tmp_path / "figure.svg").read_text()
    for name in ("all", "one", "diverges"):
        assert f"<!-- ec-sgd {name}" in drawn
        assert (f"<!-- ec-sgd {name} (not reached)" in drawn) == (name != "all")
    # Nothing that has a logarithm.
    figures.draw_trade_off(rows[3:], 0.1, "title", tmp_path / "empty")
    assert (tmp_path / "empty.svg").stat().st_size > 0


def test_diverging_run_is_reported_and_in_no_figure(command, tmp_path):
    code, printed = command(
        "--arch logistic-regression --compressors none --step_size 1e6 --workers 4 "
        f"--train_iterations 100 --logdir {tmp_path}"
    )
    assert code == 1
    assert "diverged: ec-sgd none seed 0; it is in no figure." in printed.out
    assert not (tmp_path / "curves.png").exists()
    (row,) = rows_of(tmp_path / "summary.csv")
    assert row["status"] == "diverged"
    assert "nan" not in (tmp_path / "summary.csv").read_text()


def test_libsvm_file_by_its_path(command, tmp_path):
    generator = np.random.default_rng(0)
    lines = [
        f"{sign} 1:{sign + x} 3:{y}\n"
        for sign, x, y in zip([1, 2] * 10, *generator.normal(size=(2, 20)), strict=True)
    ]
    path = tmp_path / "two.libsvm"
    path.write_text("".join(lines))
    code, printed = command(
        f"--arch logistic-regression --datasource {path} --workers 2 "
        f"--train_iterations 20 --logdir {tmp_path / 'logs'}"
    )
    assert code == 0, printed.err
    assert "20 of 20 examples, 3 features, 2 workers" in printed.out


# -------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods adam", "`methods` must be one or more of ec-sgd, ec-gd"),
        ("--compressors topk", "`compressor` topk needs `density`."),
        ("--compressor hard_threshold", "`compressor` hard_threshold needs `thresho"),
        ("--compressors topk_replay", "`compressor` topk_replay copies the volume of"),
        ("--compressors gzip", "`compressors` must be one or more of none"),
        ("--optimizer adam", "`optimizer` has no effect with `arch` logistic-regr"),
        ("--local_steps 3", "`local_steps` is a setting of ec-local-sgd."),
        ("--methods ec-local-sgd --local_steps 0", "`local_steps` must be an integer"),
        (
            "--methods ec-local-sgd --local_steps 5000",
            "`local_steps` must be at most `train_iterations`",
        ),
        ("--topk_scope layer", "`topk_scope` needs a network of several variables;"),
        ("--sweep lambda=1", "`sweep` must be threshold=… or density=… with numbers"),
        ("--sweep density=0.1,x", "`sweep` must be threshold=… or density=… with n"),
        ("--sweep density=.1 --sweep density=.2", "`sweep` must name density once"),
        ("--sweep density=0.1", "`sweep` of density needs a compressor that has one."),
        ("--sweep density=2", "`density` must be in (0, 1]. Received: 2.0."),
        ("--step_size 0", "`step_size` must be a number above 0 and finite."),
        ("--step_size nan", "`step_size` must be a number above 0 and finite."),
        ("--logdir=", "`logdir` must name a directory. Received: logdir=''. Leave"),
        ("--split random", "`split` must be one of shuffled, dirichlet, sorted."),
        ("--train_iterations 25", "`train_iterations` must be a multiple of `check_"),
        ("--classes 1", "`classes` must be two integers between 0 and 9."),
        ("--classes 3,3", "`classes` must be two different labels."),
        ("--made_up_size 5,x", "`made_up_size` must be two integers with a comma"),
        ("--workers 1000", "`workers` must be at most the number of examples. Recei"),
        ("--datasource nowhere", "`datasource` must be one of gisette"),
    ],
)
def test_wrong_command_line_is_one_sentence(command, tmp_path, arguments, message):
    text = f"--arch logistic-regression --logdir {tmp_path} {arguments}"
    code, printed = command(text)
    assert code == 1
    assert printed.err.startswith(f"main.py: error: {message}")
    assert printed.err.count("\n") == 1


def test_logdir_that_is_a_file_is_refused(command, tmp_path):
    (tmp_path / "file").touch()
    code, printed = command(f"--arch logistic-regression --logdir {tmp_path / 'file'}")
    assert code == 1
    words = "main.py: error: `logdir` must be a directory that can be written to. Rec"
    assert printed.err.startswith(words)


def test_data_beyond_the_memory_are_one_sentence(command, tmp_path, monkeypatch):
    def load(*_, **__):
        raise MemoryError("Unable to allocate 7.28 TiB")

    monkeypatch.setattr(data, "load", load)
    code, printed = command(f"--arch logistic-regression --logdir {tmp_path}")
    assert code == 1
    assert printed.err == "main.py: error: Unable to allocate 7.28 TiB\n"


def test_flag_of_this_study_is_refused_with_a_network(command):
    code, printed = command("--arch simple-cnn --split sorted")
    assert code == 1
    assert "`split` has no effect with `arch` simple-cnn." in printed.err


@dataclasses.dataclass(frozen=True)
class NeedsTwoSegments(tem_tf.Sparsifier):
    """Sends the second variable alone."""

    def rule(self, state, corrected, step, segments):
        end = segments[1].offset + segments[1].size
        return tem_tf.At(tf.range(segments[1].offset, end))


@dataclasses.dataclass(frozen=True)
class Float32Only(tem_tf.Compressor):
    """Forgets the dtype."""

    def compress(self, state, corrected, step, segments, heard=()):
        if not heard:
            return tem_tf.Sum([tf.cast(vector, tf.float32) for vector in corrected])
        return tem_tf.Done(heard[0].total, state, own=heard[0].total)


def test_compressor_that_needs_segments_is_refused():
    with pytest.raises(Refusal, match="must work on one float64 vector: logistic"):
        simulation.check_compressor(NeedsTwoSegments(), 5)
    with pytest.raises(Refusal, match="must return a float64 vector.*made float32"):
        simulation.check_compressor(Float32Only(), 5)


def test_iterations_that_are_no_multiple_of_the_interval_are_refused():
    from tests.convex.problems import tiny

    with pytest.raises(ValueError, match="`iterations` must be a positive multiple"):
        simulation.run(
            tiny(),
            METHOD_OBJECTS["ec-sgd"],
            tem_tf.Identity(),
            start=np.zeros(7),
            iterations=5,
            interval=2,
        )


# ---------------------------------------------------------------- names in two places


def test_flags_and_settings_are_the_same():
    fields = {field.name: field for field in dataclasses.fields(ConvexConfiguration)}
    own = command_line.CONVEX_FLAGS.split()
    assert set(own) <= set(fields)
    for name in set(own) - {"methods", "compressors", "classes", "made_up_size"}:
        default = fields[name].default
        assert command_line.FLAGS[name].default == (
            default if default != () else None
        ), name
    # The configuration imports no TensorFlow, so it names them itself.
    assert tuple(METHOD_OBJECTS) == METHODS
    assert SPLIT_NAMES == SPLITS


def test_help_shows_the_flags_of_this_study(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["main.py", "--help"])
    shown = capsys.readouterr().out
    for name in command_line.CONVEX_FLAGS.split():
        assert f"--{name} " in shown


def test_cells_are_labelled_for_files():
    configuration = ConvexConfiguration(
        compressors=("none", "topk_equal", "hard_threshold"), threshold=0.5
    )
    labels = [cell.label for cell in cells.cells(configuration)]
    assert labels == [
        "ec-sgd none",
        "ec-sgd hard_threshold threshold=0.5",
        "ec-sgd topk_equal",
    ]
    assert pathlib.PurePath(labels[1]).name == labels[1]
