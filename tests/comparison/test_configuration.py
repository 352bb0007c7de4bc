"""What a user can get wrong about a comparison, and files that describe one."""

import dataclasses
import json
import pathlib

import pytest

from tem_studies.comparison import command_line
from tem_studies.comparison.configuration import Comparison
from tem_studies.comparison.directory import ComparisonDirectory
from tem_studies.refusal import Refusal
from tem_studies.workloads.configuration import Configuration

RUN = Configuration(datasource="digits", train_iterations=100)
METHODS = ("none", "topk", "hard_threshold")


def make(**settings):
    values = {"run": RUN, "methods": METHODS, "budgets": (0.01,)} | settings
    return Comparison(**values)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": ("topk", "top_k")}, "must name methods among none, hard_"),
        ({"methods": (["topk"], "none")}, r"among none, .* Received: \['topk'\]"),
        ({"methods": ("topk",)}, "needs at least two methods, each once"),
        ({"methods": ("topk", "topk")}, "needs at least two methods, each once"),
        ({"methods": ("none", "topk_replay")}, "Name hard_threshold too"),
        ({"budgets": ()}, "`budgets` must be given for topk: densities of the whole"),
        ({"budgets": (1.5,)}, "`budgets` must be in \\(0, 1\\). Received: 1.5"),
        ({"budgets": (0.1, 0.1)}, "`budgets` must have each value once"),
        ({"rates": (0.1, -1)}, "`rates` must be numbers above 0"),
        ({"rates": (0.3, 0.1)}, "`rates` must rise. Received: rates=0.3 0.1"),
        ({"rates": (0.2, 0.3)}, "`learning_rate` is the common rate of a comparison"),
        ({"nseeds": 0}, "`nseeds` must be an integer of at least 1"),
        ({"nseeds": 2000}, "`nseeds` must be at most 1000: tuning seeds follow"),
        ({"tuning_seeds": 0}, "`tuning_seeds` must be an integer"),
        ({"margin": 0}, "`margin` must be a number above 0"),
        ({"methods": ("none", "all_sign")}, "`budgets` have no effect on none, all_s"),
        ({"methods": ("none", "local_topk")}, "local_topk needs `local_steps`. Rec"),
        ({"methods": ("none", "frozen_topk")}, "frozen_topk needs `freeze_step`. Rec"),
        ({"local_steps": 3}, "`local_steps` is a setting of local, local_int2, loc"),
        ({"freeze_step": 3}, "`freeze_step` is a setting of frozen_sign, frozen_topk"),
        (
            {"methods": ("none", "local_topk"), "local_steps": 101},
            "`local_steps` must be at most `train_iterations`",
        ),
        (
            {"methods": ("none", "frozen_topk"), "freeze_step": 10},
            "`freeze_step` is a setting of adamw",
        ),
        ({"methods": ("none", "mine:")}, "`compare` must be module:Class, as Python"),
        ({"compressor_arguments": "k=1"}, "are of compressors given as module:Class."),
        (
            {"methods": ("topk", "mine:Half"), "compressor_arguments": "Third.k=1"},
            "Received: Third.k=1 with topk,mine:Half",
        ),
        ({"baseline": "topk_model"}, "`baseline` must be one of none, topk, hard"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(Refusal, match=words):
        make(**settings)


def test_reported_and_tuning_seeds_never_meet():
    comparison = make(nseeds=1000, tuning_seeds=50)
    assert not set(comparison.seeds) & set(comparison.seeds_for_tuning)


def test_only_what_all_runs_share_identifies_a_directory():
    one = make().identity()
    assert make(nseeds=9, budgets=(0.1,), rates=(0.1, 0.3)).identity() == one
    assert make(tuning_seeds=2).identity() != one
    other = Configuration(datasource="digits", train_iterations=99)
    assert make(run=other).identity() != one


def test_settings_of_some_methods_are_not_the_others():
    methods = ("none", "topk", "local_topk", "frozen_topk")
    run = dataclasses.replace(RUN, optimizer="adamw")
    comparison = make(
        run=run, methods=methods, local_steps=7, outer_momentum=0.5, freeze_step=10
    )
    of = {name: comparison.settings_of(name, 0.01) for name in methods}
    assert of["topk"] == {"compressor": "topk", "density": 0.01}
    assert of["local_topk"]["local_steps"] == 7
    assert of["local_topk"]["outer_momentum"] == 0.5
    assert of["local_topk"]["value_dtype"] == "int2"
    assert "freeze_step" not in of["local_topk"]
    assert of["frozen_topk"]["freeze_step"] == 10
    assert "local_steps" not in of["frozen_topk"]
    assert make(run=run, methods=methods, local_steps=8, freeze_step=10).identity() != (
        comparison.identity()
    )


def test_ones_own_compressors_have_arguments_and_no_budget():
    methods = ("topk", "mine:Half", "yours:Third")
    comparison = make(methods=methods, compressor_arguments=("k=1", "Third.k=2"))
    of = {name: comparison.settings_of(name, 0.01) for name in methods}
    own = "compressor_arguments"
    assert own not in of["topk"]
    assert of["mine:Half"] == {"compressor": "mine:Half", own: {"k": 1}}
    assert of["yours:Third"] == {"compressor": "yours:Third", own: {"k": 2}}
    assert make(methods=methods, compressor_arguments="k=1").identity() != (
        comparison.identity()
    )


DEFAULTS = {
    "compare": "none,topk",
    "budgets": None,
    "rates": None,
    "nseeds": 5,
    "tuning_seeds": 1,
    "baseline": None,
    "margin": None,
    "study_dir": None,
    "parallel_trials": 1,
    "no_load_cache": False,
}


def configure(given=(), run=(), **settings):
    return command_line.configure(
        Configuration().as_dict() | dict(run),
        DEFAULTS | settings,
        set(given),
    )


@pytest.mark.parametrize("ending", ["json", "toml"])
def test_a_file_describes_a_comparison_and_flags_come_before_it(tmp_path, ending):
    path = tmp_path / f"plan.{ending}"
    content = {
        "compare": ["none", "topk"],
        "budgets": [0.05],
        "nseeds": 7,
        "run": {"datasource": "digits", "seed": 3, "path_data": None},
    }
    if ending == "json":
        path.write_text(json.dumps(content))
    else:
        path.write_text(
            'compare = ["none", "topk"]\nbudgets = [0.05]\nnseeds = 7\n'
            '[run]\ndatasource = "digits"\nseed = 3\n'
        )
    comparison, only_report = configure(
        {"nseeds", "seed"}, {"seed": 8}, compare=str(path), nseeds=2
    )
    assert not only_report
    assert comparison.methods == ("none", "topk")
    assert comparison.budgets == (0.05,)
    assert (comparison.nseeds, comparison.run.seed) == (2, 8)
    assert comparison.run.datasource == "digits"
    assert comparison.run.goal_error is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "plan.json cannot be read"),
        ("[]", "must hold a table of settings"),
        ('{"budgets": [1]}', "no list `compare` and table `run`"),
        ('{"compare": ["a"], "sedes": 3}', "Received: `sedes`"),
        ('{"compare": ["a"], "run": {"arc": 3}}', "Received: `arc`"),
        ('{"compare": ["a"], "run": 3}', "no list `compare` and table `run`"),
        ('{"compare": ["a"], "run": null}', "no list `compare` and table `run`"),
        ('{"compare": ["a"], "run": {"tied": "no"}}', "`tied` must be true or false"),
        ('{"compare": ["a"], "no_load_cache": 1}', "`no_load_cache` must be true or"),
        ('{"compare": ["a"], "study_dir": 3}', "`study_dir` must be a path. Received"),
        ('{"compare": ["a"], "run": {"path_data": []}}', "`path_data` must be a path"),
        ('{"compare": ["a"], "run": {"density": 0.1}}', "`density` has no effect in"),
        ('{"compare": ["a"], "run": {"goal_error": 0.1}}', "`goal_error` has no effe"),
    ],
)
def test_damaged_files_are_refused(tmp_path, text, words):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(Refusal, match=words):
        configure(compare=str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(Refusal, match="or a file that can be read. Received: compare="):
        configure(compare=str(tmp_path / "none.json"))


def test_settings_that_methods_have_of_their_own_are_refused():
    with pytest.raises(Refusal, match="`density` has no effect in a comparison"):
        configure({"density"}, {"density": 0.1}, budgets=0.1)


@pytest.mark.parametrize("name", ["memory", "value_dtype", "dense_below"])
def test_settings_that_the_dense_method_cannot_have_are_refused(name):
    with pytest.raises(Refusal, match=f"`{name}` cannot be chosen in a comparison"):
        configure({name}, budgets=0.1)


@pytest.mark.parametrize(
    ("run", "sparsity"),
    [
        ({"arch": "resnet-18", "datasource": "cifar-10"}, 0.0),
        ({"arch": "lstm", "datasource": "tokens"}, 0.0),
        ({"arch": "resnet-18", "datasource": "cifar-10", "target_sparsity": 0.5}, 0.5),
        ({"arch": "resnet-8", "datasource": "cifar-10"}, 0.9),
    ],
)
def test_networks_of_a_file_are_pruned_as_those_of_flags(tmp_path, run, sparsity):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"compare": METHODS, "budgets": [0.1], "run": run}))
    comparison, _ = configure(compare=str(path))
    assert comparison.run.target_sparsity == sparsity


def test_a_study_directory_gives_its_own_comparison_back(tmp_path):
    comparison = make(directory=str(tmp_path), nseeds=3, rates=(0.05, 0.1, 0.2))
    ComparisonDirectory(tmp_path).open(comparison)
    found, only_report = configure({"compare"}, compare=str(tmp_path))
    assert only_report
    assert found == comparison
    for name in ("nseeds", "study_dir", "path_data", "parallel_trials"):
        words = f"^`{name}` has no effect with `compare` .*, a study directory, which"
        with pytest.raises(Refusal, match=words):
            configure({"compare", name}, compare=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "comparison.json cannot be read as JSON"),
        ("[]", "comparison.json must hold a JSON dict"),
        ("{}", "must hold the settings of a comparison, as this version"),
        ('{"asked": {"run": {"arc": 3}}}', "Received: .*unexpected keyword argument"),
        ('{"asked": 3}', "must hold the settings of a comparison, as this version"),
    ],
)
def test_a_study_directory_that_is_damaged_is_named(tmp_path, text, words):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(Refusal, match=words):
        configure({"compare"}, compare=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "methods", "workers", "arch"),
    [
        ("simple_cnn", 8, 8, "simple-cnn"),
        ("lstm", 5, 4, "lstm"),
        ("neumf", 5, 4, "neumf"),
    ],
)
def test_the_plans_of_our_study_are_comparisons(name, methods, workers, arch):
    root = pathlib.Path(command_line.__file__).parents[2]
    plan = root / "studies" / "compressors" / f"{name}.toml"
    comparison, _ = configure(compare=str(plan))
    assert len(comparison.methods) == methods
    assert (comparison.run.workers, comparison.run.arch) == (workers, arch)
    assert comparison.run.target_sparsity == 0
    assert comparison.run.decay_steps == comparison.run.train_iterations
