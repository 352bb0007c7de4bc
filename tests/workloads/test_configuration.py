"""Every wrong setting is refused in one clear sentence."""

import dataclasses
import math
import re

import pytest

from tem_studies.refusal import Refusal
from tem_studies.workloads import architectures, data_sources, optimizers, tasks
from tem_studies.workloads.compression_settings import (
    COMPRESSOR_SETTINGS,
    MEMORY_SETTINGS,
    read_counts,
)
from tem_studies.workloads.configuration import (
    OPTIMIZERS,
    PER_WORKER_SETTINGS,
    VALUE_DTYPES,
    Configuration,
    check_divisible,
)
from tem_studies.workloads.workload_settings import NPZ, WORKLOADS, with_usual
from tem_tf.compressors import COMPRESSORS
from tem_tf.memory import MEMORIES
from tem_tf.wire import value_types


def test_defaults_are_valid():
    assert Configuration().batch_size == 100


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Configuration().seed = 1


def test_names_are_those_that_exist():
    assert set(WORKLOADS) == set(tasks.KINDS)
    assert tuple(architectures.ARCHITECTURES) == WORKLOADS["images"][1]
    assert {*data_sources._SHAPES, NPZ} == set(WORKLOADS["images"][0])
    assert tuple(optimizers.OPTIMIZERS) == OPTIMIZERS
    assert set(COMPRESSOR_SETTINGS) == {*COMPRESSORS, "dgc"}
    assert set(MEMORY_SETTINGS) == set(MEMORIES)
    assert VALUE_DTYPES == value_types.VALUE_DTYPES


def test_shared_leaves_out_what_may_differ_between_workers():
    shared = Configuration(logdir="a", path_data="b", threads=2).shared()
    names = {field.name for field in dataclasses.fields(Configuration)}
    assert set(shared) == names - set(PER_WORKER_SETTINGS)


TOPK = {"compressor": "topk", "density": 0.1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"datasource": "imagenet"},
            "`datasource` must be one of digits, mnist, fashion-mnist, cifar-10, "
            "cifar-100, npz, wikitext-2, tokens, text, movielens-20m, movielens-1m, "
            "movielens-small. Received: datasource='imagenet'.",
        ),
        (
            {"arch": "vgg"},
            "`arch` must be one of simple-cnn, resnet-8, resnet-18, senet-18, "
            "googlenet, lstm, gpt, neumf, or module:function. Received: arch='vgg'.",
        ),
        (
            {"target_sparsity": 1.0},
            "`target_sparsity` must be a number in [0, 1). Received: "
            "target_sparsity=1.0. Pass a fraction: 10 % is 0.1.",
        ),
        (
            {"batch_size": 0},
            "`batch_size` must be an integer of at least 1. Received: batch_size=0.",
        ),
        (
            {"train_iterations": 1.5},
            "`train_iterations` must be an integer of at least 1. "
            "Received: train_iterations=1.5.",
        ),
        (
            {"optimizer": "lion"},
            "`optimizer` must be one of sgd, momentum, nesterov, adam, adamw. "
            "Received: optimizer='lion'.",
        ),
        (
            {"decay_type": "square"},
            "`decay_type` must be one of constant, linear, cosine, step. "
            "Received: decay_type='square'.",
        ),
        (
            {"learning_rate": 0.0},
            "`learning_rate` must be a number above 0 and finite. "
            "Received: learning_rate=0.0.",
        ),
        (
            {"momentum": 1.0},
            "`momentum` must be a number in [0, 1). Received: momentum=1.0.",
        ),
        (
            {"end_learning_rate_factor": -0.1},
            "`end_learning_rate_factor` must be a number in [0, 1]. "
            "Received: end_learning_rate_factor=-0.1.",
        ),
        (
            {"goal_error": 2.0},
            "`goal_error` must be a number in [0, 1]. Received: goal_error=2.0. "
            "Pass a fraction: 10 % is 0.1.",
        ),
        (
            {"compressor": "gzip"},
            "`compressor` must be one of none, all, hard_threshold, "
            "adaptive_threshold, topk, topk_schedule, random_k, accordion, dgc, or "
            "module:Class. Received: compressor='gzip'.",
        ),
        (
            {"compressor": "hard_threshold"},
            "`compressor` hard_threshold needs `threshold`. "
            "Received: threshold=None. Pass --threshold.",
        ),
        (
            {"compressor": "topk"},
            "`compressor` topk needs `density`. "
            "Received: density=None. Pass --density.",
        ),
        (
            TOPK | {"threshold": 0.1},
            "`threshold` is not a setting of `compressor` topk. Received: "
            "threshold=0.1. Leave --threshold out or pass --compressor hard_threshold.",
        ),
        (
            {"density": 0.1},
            "`density` is not a setting of `compressor` none. Received: density=0.1. "
            "Leave --density out or pass --compressor adaptive_threshold or topk "
            "or random_k or dgc.",
        ),
        (
            {"compressor": "random_k", "density": 0.1, "topk_scope": "model"},
            "`topk_scope` is not a setting of `compressor` random_k. Received: "
            "topk_scope='model'. Leave --topk_scope out or pass --compressor topk or "
            "dgc.",
        ),
        (
            TOPK | {"topk_scope": "row"},
            "`topk_scope` must be one of layer, model, block. Received: "
            "topk_scope='row'.",
        ),
        (
            TOPK | {"topk_scope": "block", "density_ramp_steps": 5},
            "`density_ramp_steps` cannot be used with `topk_scope` block, whose share "
            "is fixed. Leave one of them out.",
        ),
        (
            {"compressor": "hard_threshold", "threshold": 0.0},
            "`threshold` must be a number above 0 and finite. Received: threshold=0.0. "
            "It is an absolute magnitude, in units of one worker's own gradient.",
        ),
        *(
            (
                TOPK | {"density": density},
                f"`density` must be a number in (0, 1]. Received: density={density!r}. "
                "Pass a fraction: 10 % is 0.1.",
            )
            for density in (0.0, 1.5, math.nan, "10%", True)
        ),
        (
            TOPK | {"value_dtype": "int16"},
            "`value_dtype` must be one of float32, bfloat16, float16, int8, int4, "
            "int2, sign. Received: value_dtype='int16'.",
        ),
        (
            TOPK | {"dense_below": -1},
            "`dense_below` must be an integer of at least 0. Received: dense_below=-1.",
        ),
        (
            {"local_clipnorm": 0.0},
            "`local_clipnorm` must be a number above 0 and finite. "
            "Received: local_clipnorm=0.0.",
        ),
        (
            {"warmup_steps": 5},
            "`warmup_steps` has no effect with `compressor` none. Received: "
            "warmup_steps=5. Leave --warmup_steps out or pass --compressor.",
        ),
        (
            {"error_feedback": False},
            "`error_feedback` has no effect with `compressor` none. Received: "
            "error_feedback=False. Leave --error_feedback out or pass --compressor.",
        ),
        (
            {"seed": -1},
            "`seed` must be an integer of at least 0. Received: seed=-1.",
        ),
        ({"seed": 2**31}, "`seed` must be below 2**31. Received: seed=2147483648."),
        (
            {"dtype_policy": "float16"},
            "`dtype_policy` must be one of float32, mixed_bfloat16, mixed_float16. "
            "Received: dtype_policy='float16'.",
        ),
        (
            {"arch": "lstm", "datasource": "tokens", "target_sparsity": 0.0}
            | {"dtype_policy": "mixed_bfloat16"},
            "`dtype_policy` has no effect with `arch` lstm. Received: "
            "dtype_policy='mixed_bfloat16'. Leave --dtype_policy out, or pass None.",
        ),
        (
            {"nonfinite": "ignore"},
            "`nonfinite` must be one of raise, zero, skip. "
            "Received: nonfinite='ignore'.",
        ),
        *(
            (
                {"accumulate_steps": steps},
                "`accumulate_steps` must be an integer of at least 1. "
                f"Received: accumulate_steps={steps!r}.",
            )
            for steps in (0, 2.5, -1)
        ),
        *(
            (
                {"loss_scale": scale},
                "`loss_scale` must be dynamic, or a number above 0 and finite. "
                f"Received: loss_scale={scale!r}.",
            )
            for scale in ("0", "-2", "inf", "nan", "big")
        ),
        (
            {"dtype_policy": "mixed_float16", "nonfinite": "zero"},
            "`nonfinite` must be raise or skip with a loss scale, which skips steps "
            "that overflow. Received: nonfinite='zero'.",
        ),
        (
            {"jit_compile": True, "workers": 2},
            "`jit_compile` is for one worker: XLA compiles no step in which workers "
            "exchange. Received: jit_compile=True with workers=2.",
        ),
        *(
            (
                {name: value, "optimizer": "adamw"},
                f"`{name}` must be an integer of at least 1. "
                f"Received: {name}={value!r}.",
            )
            for name in ("local_steps", "freeze_step")
            for value in (0, 2.5)
        ),
        *(
            (
                {name: 11, "optimizer": "adamw", "train_iterations": 10},
                f"`{name}` must be at most `train_iterations`. Received: {name}=11 "
                "with train_iterations=10.",
            )
            for name in ("local_steps", "freeze_step")
        ),
        (
            {"compressor": "all", "value_dtype": "int2", "target_sparsity": 0.5},
            "`compressor` all sends pruned entries, too, and no value in few bits is "
            "0, so that they would move. Received: value_dtype='int2' with "
            "target_sparsity=0.5. Pass --target_sparsity 0, or another compressor.",
        ),
        (
            {"freeze_step": 5},
            "`freeze_step` is a setting of adamw, whose variance it freezes. Received: "
            "freeze_step=5 with optimizer='sgd'. Pass --optimizer adamw.",
        ),
        (
            {"local_steps": 5, "freeze_step": 5, "optimizer": "adamw"},
            "`local_steps` cannot be used with `freeze_step`. Received: local_steps=5, "
            "freeze_step=5. Leave one of them out.",
        ),
        (
            {"local_steps": 5, "nonfinite": "skip"},
            "`nonfinite` must be raise or zero with `local_steps`: workers take steps "
            "by themselves. Received: nonfinite='skip'.",
        ),
        (
            {"outer_momentum": 0.9},
            "`outer_momentum` is a setting of local steps. Received: "
            "outer_momentum=0.9 without local_steps. Pass --local_steps or leave "
            "--outer_momentum out.",
        ),
        (
            {"local_steps": 5, "outer_momentum": 1.0},
            "`outer_momentum` must be a number in [0, 1). Received: "
            "outer_momentum=1.0.",
        ),
        (
            {"jit_compile": True, "compile_model": True},
            "`compile_model` is a part of what `jit_compile` compiles. Received: both. "
            "Leave one of them out.",
        ),
        (
            {"workers": 3},
            "`batch_size` is the number of examples per step over all replicas and "
            "must be divisible by their number. Received: batch_size=100 with 3 "
            "replicas. Pass 102 or 99.",
        ),
    ],
)
def test_wrong_setting_is_refused(settings, message):
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        Configuration(**settings)


def test_batch_smaller_than_replicas_has_one_way_on():
    with pytest.raises(Refusal, match=r"batch_size=2 with 3 replicas. Pass 3\.$"):
        check_divisible(2, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"augmentation": "mixup"},
            "`augmentation` must be one of none, crop-flip, crop-flip-rotate. "
            "Received: augmentation='mixup'.",
        ),
        (
            {"weight_decay": -1.0},
            "`weight_decay` must be a number at least 0 and finite. Received: "
            "weight_decay=-1.0.",
        ),
        (
            {"weight_decay": 0.1, "optimizer": "adam"},
            "`weight_decay` has no effect with `optimizer` adam. Received: "
            "weight_decay=0.1. Leave --weight_decay out.",
        ),
        (
            {"beta_1": 0.5},
            "`beta_1` has no effect with `optimizer` sgd. Received: beta_1=0.5. Leave "
            "--beta_1 out.",
        ),
        (
            {"beta_2": 1.0, "optimizer": "adam"},
            "`beta_2` must be a number in [0, 1). Received: beta_2=1.0.",
        ),
        (
            {"epsilon": 0, "optimizer": "adamw"},
            "`epsilon` must be a number above 0 and finite. Received: epsilon=0.",
        ),
        (
            {"learning_rate_warmup_steps": 5},
            "`learning_rate_warmup_steps` has no effect with `decay_type` constant. "
            "Received: learning_rate_warmup_steps=5. Leave "
            "--learning_rate_warmup_steps out.",
        ),
        *(
            (
                {"decay_type": "cosine", "learning_rate_warmup_steps": steps},
                "`learning_rate_warmup_steps` must be an integer of at least 1. "
                f"Received: learning_rate_warmup_steps={steps!r}.",
            )
            for steps in (0, 1.5)
        ),
        (
            {"decay_type": "cosine", "decay_steps": 9}
            | {"learning_rate_warmup_steps": 9},
            "`learning_rate_warmup_steps` must be fewer than `decay_steps`, in which "
            "they are. Received: learning_rate_warmup_steps=9, decay_steps=9.",
        ),
        *(
            (
                settings,
                "`decay_epochs` and `decay_type` step need each other. Received: "
                f"decay_type={kind!r}, decay_epochs={epochs!r}. Pass for example "
                "--decay_type step --decay_epochs 150 250.",
            )
            for settings, kind, epochs in (
                ({"decay_type": "step"}, "step", None),
                ({"decay_epochs": (3,)}, "constant", (3,)),
            )
        ),
        *(
            (
                {"decay_type": "step", "decay_epochs": epochs},
                "`decay_epochs` must be integers of at least 1, in rising order. "
                f"Received: decay_epochs={epochs!r}.",
            )
            for epochs in ((0,), (5, 5), (9, 3), (1.5,), (True,))
        ),
        (
            {"learning_rate_warmup_factor": 2.0},
            "`learning_rate_warmup_factor` has no effect with "
            "`learning_rate_warmup_epochs` 0. Received: "
            "learning_rate_warmup_factor=2.0. Leave --learning_rate_warmup_factor out.",
        ),
        (
            {"learning_rate_warmup_factor": 0, "learning_rate_warmup_epochs": 1},
            "`learning_rate_warmup_factor` must be a number above 0 and finite. "
            "Received: learning_rate_warmup_factor=0.",
        ),
        (
            {"running_mean_epochs": -1},
            "`running_mean_epochs` must be an integer of at least 0. Received: "
            "running_mean_epochs=-1.",
        ),
    ],
)
def test_wrong_setting_of_a_workload_is_refused(settings, message):
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        Configuration(**settings)


LSTM = {"arch": "lstm", "datasource": "tokens", "target_sparsity": 0.0}
GPT = {"arch": "gpt", "datasource": "text", "target_sparsity": 0.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            LSTM | {"datasource": "mnist"},
            "`arch` lstm cannot be trained on `datasource` mnist. Received: "
            "arch='lstm', datasource='mnist'. Pass --datasource wikitext-2 or tokens.",
        ),
        (
            {"datasource": "tokens"},
            "`arch` simple-cnn cannot be trained on `datasource` tokens. Received: "
            "arch='simple-cnn', datasource='tokens'. Pass --datasource digits or mnist "
            "or fashion-mnist or cifar-10 or cifar-100 or npz.",
        ),
        *(
            (
                settings,
                f"`{name}` has no effect with `arch` {settings['arch']}. Received: "
                f"{name}={settings[name]!r}. Leave --{name} out, or pass {neutral!r}.",
            )
            for settings, name, neutral in (
                (LSTM | {"target_sparsity": 0.9}, "target_sparsity", 0.0),
                (LSTM | {"goal_error": 0.3}, "goal_error", None),
                (LSTM | {"augmentation": "crop-flip"}, "augmentation", "none"),
                ({"arch": "resnet-8", "dropout": 0.5}, "dropout", None),
                ({"arch": "resnet-8", "tied": False}, "tied", True),
                ({"arch": "resnet-8", "bptt": 10}, "bptt", 30),
                ({"arch": "resnet-8", "context": 9}, "context", None),
                (LSTM | {"prompt": "O"}, "prompt", None),
                (LSTM | {"compile_model": True}, "compile_model", None),
            )
        ),
        (
            GPT | {"gpt_features": 30},
            "`gpt_features` must be divisible by `gpt_heads`. Received: "
            "gpt_features=30, gpt_heads=4.",
        ),
        *(
            (
                GPT | {name: 0},
                f"`{name}` must be an integer of at least 1. Received: {name}=0.",
            )
            for name in ("gpt_layers", "gpt_heads", "gpt_features", "context")
        ),
        (
            GPT | {"sample_characters": -1},
            "`sample_characters` must be an integer of at least 0. Received: "
            "sample_characters=-1.",
        ),
        (
            GPT | {"prompt": ""},
            "`prompt` must have at least one character. Received: prompt=''. Leave "
            "--prompt out for the end of a line.",
        ),
        (
            LSTM | {"dropout": 1.0},
            "`dropout` must be a number in [0, 1). Received: dropout=1.0.",
        ),
        *(
            (
                LSTM | {name: 0},
                f"`{name}` must be an integer of at least 1. Received: {name}=0.",
            )
            for name in ("lstm_layers", "lstm_units", "bptt")
        ),
    ],
)
def test_setting_that_does_not_fit_the_network_is_refused(settings, message):
    with pytest.raises(Refusal, match=f"^{re.escape(message)}$"):
        Configuration(**settings)


def test_dropout_is_the_studys_unless_given():
    assert Configuration(**LSTM).dropout_rate == 0.4
    assert Configuration(**LSTM, dropout=0.0).dropout_rate == 0.0
    assert Configuration(**GPT).dropout_rate == 0.0
    neumf = {"arch": "neumf", "datasource": "movielens-1m", "target_sparsity": 0.0}
    assert Configuration(**neumf).dropout_rate == 0.5


def test_a_gpts_own_settings_are_filled_in():
    given = Configuration(**GPT, gpt_layers=2, prompt="To be")
    assert (given.gpt_layers, given.gpt_heads, given.context) == (2, 4, 64)
    assert (given.prompt, given.sample_characters) == ("To be", 500)
    assert Configuration().gpt_layers is None  # As in results from before.


def usual(given=(), workers=1, **settings):
    """A GPT's settings, from flags of which these were given."""
    start = Configuration(**GPT).as_dict() | settings
    return with_usual(start, {*given, *settings}, workers)


def test_a_gpt_is_trained_as_nanogpt_trains_it():
    settings = usual()
    want = {
        "batch_size": 12,
        "train_iterations": 2000,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "decay_type": "cosine",
        "decay_steps": 2000,
        "end_learning_rate_factor": 0.1,
        "learning_rate_warmup_steps": 100,
        "beta_1": 0.9,
        "beta_2": 0.99,
        "epsilon": 1e-8,
        "weight_decay": 0.1,
        "local_clipnorm": 1.0,
    }
    assert {name: settings[name] for name in want} == want
    assert Configuration(**settings).target_sparsity == 0.0


def test_what_a_user_gave_is_kept_and_followed():
    assert usual(workers=3)["batch_size"] == 36
    assert usual(workers=3, batch_size=6)["batch_size"] == 6
    shorter = usual(train_iterations=100)
    assert (shorter["decay_steps"], shorter["learning_rate_warmup_steps"]) == (100, 5)
    assert usual(train_iterations=10)["learning_rate_warmup_steps"] is None
    assert usual(decay_steps=400)["learning_rate_warmup_steps"] == 20
    # No setting of AdamW's or of the cosine comes with others.
    Configuration(**usual(optimizer="sgd", decay_type="constant"))
    # What a file may have is refused where settings are checked.
    with pytest.raises(Refusal, match="`train_iterations` must be an integer"):
        Configuration(**usual(train_iterations="many"))


def test_one_decay_epoch_is_a_tuple_of_one():
    settings = {"decay_type": "step", "decay_epochs": 7}
    assert Configuration(**settings).decay_epochs == (7,)
    words = r"`decay_epochs` must be integers .* Received: decay_epochs=\(1.5,\)"
    with pytest.raises(Refusal, match=words):
        Configuration(**settings | {"decay_epochs": 1.5})


def test_an_empty_logdir_is_refused():
    with pytest.raises(Refusal, match="`logdir` must name a directory"):
        Configuration(logdir="")


def test_counts_are_read_whatever_blanks_are_about_them(tmp_path):
    path = tmp_path / "counts.txt"
    path.write_bytes(b"3\n 5 \n1\x1f\x1f\n")
    assert read_counts(str(path)) == [3, 5, 1]
