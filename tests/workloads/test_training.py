"""The training step, its masks and meters, and evaluation, on one and more replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_studies.workloads import architectures
from tem_studies.workloads.batches import DeviceSplit
from tem_studies.workloads.data_sources import Split
from tem_studies.workloads.training import Trainer
from tests.workloads.files import examples

SHAPE = (16, 16, 1)
IMAGES, LABELS = examples(96, SHAPE)
MEAN, DEVIATION = np.float32([120.0]), np.float32([70.0])
STANDARDISED = (IMAGES.astype(np.float32) - MEAN) / DEVIATION
ROWS = np.random.default_rng(0).permutation(96).astype(np.int32).reshape(8, 12)


def split(count=96):
    """The first examples as a split."""
    return DeviceSplit(Split(IMAGES[:count], LABELS[:count]), MEAN, DEVIATION)


def strategy_of(replicas):
    """Virtual devices of this process."""
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def make_trainer(
    replicas=1,
    masks=None,
    compressor=None,
    trains=True,
    batch_size=12,
    dtype_policy=None,
    jit_compile=False,
    compile_model=False,
    **options,
):
    """A trainer of Simple-CNN."""
    strategy = strategy_of(replicas)
    with strategy.scope():
        model = architectures.build(
            "simple-cnn", SHAPE, seed=0, dtype_policy=dtype_policy
        )
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.05), compressor or tem_tf.Identity(), **options
        )
    trainer = Trainer(
        strategy,
        model,
        optimizer,
        split(),
        batch_size,
        jit_compile=jit_compile,
        compile_model=compile_model,
    )
    trainer.prune(masks or [np.ones(w.shape, np.float32) for w in model.get_weights()])
    if trains:
        trainer.compile()
    return trainer


def random_masks():
    """Zeros and ones for Simple-CNN."""
    generator = np.random.default_rng(1)
    shapes = [v.shape for v in architectures.build("simple-cnn", SHAPE, 0).variables]
    return [(generator.random(shape) < 0.3).astype(np.float32) for shape in shapes]


def eager_training(masks, batches=ROWS):
    """The same training written out: weights, mean loss and accuracy."""
    model = architectures.build("simple-cnn", SHAPE, seed=0)
    weights = model.trainable_variables
    for variable, mask in zip(weights, masks, strict=True):
        variable.assign(variable * mask)
    losses, correct = [], 0
    for rows in batches:
        with tf.GradientTape() as tape:
            logits = model(STANDARDISED[rows])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(
                LABELS[rows], logits
            )
        gradients = tape.gradient(loss, weights)
        for variable, gradient, mask in zip(weights, gradients, masks, strict=True):
            variable.assign(variable - 0.05 * gradient * mask)
        losses.append(float(loss))
        correct += np.sum(np.argmax(logits, axis=1) == LABELS[rows])
    return model.get_weights(), np.mean(losses), correct / batches.size


# float32 sums over a batch in another order, through eight steps.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_training_is_masked_sgd_on_global_batches(replicas):
    masks = random_masks()
    trainer = make_trainer(replicas, masks)
    trainer.run(ROWS)
    weights, loss, accuracy = eager_training(masks)
    for got, want in zip(trainer.model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)
    score = trainer.read_meters()
    assert score.loss == pytest.approx(loss, rel=1e-4)
    assert score.accuracy == pytest.approx(accuracy, abs=1e-6)
    assert trainer.steps == 8


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_batch_computed_in_chunks_is_the_same_training(replicas, monkeypatch):
    monkeypatch.setattr("tem_studies.workloads.training.chunk_size", lambda examples: 8)
    batches, masks = ROWS.reshape(2, 48), random_masks()
    trainer = make_trainer(replicas, masks, batch_size=48)
    trainer.run(batches)
    weights, loss, accuracy = eager_training(masks, batches)
    for got, want in zip(trainer.model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)
    score = trainer.read_meters()
    assert score.loss == pytest.approx(loss, rel=1e-4)
    assert score.accuracy == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize(
    "compressor",
    [
        tem_tf.Identity(),
        tem_tf.HardThreshold(0.01),
        tem_tf.TopK(density=0.1),
        tem_tf.RandomK(density=0.1, seed=0),
    ],
    ids=lambda compressor: type(compressor).__name__,
)
def test_masked_entries_stay_0_whatever_is_sent(compressor):
    masks = random_masks()
    trainer = make_trainer(2, masks, compressor)
    before = trainer.model.get_weights()
    trainer.run(ROWS)
    for old, new, mask in zip(before, trainer.model.get_weights(), masks, strict=True):
        assert not new[mask == 0].any()
        assert (new[mask == 1] != old[mask == 1]).any()


def test_calls_may_be_cut_anywhere():
    whole, parts = make_trainer(), make_trainer()
    whole.run(ROWS)
    for piece in (ROWS[:1], ROWS[1:6], ROWS[6:]):
        parts.run(piece)
    for a, b in zip(whole.model.get_weights(), parts.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole.read_meters() == parts.read_meters()


def test_meters_start_again_after_a_reading():
    trainer = make_trainer(2)
    trainer.run(ROWS[:4])
    trainer.read_meters()
    with pytest.raises(RuntimeError, match="needs a step since the last reading"):
        trainer.read_meters()


@pytest.mark.parametrize("replicas", [1, 3])
def test_records_are_those_of_each_step(replicas, monkeypatch):
    monkeypatch.setattr("tem_studies.workloads.step_records.RECORDS", 5)
    compressor = tem_tf.HardThreshold(0.05)
    whole, parts = (make_trainer(replicas, None, compressor) for _ in range(2))
    before = {"entries_sent": 0, "payload_bytes": 0, "total_error": 0.0}
    expected = []
    for row in ROWS:  # One step at a time, by what a summary says before and after.
        parts.run(row[np.newaxis])
        after = parts.optimizer.communication_summary()
        sums = [after[name] - before[name] for name in before]
        expected.append(np.array(sums) / [replicas, replicas, 1])
        before = {name: after[name] for name in before}
    found = []
    for start in range(0, 8, 5):
        assert whole.records.room == 5
        whole.run(ROWS[start : start + 5])
        found.append(whole.records.read())
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-12)
    assert len(set(np.array(expected)[:, 0])) > 1  # k_t moves.
    assert whole.records.read().shape == (0, 3)


def test_records_must_be_read_in_time(monkeypatch):
    monkeypatch.setattr("tem_studies.workloads.step_records.RECORDS", 5)
    trainer = make_trainer()
    trainer.run(ROWS[:6])
    with pytest.raises(RuntimeError, match="must be read every 5 steps. There were"):
        trainer.records.read()


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 95])
def test_evaluation_covers_the_whole_split_once(replicas, count, monkeypatch):
    monkeypatch.setattr("tem_studies.workloads.batches.EVALUATION_BATCH", 10)
    trainer = make_trainer(replicas, trains=False)
    score = trainer.evaluate(split(count))
    logits = trainer.model(STANDARDISED[:count])
    losses = keras.losses.sparse_categorical_crossentropy(
        LABELS[:count], logits, from_logits=True
    )
    assert score.loss == pytest.approx(np.mean(losses), rel=1e-5)
    correct = np.argmax(logits, axis=1) == LABELS[:count]
    assert score.accuracy == pytest.approx(np.mean(correct), abs=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_byte_of_a_dense_run_is_counted(replicas):
    trainer = make_trainer(replicas)
    trainer.run(ROWS[:3])
    summary = trainer.optimizer.communication_summary()
    want = 4 * 3 * replicas * trainer.model.count_params()
    assert summary["dense_bytes"] == summary["payload_bytes"] == want
    assert summary["density"] == 1


def test_two_steps_of_half_a_batch_are_one_of_the_whole():
    whole, halves = make_trainer(), make_trainer(batch_size=6, accumulate_steps=2)
    whole.run(ROWS)
    halves.run(ROWS.reshape(-1, 6))
    for one, other in zip(
        whole.model.get_weights(), halves.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert halves.optimizer.iterations.numpy() == whole.steps == 8
    assert whole.read_meters()[0] == pytest.approx(halves.read_meters()[0], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"loss_scale": 64.0}, 1e-5),
        ({"jit_compile": True}, 1e-4),
        ({"compile_model": True}, 1e-4),
        # Plain Keras's gradients differ by 0.123 and 0.018 here.
        ({"dtype_policy": "mixed_bfloat16"}, 0.13),
        ({"dtype_policy": "mixed_float16", "loss_scale": "dynamic"}, 0.02),
    ],
    ids=str,
)
def test_other_steps_move_weights_alike(settings, share):
    """By a step that differs by a share of its length, at most."""
    start = make_trainer(trains=False).model.get_weights()
    moved = []
    for trainer in (make_trainer(), make_trainer(**settings)):
        trainer.run(ROWS[:1])
        weights = trainer.model.get_weights()
        assert {w.dtype for w in weights} == {np.dtype(np.float32)}
        moved.append(
            np.concatenate(
                [(w - s).ravel() for w, s in zip(weights, start, strict=True)]
            )
        )
    plain, other = moved
    assert np.linalg.norm(plain - other) < share * np.linalg.norm(plain)
    assert trainer.optimizer.communication_summary()["skipped_steps"] == 0


def normed_trainer(replicas, **settings):
    """A trainer of a small network with a batch norm."""
    strategy = strategy_of(replicas)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        inputs = keras.Input(SHAPE)
        x = keras.layers.BatchNormalization(momentum=0.5)(inputs)
        model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.05), tem_tf.Identity()
        )
    trainer = Trainer(strategy, model, optimizer, split(), batch_size=12, **settings)
    trainer.compile()
    return trainer, strategy


def test_statistics_are_averaged_over_replicas_before_an_evaluation():
    trainer, strategy = normed_trainer(2)
    trainer.run(ROWS[:1])
    statistics = trainer.model.non_trainable_variables
    want = []
    for variable, start in zip(statistics, (0.0, 1.0), strict=True):
        each = [v.numpy() for v in strategy.experimental_local_results(variable.value)]
        halves = STANDARDISED[ROWS[0]].reshape(2, -1)
        seen = halves.mean(axis=1) if not start else halves.var(axis=1)
        for value, one in zip(each, seen, strict=True):
            np.testing.assert_allclose(value, 0.5 * start + 0.5 * one, rtol=1e-4)
        want.append(np.mean(each, axis=0))
    trainer.evaluate(split(5))
    for variable, mean in zip(statistics, want, strict=True):
        for value in strategy.experimental_local_results(variable.value):
            np.testing.assert_allclose(value.numpy(), mean, rtol=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
def test_running_mean_is_that_of_the_weights_since_its_last_reset(replicas):
    trainer, _ = normed_trainer(replicas, running_mean_period=5)
    seen = []
    for i in range(8):
        trainer.run(ROWS[i : i + 1])
        trainer.synchronise()
        seen.append(trainer.model.get_weights())
    score = trainer.evaluate_running_mean(split(50))
    # Steps 5, 6 and 7, counted from 0, came after the reset. What a replica's
    # statistics were before they were averaged is averaged as well, so that the order
    # makes no difference up to rounding.
    means = [np.mean(values, axis=0) for values in zip(*seen[5:], strict=True)]
    for before, after in zip(seen[-1], trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    trainer.model.set_weights(means)
    want = trainer.evaluate(split(50))
    assert score.loss == pytest.approx(want.loss, rel=1e-5)


def test_running_mean_is_not_there_unless_asked_for():
    trainer, _ = normed_trainer(1)
    with pytest.raises(RuntimeError, match="needs `running_mean_period`"):
        trainer.evaluate_running_mean(split(5))
