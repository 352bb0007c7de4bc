"""The program as its user meets it: what is refused at once, its name, its output."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import pytest

from tem_studies import program, quiet_start
from tem_studies.data_parallelism.command_line import configure
from tem_studies.data_parallelism.directory import STUDY_NAME
from tem_studies.refusal import Refusal
from tem_studies.workloads import processes
from tem_studies.workloads.configuration import Configuration

ROOT = pathlib.Path(__file__).parents[2]

# Packages that take seconds to import, or belong to one that does.
SLOW = ("tensorflow", "keras", "numpy", "tem_tf", "scipy", "sklearn", "matplotlib")
# Runs command lines one after another in a process in which SLOW cannot be imported.
WITHOUT_TENSORFLOW = """
import contextlib, importlib.machinery, io, json, os, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in SLOW:  # It may be asked for.
            found = importlib.machinery.PathFinder.find_spec(name, path, target)
            if found:
                found.loader = self
            return found

    def create_module(self, spec):
        raise AssertionError(f"{spec.name} was imported")

    def exec_module(self, module):
        pass

SLOW, commands = json.loads(sys.argv[1]), json.loads(sys.stdin.read())
sys.meta_path.insert(0, Refuse())
from absl.testing import flagsaver
from tem_studies import command_line

for arguments, environment in commands:
    os.environ.update(environment)
    out, error = io.StringIO(), io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out):
        with contextlib.redirect_stderr(error):
            try:
                code = command_line.main(["main.py", *arguments])
            except AssertionError as raised:
                code = str(raised)
    for name in environment:
        del os.environ[name]
    print(json.dumps([code, out.getvalue(), error.getvalue()]))
"""

STUDY = "--datasource digits --nruns 2 --mparams_kind learning_rate --goal_error 0.2"
COMPARISON = "--datasource digits --compare none,topk --budgets 0.1"
CONVEX = "--arch logistic-regression"


def tf_config(workers=("a:1", "b:2"), kind="worker", index=1):
    """The environment of one of several workers."""
    task = {"type": kind, "index": index}
    cluster = {"worker": workers}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


WORKER = tf_config()
STEP = {  # Of two tasks, in SLURM.
    **{"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"},
    **{"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"},
    **{"SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"},
}
RANK = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "3"}

# (command line, environment, part of the error). USED holds what a run left, FILE is no
# directory, STUDIES/one the study of another configuration, DAMAGED a damaged one.
WRONG = [
    # One run.
    ("--xyzzy 1", {}, "Unknown command line flag 'xyzzy'. See python main.py --help."),
    ("digits", {}, "Every argument must follow a flag."),
    ("--batch_size 1.5", {}, "`batch_size` must be an integer."),
    ("--compressor gzip", {}, "`compressor` must be one of none,"),
    ("--compressor nowhere:Half --datasource digits", {}, "needs a module nowhere"),
    ("--compressor a:", {}, "`compressor` must be module:Class, as Python names them"),
    ("--compressor_arguments k=1", {}, "are of compressors given as module:Class."),
    ("--arch nowhere:f --datasource digits", {}, "needs a module nowhere, which is n"),
    ("--datasource npz", {}, "`datasource` npz needs `path_data`, a file as np.savez"),
    ("--arch lstm", {}, "`arch` lstm cannot be trained on `datasource` mnist."),
    (
        "--compressor accordion --low_density 0.1 --high_density 0.01",
        {},
        "`high_density` must be at least `low_density`.",
    ),
    (
        "--datasource digits --compressor topk_schedule --counts FILE",
        {},
        "`counts` must be a file with one integer in [0, 2**31) per line.",
    ),
    ("--path_data NOWHERE", {}, "`path_data` must be a directory."),
    ("--datasource movielens-1m --arch neumf --path_data FILE", {}, "`path_data` must"),
    ("--datasource tokens --arch lstm --path_data USED", {}, "train.tokens is missing"),
    ("--datasource digits --logdir=", {}, "`logdir` must name a directory."),
    ("--datasource digits --logdir USED", {}, "`logdir` must have nothing of another"),
    (
        "--datasource digits --overwrite --logdir FILE",
        {},
        "`logdir` must be a directory that can be written to.",
    ),
    ("--datasource digits --logdir FILE/below", {}, "can be written to."),
    ("--workers 2 --datasource digits", WORKER, "`workers` makes virtual workers in"),
    (
        "--workers 2 --datasource digits",
        STEP,
        "combined with SLURM's environment, which makes this process one of several. "
        "Received: workers=2. Leave --workers out, or set TF_CONFIG={}.",
    ),
    (
        "--datasource digits",
        {**STEP, "SLURM_STEP_NODELIST": "n["},
        "`SLURM_STEP_NODELIST` in",
    ),
    ("--datasource digits", RANK, "`MASTER_ADDR` must be set in torchrun's environ"),
    ("--datasource digits", {"TF_CONFIG": "{"}, "`TF_CONFIG` must be JSON"),
    ("--datasource digits", tf_config(index=2), "`task.index` in TF_CONFIG must be in"),
    ("--datasource digits", tf_config(["a:1", "a:1"]), "must have an address of its o"),
    ("--datasource digits", tf_config(kind="evaluator", index=0), "has jobs 'chief' a"),
    (
        "--datasource digits --refuse_public",
        tf_config(["10.0.0.1:1", "8.8.8.8:2"]),
        "no address may be public. Received: worker 1 at 8.8.8.8:2.",
    ),
    ("--datasource digits --start_seconds 0", {}, "`start_seconds` must be a number"),
    ("--datasource digits", {"KERAS_BACKEND": "jax"}, "Keras's TensorFlow backend is"),
    ("--momentum 0.9", {}, "`momentum` has no effect with `optimizer` sgd. Leave --mo"),
    ("--optimizer momentum --beta_2 0.999", {}, "`beta_2` has no effect with `optimiz"),
    ("--decay_steps 9", {}, "`decay_steps` has no effect with `decay_type` constant."),
    ("--check_interval_arrival 5", {}, "`check_interval_arrival` has no effect withou"),
    ("--datasource digits --overwrite", {}, "`overwrite` has no effect without `logdi"),
    ("--learning_rate_warmup_factor 1", {}, "has no effect without `learning_rate_war"),
    (
        "--datasource text --arch gpt --prompt To --sample_characters 0",
        {},
        "`prompt` has no effect without `sample_characters`.",
    ),
    ("--split sorted", {}, "`split` has no effect with `arch` simple-cnn."),
    ("--budgets 0.1", {}, "`budgets` has an effect in a comparison alone."),
    ("--parallel_trials 2", {}, "`parallel_trials` has an effect in a study alone."),
    # A study.
    ("--nruns 0 --goal_error 0.1", {}, "`nruns` must be an integer of at least 1."),
    ("--mparams_kind foo", {}, "`mparams_kind` must be among learning_rate,"),
    ("--nruns 2 --goal_error 1", {}, "`goal_error` of a study must be in (0, 1)."),
    (f"{STUDY} --study_dir FILE", {}, "`study_dir` must be a directory that can be"),
    (f"{STUDY} --study_dir STUDIES/one", {}, "is the study of another configuration"),
    (f"{STUDY} --study_dir STUDIES", {}, "holds studies of several cells."),
    (f"{STUDY} --path_data NOWHERE", {}, "`path_data` must be a directory."),
    (f"{STUDY} --logdir NOWHERE", {}, "`logdir` has no effect in a study, which --nr"),
    ("--check_lipschitz --logdir NOWHERE", {}, "`check_lipschitz` has an effect in a "),
    (f"{STUDY} --lipschitz_interval 9", {}, "has no effect without `check_lipschitz`."),
    (f"{STUDY} --save_interval 9", {}, "`save_interval` has no effect in a study, who"),
    (f"{STUDY} --learning_rate 1", {}, "`learning_rate` has no effect where `mparams_"),
    (f"{STUDY} --decay_steps 9", {}, "`decay_steps` has no effect with `decay_type` c"),
    ("--batch_size 8 16 --overwrite", {}, "`overwrite` has no effect in a study"),
    (f"{STUDY} --start_seconds 9", {}, "`start_seconds` has no effect in a study,"),
    (STUDY, WORKER, "A study runs each trial in one process and cannot be one of"),
    (STUDY, STEP, "as SLURM's environment says. Once only, set TF_CONFIG={}; for mo"),
    ("--report NOWHERE", {}, "There is no study in"),
    ("--report DAMAGED", {}, "is damaged, or not of this study: 'configuration' is"),
    ("--report STUDIES --nruns 3", {}, "`nruns` has no effect with `report`"),
    ("--report STUDIES --logdir FILE", {}, "`logdir` must be a directory that can be"),
    # A comparison.
    ("--compare none,topk", {}, "`budgets` must be given for topk"),
    ("--compare none,foo --budgets 0.1", {}, "`compare` must name methods among"),
    ("--compare missing.toml", {}, "or a file that can be read."),
    ("--datasource digits --compare none,nowhere:Half", {}, "needs a module nowhere"),
    ("--compare none,a:b:c", {}, "`compare` must be module:Class, as Python names"),
    (f"{COMPARISON} --compressor_arguments k=1", {}, "are of compressors given as mo"),
    (f"{COMPARISON} --rates 0.1 0.01", {}, "`rates` must rise."),
    (f"{COMPARISON} --nruns 2", {}, "`nruns` has no effect in a comparison."),
    (f"{COMPARISON} --logdir NOWHERE", {}, "`logdir` has no effect in a comparison:"),
    (f"{COMPARISON} --overwrite", {}, "`overwrite` has no effect in a comparison:"),
    (f"{COMPARISON} --study_dir STUDIES/one", {}, "is a study of another kind."),
    (f"{COMPARISON} --study_dir FILE", {}, "`study_dir` must be a directory that can"),
    (f"{COMPARISON} --path_data NOWHERE", {}, "`path_data` must be a directory."),
    (f"{COMPARISON} --save_interval 9", {}, "`save_interval` has no effect in a compa"),
    (f"{COMPARISON} --momentum 0.9", {}, "`momentum` has no effect with `optimizer` s"),
    (f"{COMPARISON} --tuning_seeds 2", {}, "`tuning_seeds` has no effect without `rat"),
    (
        f"{COMPARISON} --check_interval_arrival 9",
        {},
        "`check_interval_arrival` has no effect in a comparison, which has no goal.",
    ),
    (f"{COMPARISON} --refuse_public", {}, "`refuse_public` has no effect in a compar"),
    (COMPARISON, WORKER, "A comparison makes each run in one process and cannot be"),
    # A forecast.
    ("predict --datasource digits", {}, "`link_mbit` must be given where there is one"),
    ("predict --link_mbit 100", {}, "`workers` must be at least 2 for a forecast"),
    ("predict --workers 4 --link_mbit 0", {}, "`link_mbit` must be above 0 and finite"),
    (
        "predict --workers 4 --link_mbit 1 --link_ms -1",
        {},
        "`link_ms` must be at least 0 and finite. Received: link_ms=-1.0.",
    ),
    ("--link_ms 1", {}, "`link_ms` has an effect after the word predict alone."),
    (
        "predict --workers 4 --link_mbit 1 --figure NOWHERE/a.png",
        {},
        "`figure` must be a file in a directory that can be written to.",
    ),
    ("predict --compare none,topk", {}, "`compare` has no effect in a forecast, which"),
    ("predict --local_steps 5", {}, "`local_steps` has no effect in a forecast, whi"),
    ("predict --density 0.1", {}, "`density` has no effect in a forecast, which is"),
    ("predict --logdir NOWHERE", {}, "`logdir` has no effect in a forecast, which i"),
    ("predict --target_sparsity 0", {}, "`target_sparsity` has no effect in a forecas"),
    ("predict --compile_model", {}, "`compile_model` has no effect in a forecast, whi"),
    ("predict --link_ms 1", {}, "`link_ms` has no effect where the link is measured"),
    ("predict predict", {}, "Every argument must follow a flag. Received: predict."),
    # The convex laboratory.
    (f"{CONVEX} --methods foo", {}, "`methods` must be one or more of ec-sgd,"),
    (f"{CONVEX} --compressor topk", {}, "`compressor` topk needs `density`."),
    (f"{CONVEX} --compressors nowhere:Half", {}, "needs a module nowhere, which is"),
    (f"{CONVEX} --compressor_arguments k=1", {}, "are of compressors given as modul"),
    (f"{CONVEX} --optimizer adam", {}, "`optimizer` has no effect with `arch` logis"),
    (f"{CONVEX} --compressor none --compressors none", {}, "`compressor` has no effec"),
    (f"{CONVEX} --classes 1,2", {}, "`classes` has no effect with `datasource` breast"),
    (f"{CONVEX} --path_data .", {}, "`path_data` has no effect with `datasource` brea"),
    (f"{CONVEX} --made_up_size 9,9", {}, "`made_up_size` has no effect with `datasour"),
    (f"{CONVEX} --dirichlet_alpha 1", {}, "`dirichlet_alpha` has no effect with `spli"),
    (f"{CONVEX} --goal_suboptimality 0.1", {}, "`goal_suboptimality` has no effect wi"),
    (f"{CONVEX} --threshold 1", {}, "`threshold` has no effect with `compressors` non"),
    (f"{CONVEX} --compressors topk --k 1 --density 0.1", {}, "has no effect with `k`."),
    (
        f"{CONVEX} --compressors topk --k 1 --sweep density=0.1",
        {},
        "`k` has no effect with `sweep` of density. Leave --k out.",
    ),
    (f"{CONVEX} --overwrite", {}, "`overwrite` has no effect with `arch` logistic-reg"),
    (f"{CONVEX} --datasource nowhere", {}, "`datasource` must be one of gisette,"),
    (f"{CONVEX} --datasource gisette", {}, "`datasource` gisette needs its LIBSVM fil"),
    (f"{CONVEX} --datasource fashion-mnist", {}, "`datasource` fashion-mnist needs it"),
    (f"{CONVEX} --logdir FILE", {}, "`logdir` must be a directory that can be written"),
    (CONVEX, {"TF_USE_LEGACY_KERAS": "1"}, "Keras 3 is needed."),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each command line of WRONG: exit code, output, error."""
    place = tmp_path_factory.mktemp("wrong")
    (place / "USED").mkdir()
    (place / "USED" / "result.json").touch()
    (place / "FILE").write_text("1.5\n")
    one = place / "STUDIES" / "one"
    one.mkdir(parents=True)
    settings = {"mparams_kind": None, "check_lipschitz": False, "study_dir": None}
    settings |= {"lipschitz_interval": 1000, "lipschitz_examples": None, "nruns": 1}
    settings |= {"stop_beyond_best": False, "parallel_trials": 1, "rerun_seeds": 0}
    run = Configuration(seed=3, goal_error=0.1).as_dict()
    study = configure(run, settings | {"no_load_cache": False})
    content = {"configuration": study.cells[0].identity()}
    (one / STUDY_NAME).write_text(json.dumps(content))
    commands = [(line.split(), environment) for line, environment, _ in WRONG]
    (place / "DAMAGED").mkdir()
    (place / "DAMAGED" / STUDY_NAME).write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, json.dumps(SLOW)],
        input=json.dumps(commands),
        cwd=place,
        env={k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Nothing was made, not even a default directory.
    assert sorted(p.name for p in place.iterdir()) == [
        "DAMAGED",
        "FILE",
        "STUDIES",
        "USED",
    ]
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("number", "message"),
    [(number, row[2]) for number, row in enumerate(WRONG)],
    ids=[row[0] for row in WRONG],
)
def test_wrong_command_line_is_refused_without_tensorflow(outcomes, number, message):
    code, out, error = json.loads(outcomes[number])
    assert (code, out) == (1, "")
    assert error.startswith("main.py: error: ")
    assert error.count("\n") == 1
    assert message in error


# ------------------------------------------------------------------------- its name


def run(command, **options):
    """Runs a command in the repository."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


INSTALLED = "import sys; from tem_studies.command_line import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("start", "name", "command"),
    [
        (["main.py"], "main.py", "python main.py"),
        (["-m", "tem_studies.command_line"], "tem-tf", "tem-tf"),
        (["SCRIPT"], "tem-tf", "tem-tf"),
    ],
    ids=["main.py", "module", "installed"],
)
def test_the_program_has_the_name_it_was_started_by(tmp_path, start, name, command):
    script = tmp_path / "tem-tf"  # As the package installer writes it.
    script.write_text(INSTALLED)
    start = [str(script) if word == "SCRIPT" else word for word in start]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    wrong = run([sys.executable, *start, "--xyzzy", "1"], env=environment)
    assert wrong.stderr == (
        f"{name}: error: Unknown command line flag 'xyzzy'. See {command} --help.\n"
    )
    shown = run([sys.executable, *start, "--help"], env=environment).stdout
    assert f"  {command} --datasource digits --train_iterations 500\n" in shown
    assert ("main.py" in shown) == (name == "main.py")


# ----------------------------------------------------------------------- its output


@pytest.mark.parametrize(
    ("arguments", "stream"), [("--help", "stdout"), ("--xyzzy 1", "stderr")]
)
def test_output_that_nobody_reads_ends_the_program_quietly(arguments, stream):
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writing}
    command = [sys.executable, "main.py", *arguments.split()]
    with subprocess.Popen(command, cwd=ROOT, text=True, **streams) as process:
        os.close(writing)
        shown = [text for text in process.communicate() if text is not None]
    assert process.returncode == program.PIPE_CLOSED
    assert shown == [""]


def closed(study, keep_on):
    """Work whose output nobody reads."""
    raise BrokenPipeError


def test_a_closed_pipe_ends_the_processes_of_a_study_quietly(monkeypatch):
    monkeypatch.setattr(program, "close_output", lambda: None)
    content = pickle.dumps((closed, None))
    for name in ("intra", "inter"):
        name = f"set_{name}_op_parallelism_threads"
        monkeypatch.setattr(f"tensorflow.config.threading.{name}", lambda _: None)
    with pytest.raises(SystemExit) as ended:
        processes._work_as_child(content, 1, 0)
    assert ended.value.code == program.PIPE_CLOSED
    with pytest.raises(BrokenPipeError):
        processes.run_in_processes(closed, None, count=1, threads=1)


@pytest.mark.parametrize(
    ("level", "fails", "shown"),
    [(None, False, ""), (None, True, "noise"), ("3", False, ""), ("0", False, "noise")],
)
def test_what_libraries_write_as_they_are_loaded_is_held_back(
    capfd, monkeypatch, level, fails, shown
):
    def load():
        os.write(2, b"noise")
        if fails:
            raise ImportError

    monkeypatch.setattr(quiet_start, "import_tensorflow", load)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    if level is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    try:
        quiet_start.start_tensorflow()
    except Refusal:
        assert fails
    assert capfd.readouterr().err == shown
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == (level or "3")
    os.write(2, b"later")
    assert capfd.readouterr().err == "later"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "--train_iterations 4 --workers 2 --logdir PLACE",
        f"{STUDY} --train_iterations 4 --parallel_trials 2 --study_dir PLACE",
        pytest.param(
            f"{COMPARISON} --nseeds 1 --train_iterations 4 --parallel_trials 2 "
            "--study_dir PLACE",
            marks=pytest.mark.exhaustive,
        ),
    ],
    ids=["run", "study", "comparison"],
)
def test_the_program_shows_nothing_of_tensorflows(tmp_path, arguments):
    arguments = arguments.replace("PLACE", str(tmp_path / "place"))
    more = ["--datasource", "digits", "--target_sparsity", "0", "--check_interval", "4"]
    hidden = ("TF_CONFIG", "TF_CPP_MIN_LOG_LEVEL")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    command = [sys.executable, "main.py", *arguments.split(), *more]
    done = run(command, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
