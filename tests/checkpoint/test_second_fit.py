"""More than one `fit`: what one leaves, and what has to be as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.checkpoint.callback_states import CallbackStates
from tests.checkpoint.training import (
    BATCH,
    STEPS,
    KillAt,
    Killed,
    examples,
    make_dataset,
)


def make_model():
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input([6]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def fit(model, checkpoint, *others, epochs=3, make=make_dataset, first=True):
    """Whether it came to its end, and its history."""
    callbacks = [checkpoint, *others] if first else [*others, checkpoint]
    data = checkpoint.data(make)
    try:
        history = model.fit(
            data, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0
        )
    except Killed:
        checkpoint.wait()
        return None
    return history.history


def weights(model):
    return [weight.tolist() for weight in model.get_weights()]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras's callback.
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kill_at", [3, STEPS + 1, STEPS + 3])
def test_a_learning_rate_is_lowered_once_an_epoch(kill_at, first, tmp_path):
    def ending(directory, *kill):
        model = make_model()
        halved = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
        checkpoint = tem_tf.Checkpoint(directory, every=1)
        history = fit(model, checkpoint, halved, *kill, epochs=2, first=first)
        return history and (history, weights(model))

    undisturbed = ending(tmp_path / "undisturbed")
    assert ending(tmp_path / "killed", KillAt(kill_at)) is None
    assert ending(tmp_path / "killed") == undisturbed


@pytest.mark.parametrize("first", [True, False])
def test_best_weights_that_were_put_back_are_saved(first, tmp_path):
    def ending():
        model = make_model()
        stop = keras.callbacks.EarlyStopping(
            "loss", patience=1, min_delta=100.0, restore_best_weights=True
        )
        history = fit(model, tem_tf.Checkpoint(tmp_path), stop, first=first)
        return history, weights(model)

    ended = ending()
    assert len(ended[0]["loss"]) == 2  # It ended early.
    assert ending() == ended


def patient(directory):
    """Callbacks that decide by what they remember of earlier epochs."""
    return (
        keras.callbacks.EarlyStopping(
            "loss", patience=4, min_delta=100.0, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau(
            "loss", patience=1, cooldown=1, min_delta=100.0, min_lr=1e-4
        ),
        keras.callbacks.ModelCheckpoint(
            f"{directory}/best.keras", "loss", save_best_only=True, mode="max"
        ),
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras's callback.
@pytest.mark.parametrize("kill_at", [STEPS + 1, STEPS * 3 + 2, STEPS * 4 + 1])
def test_callbacks_remember_the_epochs_before_a_kill(kill_at, tmp_path):
    def ending(directory, *kill):
        model = make_model()
        others = patient(directory)
        checkpoint = tem_tf.Checkpoint(f"{directory}/checkpoints", every=2)
        history = fit(model, checkpoint, *others, *kill, epochs=9)
        early, plateau, best = others
        remembered = [early.wait, early.best, early.best_epoch, early.stopped_epoch]
        remembered += [plateau.wait, plateau.best, plateau.cooldown_counter, best.best]
        return history and (history, weights(model), remembered)

    undisturbed = ending(tmp_path / "undisturbed")
    assert len(undisturbed[0]["loss"]) == 5  # It ended early.
    assert ending(tmp_path / "killed", KillAt(kill_at)) is None
    assert ending(tmp_path / "killed") == undisturbed
    best, ours = (
        keras.models.load_model(tmp_path / name / "best.keras")
        for name in ("undisturbed", "killed")
    )
    assert weights(ours) == weights(best)


def test_best_weights_come_back_in_their_order():
    before, after = keras.callbacks.EarlyStopping(), keras.callbacks.EarlyStopping()
    before.wait, before.best, before.best_epoch = 2, 0.5, 3
    before.best_weights = [np.full([2], i, np.float32) for i in range(12)]
    (state,) = CallbackStates(lambda: [before]).read()
    CallbackStates(lambda: [after]).write([dict(sorted(state.items()))])
    assert (after.wait, after.best, after.best_epoch) == (2, 0.5, 3)
    assert [weight[0] for weight in after.best_weights] == list(range(12))


def test_a_fit_after_one_that_went_on_trains_all_its_epochs(tmp_path):
    fit(make_model(), tem_tf.Checkpoint(tmp_path), KillAt(STEPS * 2 + 1))
    fit(make_model(), tem_tf.Checkpoint(tmp_path), epochs=2)
    for epochs in (2, 3):  # There is nothing to do; there is.
        model = make_model()
        fit(model, tem_tf.Checkpoint(tmp_path), epochs=epochs)
        history = model.fit(*examples(), batch_size=BATCH, epochs=2, verbose=0)
        assert history.epoch == [0, 1]


def test_another_model_goes_on_from_what_was_saved(tmp_path):
    checkpoint = tem_tf.Checkpoint(tmp_path)
    first, other = make_model(), make_model()
    fit(first, checkpoint, epochs=2)
    fit(other, checkpoint, epochs=2)
    assert weights(other) == weights(first)
    fit(other, checkpoint, epochs=3)
    last = make_model()
    fit(last, tem_tf.Checkpoint(tmp_path), epochs=3)
    assert weights(last) == weights(other) != weights(first)


def test_an_optimizer_compiled_anew_is_the_one_that_is_saved(tmp_path):
    checkpoint, model = tem_tf.Checkpoint(tmp_path), make_model()
    fit(model, checkpoint, epochs=1)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    fit(model, checkpoint, epochs=2)
    last = make_model()
    fit(last, tem_tf.Checkpoint(tmp_path), epochs=2)
    for ours, saved in zip(
        model.optimizer.variables, last.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(ours, saved)


def test_an_epoch_goes_on_with_as_many_batches(tmp_path):
    def make_halves(epoch):
        dataset = tf.data.Dataset.from_tensor_slices(examples())
        return dataset.shuffle(BATCH, seed=epoch).batch(BATCH // 2)

    fit(make_model(), tem_tf.Checkpoint(tmp_path, every=1), KillAt(3))
    message = f"of an epoch of {STEPS} batches there and {2 * STEPS} here"
    with pytest.raises(ValueError, match=message):
        fit(make_model(), tem_tf.Checkpoint(tmp_path), make=make_halves)


def test_layers_must_be_built(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def build(self, shape):
            self.built = True

    model = Own()
    model.compile("sgd", "mse")
    model.build([None, 6])
    with pytest.raises(ValueError, match="A model must be built before"):
        model.fit(*examples(), callbacks=[tem_tf.Checkpoint(tmp_path)], verbose=0)
