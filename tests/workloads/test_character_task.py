"""Windows of characters, their loss by its definition, XLA, and the sample."""

import json
import math

import jsonschema
import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_studies.comparison.quality import quality_of
from tem_studies.refusal import Refusal
from tem_studies.workloads import (
    character_task,
    experiment,
    results,
    text_sample,
)
from tem_studies.workloads.character_files import CharacterData
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.examples import Share
from tem_studies.workloads.logdir import SCHEMA_PATH
from tem_studies.workloads.training import Trainer
from tests.training import make_strategy

CHARACTERS = "abcdefghijk"
TEXT = np.random.default_rng(0).integers(0, 11, 203).astype(np.int32)
SETTINGS = {
    "arch": "gpt",
    "datasource": "text",
    "target_sparsity": 0.0,
    "batch_size": 4,
    "context": 6,
    "gpt_layers": 2,
    "gpt_heads": 2,
    "gpt_features": 8,
    "prompt": "ab",
}


def make_task(train=TEXT, validation=TEXT[:40], **settings):
    """A task of a small text."""
    data = CharacterData(train, validation, CHARACTERS, "here")
    return character_task.CharacterTask(Configuration(**SETTINGS | settings), data)


def make_trainer(task, replicas=1, batch_size=4, compile_model=False, scale=10):
    """A trainer of the task's network; by 10 its first weights show."""
    strategy = make_strategy(replicas)
    with strategy.scope():
        model = task.new_model()
        for variable in model.trainable_variables:
            variable.assign(scale * variable)
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.1), tem_tf.Identity()
        )
    trainer = Trainer(
        strategy,
        model,
        optimizer,
        task.train,
        batch_size,
        compile_model=compile_model,
    )
    trainer.compile()
    return trainer


def losses(model, window):
    """Of every character of a window but the first, in nats."""
    logits = model(window[np.newaxis, :-1]).numpy()[0].astype(np.float64)
    odds = np.log(np.exp(logits).sum(axis=1))
    return odds - logits[np.arange(len(logits)), window[1:]]


# ---------------------------------------------------------------------------- training


def test_rows_are_drawn_by_seed_and_step():
    at_once = make_task().take(10)
    task = make_task()
    np.testing.assert_array_equal(np.concatenate([task.take(3), task.take(7)]), at_once)
    task = make_task()
    task.skip(4)  # As a run does that goes on.
    np.testing.assert_array_equal(task.take(6), at_once[4:])
    assert at_once.dtype == np.int32 and at_once.shape == (10, 4)
    assert (make_task(seed=1).take(10) != at_once).any(axis=1).all()


def test_every_window_may_be_drawn_and_none_goes_beyond_the_text():
    rows = make_task(train=TEXT[:10]).take(100)
    assert set(rows.ravel()) == {0, 1, 2, 3}  # The last one ends at the text's end.


@pytest.mark.parametrize("replicas", [1, 2])
def test_step_trains_on_the_windows_of_its_row(replicas):
    task = make_task()
    trainer = make_trainer(task, replicas)
    rows = task.take(1)
    want = np.mean([losses(trainer.model, TEXT[r : r + 7]) for r in rows[0]])
    trainer.run(rows)
    assert trainer.read_meters().loss == pytest.approx(want, rel=1e-5)


def test_replicas_have_windows_of_their_own():
    task = make_task(train=np.arange(203, dtype=np.int32) % 11)
    seen = []

    def model(windows, seed):
        seen.append(windows.numpy())
        return tf.zeros((*windows.shape, 11))

    rows = tf.constant([0, 20, 41, 62])
    for replica in range(2):
        task.train.learn(model, rows, Share(replica, 2, tf.constant(0, tf.int64)))
    starts = np.concatenate(seen)[:, 0].tolist()
    assert starts == [0, 20 % 11, 41 % 11, 62 % 11]


def test_dropout_differs_between_steps_and_replicas():
    def loss(seed, replica, step, rate=0.5):
        task = make_task(dropout=rate, seed=seed)
        model = make_task(dropout=rate).new_model()
        rows = tf.zeros([4], tf.int32)  # The same windows for both replicas.
        share = Share(tf.constant(replica), 2, tf.constant(step, tf.int64))
        return float(task.train.learn(model, rows, share)[0])

    base = loss(0, 0, 0)
    assert loss(0, 0, 0) == base
    assert len({base, loss(1, 0, 0), loss(0, 1, 0), loss(0, 0, 1)}) == 4
    assert loss(0, 0, 0, rate=0.0) == loss(0, 1, 9, rate=0.0)


@pytest.mark.parametrize("replicas", [1, 2])
def test_compiled_network_trains_as_the_other_one_does(replicas):
    found = []
    for compile_model in (False, True):
        task = make_task()
        trainer = make_trainer(task, replicas, compile_model=compile_model, scale=2)
        trainer.run(task.take(20))
        found.append((trainer.read_meters().loss, trainer.model.get_weights()))
    (plain, weights), (compiled, others) = found
    # XLA adds up in another order, through twenty steps.
    assert compiled == pytest.approx(plain, rel=1e-5)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_compiled_network_is_compiled_and_its_exchange_is_not():
    task = make_task()
    trainer = make_trainer(task, 2, compile_model=True)
    graph = trainer._steps.graph.as_graph_def()
    compiled = {
        function.signature.name
        for function in graph.library.function
        if function.attr["_XlaMustCompile"].b
    }
    assert len(compiled) == 2  # One for each replica.
    assert all("gradients" in name for name in compiled)


# -------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("replicas", [1, 3])
def test_evaluation_predicts_every_character_but_the_first_once(replicas, monkeypatch):
    monkeypatch.setattr(character_task, "EVALUATION_WINDOWS", 2)
    task = make_task()
    trainer = make_trainer(task, replicas, batch_size=3)
    # 39 characters: six windows of six, and three in the last one.
    windows = [TEXT[:40][6 * i : 6 * i + 7] for i in range(7)]
    each = np.concatenate([losses(trainer.model, window) for window in windows])
    assert len(each) == task.validation.examples == 39
    score = trainer.evaluate(task.validation)
    assert score._fields == ("loss",)
    assert score.loss == pytest.approx(each.mean(), rel=1e-5)


def test_text_shorter_than_a_window_is_measured():
    task = make_task(validation=TEXT[:3])
    trainer = make_trainer(task)
    want = losses(trainer.model, TEXT[:3]).mean()
    assert trainer.evaluate(task.validation).loss == pytest.approx(want, rel=1e-5)


def test_text_too_short_to_train_on_is_refused():
    message = (
        "training text must have more than `context` characters. Received: context=6 "
        "with 6 characters."
    )
    with pytest.raises(Refusal, match=message):
        make_task(train=TEXT[:6])
    make_task(train=TEXT[:7])


# ------------------------------------------------------------------------------ sample


def test_sample_goes_on_with_the_prompt_and_repeats():
    texts = [
        task.sample(task.new_model())
        for task in (
            make_task(sample_characters=30),
            make_task(sample_characters=30),
            make_task(sample_characters=30, seed=1),
            make_task(sample_characters=0),
        )
    ]
    assert texts[0] == texts[1] != texts[2]
    assert [len(text) for text in texts] == [32, 32, 32, 0 + 2]
    assert all(text.startswith("ab") for text in texts)
    assert set(texts[0]) <= set(CHARACTERS)


def test_sample_draws_by_the_networks_odds():
    """From what it knows of the last `context` characters."""
    seen = []

    def model(window):
        tf.py_function(lambda w: seen.append(w.numpy()[0].tolist()), [window], [])
        return tf.math.log(tf.constant([[[0.5, 0.5, 0.0]] * 3]))

    model.context = 3
    numbers = text_sample.sample(model, [2, 2], 1000, seed=0)
    drawn = np.bincount(numbers[2:], minlength=3)
    assert drawn[2] == 0
    assert drawn[0] == pytest.approx(500, abs=80)  # Five deviations of 16.
    assert seen[0] == [2, 2, 0]
    assert seen[1] == numbers[:3]
    assert seen[-1] == numbers[-4:-1]


def test_prompt_of_strange_characters_is_refused():
    message = "must consist of characters of the text. Received: 'x' in prompt='abx'."
    with pytest.raises(Refusal, match=message):
        make_task(prompt="abx")


# ------------------------------------------------------------------------- a whole run


# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_text_that_repeats_is_learnt(tmp_path, capsys):
    text = np.tile(np.arange(11, dtype=np.int32), 30)
    data = CharacterData(text[:297], text[297:], CHARACTERS, "here")
    configuration = Configuration(
        **SETTINGS
        | {"logdir": str(tmp_path), "train_iterations": 200, "check_interval": 100}
        | {"optimizer": "adamw", "weight_decay": 0.1, "learning_rate": 0.02}
        | {"compressor": "topk", "density": 0.2, "compile_model": True}
        | {"running_mean_epochs": 1, "sample_characters": 20}
    )
    run = experiment.Experiment(
        configuration, make_strategy(2), data, results.Stopwatch()
    )
    run.run()
    written = json.loads((tmp_path / "result.json").read_text())
    jsonschema.validate(written, json.loads(SCHEMA_PATH.read_text()))
    assert written["test"] is None
    assert written["data"]["test"] == 0
    first, last = written["history"]
    # Whoever knows nothing else of eleven equally frequent characters has log 11.
    assert last["validation_loss"] < min(0.5, first["validation_loss"]) < math.log(11)
    said = capsys.readouterr().out
    (sample,) = [line for line in said.splitlines() if len(line) == 22]
    numbers = np.array([CHARACTERS.index(character) for character in sample])
    assert (np.diff(numbers) % 11 == 1).sum() > 15  # of 21; by chance two
    assert f"validation loss {last['validation_loss']:.4f}" in said
    quality = quality_of(written)
    assert quality.name == "loss"
    assert quality.test(written) == last["validation_loss"]


def test_no_more_characters_are_evaluated_than_asked_for():
    assert make_task().validation.examples == 39
    assert make_task(evaluation_examples=12).validation.examples == 12
    assert make_task(evaluation_examples=99).validation.examples == 39
