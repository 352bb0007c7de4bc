"""What ends a command: a refusal is one line, a fault of ours keeps its traceback."""

import errno
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

from tem_studies import command_line, missing_packages, quiet_start, written_files
from tem_studies.comparison import study as comparison_study
from tem_studies.convex import simulation
from tem_studies.refusal import Refusal, reading, refusing, writing
from tem_studies.workloads import processes, results
from tem_studies.workloads.training import Trainer
from tests.data_parallelism.small_data import write_cifar10, write_mnist

# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

DIGITS = (
    "--datasource digits --arch simple-cnn --target_sparsity 0 --batch_size 16 "
    "--train_iterations 2 --check_interval 2"
)
RUN = f"{DIGITS} --logdir PLACE"
STUDY = f"{DIGITS} --check_interval_arrival 2 --goal_error 0.1 --study_dir PLACE"
STUDY += " --nruns 1 --mparams_kind learning_rate"
COMPARISON = f"{DIGITS} --compare none,topk --budgets 0.1 --study_dir PLACE --nseeds 1"
CONVEX = (
    "--arch logistic-regression --train_iterations 20 --workers 2 --methods ec-gd "
    "--logdir PLACE"
)
# (command line, what its work calls): hours of it stand behind that call.
WORK = [
    pytest.param(RUN, (Trainer, "run"), id="run"),
    pytest.param(STUDY, (Trainer, "run"), id="study"),
    pytest.param(COMPARISON, (Trainer, "run"), id="comparison"),
    pytest.param(CONVEX, (simulation, "run"), id="laboratory"),
]
# Where each of them writes what it has found.
WRITES = [
    pytest.param(RUN, (results.np, "savez_compressed"), "steps.npz", id="run"),
    pytest.param(STUDY, (written_files.durable_files, "commit"), ".json", id="study"),
    pytest.param(
        COMPARISON, (results.np, "savez_compressed"), "steps.npz", id="comparison"
    ),
    pytest.param(CONVEX, (np, "save"), "entries.npy", id="laboratory"),
]


@pytest.fixture
def command(capsys, tmp_path):
    """Runs main.py in this process: its exit code and what it wrote to stderr."""

    def run(line):
        words = line.replace("PLACE", str(tmp_path / "place")).split()
        with flagsaver.flagsaver():
            for name in command_line.FLAGS:
                command_line.FLAGS[name].present = 0
            code = command_line.main(["main.py", *words])
        return code, capsys.readouterr().err

    yield run
    for name in command_line.FLAGS:
        command_line.FLAGS[name].present = 0


def raising(error):
    """A function that raises."""

    def fail(*_, **__):
        raise error

    return fail


# ------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("kind", [ValueError, OSError, ModuleNotFoundError, KeyError])
@pytest.mark.parametrize(("line", "called"), WORK)
def test_a_fault_within_the_work_keeps_its_traceback(
    command, monkeypatch, line, called, kind
):
    fault = kind("a fault of ours")
    monkeypatch.setattr(*called, raising(fault))
    with pytest.raises(kind) as caught:
        command(line)
    assert caught.value is fault
    assert not isinstance(caught.value, Refusal)


def test_another_invalid_argument_is_no_divergence(command, monkeypatch):
    """Though it quotes the words of the one that is."""
    words = "A gradient has NaN or Inf. Replicas whose gradient is not finite:"
    fault = tf.errors.InvalidArgumentError(None, None, words)
    monkeypatch.setattr(Trainer, "run", raising(fault))
    for line in (RUN, STUDY):
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            command(line)
        assert caught.value is fault


def fail(study, keep_on):
    """Work of a process that raises what it is given."""
    raise study


@pytest.mark.slow
def test_a_fault_in_one_of_several_processes_is_shown_and_ends_all(capfd):
    with pytest.raises(Refusal, match=r"ended with exit code 1; see above\."):
        processes.run_in_processes(fail, ValueError("a fault of ours"), 2, 1)
    shown = capfd.readouterr().err
    assert "Traceback" in shown
    assert "ValueError: a fault of ours" in shown


# ---------------------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data that is wrong, each in a directory of its own."""
    place = tmp_path_factory.mktemp("wrong-data")
    write_mnist(place / "cut" / "MNIST")
    for file in (place / "cut" / "MNIST").glob("train-images*"):
        file.write_bytes(file.read_bytes()[:100])
    write_cifar10(place / "batches" / "cifar-10-batches-py", per_batch=20)
    (place / "batches" / "cifar-10-batches-py" / "test_batch").write_bytes(b"no pickle")
    (place / "text").mkdir()
    for split in ("train", "valid", "test"):
        (place / "text" / f"{split}.tokens").write_text("a few words\n")
    (place / "ratings" / "ml-1m").mkdir(parents=True)
    (place / "ratings" / "ml-1m" / "ratings.dat").write_text("1::2::x::4\n")
    (place / "damaged.libsvm").write_text("1 1:1\n2 x\n")
    (place / "damaged.toml").write_text("compare = [")
    for name in ("study", "comparison"):  # of other data
        (place / name).mkdir()
        content = json.dumps({"checksum of the data": 1})
        (place / name / "data.json").write_text(content)
    return place


LATE = [
    # Found when data is read, or where data and settings meet.
    ("--datasource mnist --path_data FILES/cut --logdir PLACE", "train-images-idx3"),
    (
        "--datasource cifar-10 --arch resnet-8 --path_data FILES/batches "
        "--logdir PLACE",
        "test_batch is truncated or no CIFAR-10 batch",
    ),
    (
        "--datasource tokens --arch lstm --path_data FILES/text --logdir PLACE",
        "`batch_size` streams of the training text must have at least `bptt` + 1",
    ),
    (
        "--datasource movielens-1m --arch neumf --path_data FILES/ratings "
        "--logdir PLACE",
        "Received in line 1: '1",
    ),
    (f"{RUN} --batch_size 1351", "`batch_size` must be at most the 1350 examples"),
    (f"{RUN} --target_sparsity 0.99999999", "must leave at least one of"),
    (
        f"{RUN} --batch_size 100 --train_iterations 20 --accumulate_steps 14",
        "`accumulate_steps` must be at most the 13 steps of an epoch",
    ),
    (f"{RUN} --accumulate_steps 14", "`accumulate_steps` must be at most `train_iter"),
    (f"{RUN} --loss_scale big", "`loss_scale` must be dynamic, or a number above 0"),
    # The plugin's own checks of a flag.
    (f"{RUN} --compressor hard_threshold --threshold nan", "`threshold` must be "),
    (f"{RUN} --compressor topk --density 0.1 --local_clipnorm -1", "`local_clipnorm` "),
    # A study and a comparison.
    (f"{STUDY} --batch_size 1351", "`batch_size` must be at most the 1350 examples"),
    (f"{STUDY} --study_dir FILES/study", "is the study of another configuration: `ch"),
    (
        f"{COMPARISON} --study_dir FILES/comparison",
        "is the study of another configuration",
    ),
    (f"{COMPARISON} --batch_size 1351", "`batch_size` must be at most the 1350 exam"),
    (f"{COMPARISON} --budgets 1e-9", "`budgets` 1e-09 is less than one entry a step"),
    (f"--compare {'none,' * 100}topk --budgets 0.1", "`compare` needs at least two me"),
    ("--compare FILES/damaged.toml", "damaged.toml cannot be read: "),
    # The laboratory.
    (f"{CONVEX} --datasource FILES/damaged.libsvm", "line 2: 'x' is not index:value"),
    (f"{CONVEX} --workers 1000", "`workers` must be at most the number of examples"),
]


@pytest.mark.parametrize(("line", "part"), LATE)
def test_a_late_refusal_is_one_line(command, files, line, part):
    code, error = command(line.replace("FILES", str(files)))
    assert code == 1
    assert error.startswith("main.py: error: ")
    assert part in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("line", "called", "name"), WRITES)
def test_a_full_disk_is_one_line(command, monkeypatch, line, called, name):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(*called, raising(full))
    code, error = command(line)
    assert code == 1
    assert f"{name} cannot be written: No space left on device.\n" in error
    assert error.count("\n") == 1


def test_a_budget_that_no_run_meets_is_one_line(command, monkeypatch):
    monkeypatch.setattr(comparison_study, "_run", raising(Refusal("`budgets` 0.1 …")))
    assert command(COMPARISON) == (1, "main.py: error: `budgets` 0.1 …\n")


# -------------------------------------------------------------------- how they are made


@pytest.mark.parametrize(("block", "verb"), [(reading, "read"), (writing, "written")])
def test_a_file_that_cannot_be_had_is_named(block, verb):
    with pytest.raises(Refusal, match=f"^a/b cannot be {verb}: Permission denied.$"):  # noqa: SIM117
        with block("a/b"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with (
        pytest.raises(Refusal, match=f"^a/b cannot be {verb}: of HDF5.$"),
        block("a/b"),
    ):
        raise OSError("of HDF5")
    with pytest.raises(ZeroDivisionError), block("a/b"):
        raise ZeroDivisionError


def test_only_the_kinds_that_are_named_become_refusals():
    with pytest.raises(Refusal, match="^wrong$"), refusing(ValueError):
        raise ValueError("wrong")
    with pytest.raises(KeyError), refusing(ValueError):
        raise KeyError("ours")
    refusal = Refusal("as it is")
    with pytest.raises(Refusal) as caught, refusing(ValueError):
        raise refusal
    assert caught.value is refusal


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module", name="tem_studies.nothing"),
        ImportError("cannot import name 'x'", name="tem_tf.wire"),
    ],
)
def test_what_our_own_packages_lack_is_no_refusal(error):
    with pytest.raises(ImportError) as caught, missing_packages.importing():
        raise error
    assert caught.value is error


def test_a_tensorflow_that_cannot_be_loaded_is_one_line(command, monkeypatch):
    error = ImportError("libtensorflow_cc.so.2: cannot open shared object file")
    monkeypatch.setattr(quiet_start, "import_tensorflow", raising(error))
    assert command(RUN) == (1, f"main.py: error: {error}\n")
