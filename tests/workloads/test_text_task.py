"""The language model, its streams and states, and perplexity, by their equations."""

import json
import math

import jsonschema
import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_studies.refusal import Refusal
from tem_studies.workloads import experiment, results, text_task
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.examples import Share
from tem_studies.workloads.language_model import LanguageModel
from tem_studies.workloads.logdir import SCHEMA_PATH
from tem_studies.workloads.text_files import TextData
from tem_studies.workloads.training import Trainer

WORDS = 11
TEXT = np.random.default_rng(0).integers(0, WORDS, 203).astype(np.int32)
SETTINGS = {
    "arch": "lstm",
    "datasource": "tokens",
    "target_sparsity": 0.0,
    "batch_size": 4,
    "bptt": 6,
    "lstm_layers": 2,
    "lstm_units": 5,
    "dropout": 0.0,
    "learning_rate": 1.0,
}


def make_task(**settings):
    """A task of a small text: streams of 50 words, 8 windows an epoch."""
    names = tuple(map(str, range(WORDS)))
    data = TextData(TEXT, TEXT[:40], TEXT[:90], names, "here")
    return text_task.TextTask(Configuration(**SETTINGS | settings), data)


def make_trainer(task, replicas=1, rate=1.0, trains=True):
    """A trainer of the task's network."""
    strategy = tf.distribute.get_strategy()
    if replicas > 1:
        devices = [f"CPU:{i}" for i in range(replicas)]
        strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        model = task.new_model()
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(rate), tem_tf.Identity()
        )
    batch_size = 4 if trains else 4 * replicas
    trainer = Trainer(strategy, model, optimizer, task.train, batch_size)
    if trains:
        trainer.compile()
    return trainer


def log_probabilities(model, words):
    """Of each next word of one stream, from a zero state: numpy, step by step."""
    weights = {v.path.split("lstm/")[-1]: v.numpy() for v in model.variables}
    embedding = weights["embedding/embeddings"]
    decoder = weights.get("decoder", embedding)
    layers = len([name for name in weights if name.endswith("recurrent_kernel")])
    units = embedding.shape[1]
    states = [(np.zeros(units), np.zeros(units)) for _ in range(layers)]
    results = []
    for word, following in zip(words, words[1:], strict=False):
        x = embedding[word]
        for i in range(layers):
            name = f"lstm_{i + 1}/lstm_cell"
            h, c = states[i]
            z = x @ weights[f"{name}/kernel"] + h @ weights[f"{name}/recurrent_kernel"]
            z += weights[f"{name}/bias"]
            gate_in, gate_forget, new, gate_out = np.split(z, 4)
            c = sigmoid(gate_forget) * c + sigmoid(gate_in) * np.tanh(new)
            x = sigmoid(gate_out) * np.tanh(c)
            states[i] = x, c
        logits = decoder @ x + weights["decoder_bias"]
        results.append(logits[following] - np.log(np.exp(logits).sum()))
    return np.array(results)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def randomise(model):
    """Weights that show."""
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(0, 0.5, variable.shape).astype(np.float32))


# ------------------------------------------------------------------------- the network


def test_full_size_has_the_studys_number_of_parameters():
    model = LanguageModel(words=28_869)
    assert model.count_params() == 28_941_519


def test_initial_values_are_the_studys():
    model = LanguageModel(words=500, units=100, tied=False)
    limits = {"embeddings": 0.1, "decoder": 0.1, "decoder_bias": 0.0}
    for variable in model.trainable_variables:
        limit = limits.get(variable.name, 1 / math.sqrt(100))
        values = variable.numpy()
        assert abs(values).max() <= limit
        # A uniform variable has the deviation limit/√3, known here to a few per cent.
        assert values.std() == pytest.approx(limit / math.sqrt(3), rel=0.1)


def test_seed_draws_the_weights():
    first, same, other = (LanguageModel(9, 4, seed=s).get_weights() for s in (1, 1, 2))
    for a, b, c in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not a.any() or (a != c).all()


@pytest.mark.parametrize("tied", [True, False])
def test_evaluation_predicts_every_word_but_the_first_once(tied, monkeypatch):
    # One stream, so that the oracle, which reads from the start, sees the same.
    monkeypatch.setattr(text_task, "EVALUATION_STREAMS", 1)
    monkeypatch.setattr(text_task, "EVALUATION_WINDOW", 7)
    task = make_task(tied=tied)
    trainer = make_trainer(task, trains=False)
    randomise(trainer.model)
    score = trainer.evaluate(task.validation)
    want = -log_probabilities(trainer.model, TEXT[:40]).mean()
    assert task.validation.examples == 39
    assert score.loss == pytest.approx(want, rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(want), rel=1e-4)


@pytest.mark.parametrize("replicas", [1, 3])
def test_evaluation_in_streams_is_the_mean_over_all_of_them(replicas, monkeypatch):
    monkeypatch.setattr(text_task, "EVALUATION_STREAMS", 4)
    task = make_task()
    trainer = make_trainer(task, replicas, trains=False)
    randomise(trainer.model)
    score = trainer.evaluate(task.validation)
    # 39 words in four streams: 10, 10, 10 and 9.
    losses = [
        log_probabilities(trainer.model, TEXT[10 * i : 10 * i + 11][: 40 - 10 * i])
        for i in range(4)
    ]
    assert sum(map(len, losses)) == 39
    assert score.loss == pytest.approx(-np.concatenate(losses).mean(), rel=1e-5)


def test_perplexity_beyond_floating_point_is_infinite():
    assert text_task.text_score(1e4).perplexity == math.inf


# ---------------------------------------------------------------------------- training


def test_epochs_take_the_windows_in_their_order():
    task = make_task()
    assert task.steps_per_epoch == (50 - 1) // 6 == 8
    rows = np.concatenate([task.take(3), task.take(7)])
    assert rows.dtype == np.int32
    assert rows[:, 0].tolist() == [0, 6, 12, 18, 24, 30, 36, 42, 0, 6]


@pytest.mark.parametrize("replicas", [1, 2])
def test_states_go_on_within_an_epoch_and_start_anew_with_it(replicas):
    task = make_task()
    trainer = make_trainer(task, replicas, rate=0.0)  # the weights stay
    randomise(trainer.model)
    streams = TEXT[:200].reshape(4, 50)
    each = np.array([log_probabilities(trainer.model, stream) for stream in streams])
    for window in (*range(8), 0):
        trainer.run(task.take(1))
        want = -each[:, 6 * window : 6 * window + 6].mean()
        assert trainer.read_meters().loss == pytest.approx(want, rel=1e-4)


def test_gradient_does_not_reach_back_beyond_the_window():
    text = np.arange(203, dtype=np.int32)  # every word once
    data = TextData(text, text, text, tuple(map(str, text)), "here")
    task = text_task.TextTask(Configuration(**SETTINGS | {"tied": False}), data)
    model = task.new_model()
    task.train.prepare(4, 1)
    share = Share(tf.constant(0), 1, tf.constant(0, tf.int64))
    (embedding,) = [v for v in model.variables if v.name == "embeddings"]
    with tf.GradientTape() as tape:
        task.train.learn(model, tf.constant([0]), share)
        loss, _ = task.train.learn(model, tf.constant([6]), share)
    gradient = tf.convert_to_tensor(tape.gradient(loss, embedding.value)).numpy()
    words = np.flatnonzero(gradient.any(axis=1))
    np.testing.assert_array_equal(words, text[:200].reshape(4, 50)[:, 6:12].ravel())


def test_two_replicas_train_as_one_does():
    weights = []
    for replicas in (1, 2):
        task = make_task()
        trainer = make_trainer(task, replicas)
        trainer.run(task.take(10))
        weights.append(trainer.model.get_weights())
    for one, two in zip(*weights, strict=True):
        # Sums of float32 in another order, through ten steps.
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_local_clip_bounds_each_workers_own_gradient():
    task = make_task(local_clipnorm=0.01, optimizer="sgd")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = task.new_model()
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(1.0), tem_tf.Identity(), local_clipnorm=0.01
        )
    trainer = Trainer(strategy, model, optimizer, task.train, batch_size=4)
    trainer.compile()
    before = model.get_weights()
    trainer.run(task.take(1))
    steps = [a - b for a, b in zip(before, model.get_weights(), strict=True)]
    # The mean of two gradients of norm 0.01 each, at rate 1.
    assert 0.005 < np.sqrt(sum((step**2).sum() for step in steps)) < 0.010001


def test_dropout_differs_between_steps_replicas_and_places():
    def loss(seed, replica, step, rate=0.5):
        task = make_task(dropout=rate, seed=seed)
        model = LanguageModel(WORDS, 5, 2, dropout=rate)
        task.train.prepare(4, 1)
        share = Share(tf.constant(replica), 4, tf.constant(step, tf.int64))
        # The same streams for all replicas: they differ in their masks alone.
        task.train._streams = tf.tile(task.train._streams[:1], [4, 1])
        task.train.carried = text_task.ReplicaState()
        task.train.prepare(4, 4)
        return float(task.train.learn(model, tf.constant([0]), share)[0])

    base = loss(0, 0, 0)
    assert loss(0, 0, 0) == base
    assert len({base, loss(1, 0, 0), loss(0, 1, 0), loss(0, 0, 1)}) == 4
    assert loss(0, 0, 0, rate=0.0) == pytest.approx(loss(0, 3, 9, rate=0.0))


def test_dropout_is_after_the_embedding_and_after_every_layer(monkeypatch):
    seen = []

    def spy(x, rate, seed):
        seen.append((tuple(x.shape), rate, tuple(seed.numpy())))
        return x

    monkeypatch.setattr(tf.nn.experimental, "stateless_dropout", spy)
    model = LanguageModel(WORDS, 5, 3, dropout=0.4)
    words = tf.zeros((2, 4), tf.int32)
    model(words, model.start(2), tf.constant([1, 2]))
    assert [shape for shape, *_ in seen] == [(2, 4, 5)] * 4
    assert len({seed for *_, seed in seen}) == 4
    model(words, model.start(2))  # an evaluation
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 40},
            r"`bptt` \+ 1 words each. Received: batch_size=40, bptt=6 with 203 words.",
        ),
        ({"bptt": 50}, "Received: batch_size=4, bptt=50 with 203 words."),
    ],
)
def test_text_too_short_for_a_step_is_refused(settings, message):
    with pytest.raises(Refusal, match=message):
        make_task(**settings)


def test_split_of_one_word_is_refused():
    with pytest.raises(
        ValueError, match="validation text must have at least two words"
    ):
        text_task.HeldOutText(TEXT[:1], "validation")


# ------------------------------------------------------------------------- a whole run


# Keras 3.15 asks numpy 2 for an array in the old way when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.slow
def test_a_text_of_two_words_is_learnt(tmp_path):
    text = np.tile(np.int32([0, 1]), 300)
    data = TextData(text, text[:80], text[:90], ("a", "b"), "here")
    configuration = Configuration(
        **SETTINGS
        | {"logdir": str(tmp_path), "train_iterations": 60, "check_interval": 30}
        | {"running_mean_epochs": 1, "compressor": "topk", "density": 0.2}
        | {"optimizer": "adam", "learning_rate": 0.05}
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    run = experiment.Experiment(configuration, strategy, data, results.Stopwatch())
    run.run()
    written = json.loads((tmp_path / "result.json").read_text())
    jsonschema.validate(written, json.loads(SCHEMA_PATH.read_text()))
    first, last = written["history"]
    # Two equally frequent words have perplexity 2 to who knows nothing else.
    assert last["validation_perplexity"] < min(1.7, first["validation_perplexity"])
    assert written["test"]["perplexity"] == pytest.approx(
        math.exp(written["test"]["loss"])
    )
    assert written["test"]["running_mean_perplexity"] < 2
    model = LanguageModel(2, 5, 2)
    (path,) = (tmp_path / "checkpoints").glob("step-000060.weights.h5")
    model.load_weights(path)


def test_no_more_words_are_evaluated_than_asked_for():
    task = make_task(evaluation_examples=30)
    assert (task.validation.examples, task.test.examples) == (30, 30)
    task = make_task(evaluation_examples=60)  # More than the validation text has.
    assert (task.validation.examples, task.test.examples) == (39, 60)
