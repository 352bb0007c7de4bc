"""A wish to stop in `fit`: where it is granted, and what is left to whom."""

import signal

import keras
import pytest

import tem_tf
from tem_tf.checkpoint.stop_wish import StopWish
from tests.checkpoint.training import (
    EXAMPLES,
    STEPS,
    ending,
    examples,
    fit,
    held_out,
    make_dataset,
    make_model,
)
from tests.training import make_strategy


def adam():
    return tem_tf.SparsifiedOptimizer(keras.optimizers.Adam(0.01), tem_tf.TopK(0.1))


class AskAt(keras.callbacks.Callback):
    """Asks to stop, as a scheduler would, while such a batch is trained.

    At its end the checkpoint, which Keras calls first, would have asked already.
    """

    def __init__(self, batches):
        super().__init__()
        self._left = batches

    def on_train_batch_begin(self, batch, logs=None):
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGUSR1)


def asked(directory, batches, **data):
    """Trains until it stops; the step that was saved."""
    model = make_model(make_strategy(1), adam)
    checkpoint = tem_tf.Checkpoint(directory, every=1000)
    data = data or {"x": checkpoint.data(make_dataset)}
    with pytest.raises(tem_tf.Stopped) as stopped:
        model.fit(
            **data,
            epochs=3,
            validation_data=held_out(),
            callbacks=[AskAt(batches), checkpoint],
            shuffle=False,
            verbose=0,
        )
    assert stopped.value.code == 75
    return stopped.value.step


@pytest.mark.parametrize("batches", [1, 5, STEPS, STEPS + 1])
def test_training_stops_after_the_step_and_goes_on(batches, tmp_path):
    whole = fit(make_strategy(1), adam, tmp_path / "whole")
    assert asked(tmp_path / "asked", batches) == batches
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert fit(make_strategy(1), adam, tmp_path / "asked", every=1000) == whole


def test_without_its_data_the_last_epochs_end_is_what_is_saved(tmp_path):
    x, y = examples()
    steps = EXAMPLES // 32
    step = asked(tmp_path, steps + 1, x=x, y=y, batch_size=32)
    assert step == 0  # Every 1000 steps, and no such step has come.
    assert not list(tmp_path.glob("step-*"))


def test_a_wish_in_the_last_step_is_no_reason_to_stop(tmp_path):
    model = make_model(make_strategy(1), adam)
    checkpoint = tem_tf.Checkpoint(tmp_path)
    model.fit(
        checkpoint.data(make_dataset),
        epochs=1,
        callbacks=[AskAt(STEPS), checkpoint],
        shuffle=False,
        verbose=0,
    )
    assert checkpoint.step == STEPS and ending(model)["kept"]


def test_handlers_of_others_stay():
    def mine(number, frame):
        seen.append(number)

    seen = []
    before = signal.signal(signal.SIGUSR1, mine)
    try:
        wish = StopWish(["SIGUSR1"])
        wish.listen()
        signal.raise_signal(signal.SIGUSR1)
        assert seen == [signal.SIGUSR1] and not wish.given
        wish.ignore()
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_an_error_has_left_is_taken_over():
    first, second = StopWish(["SIGUSR1"]), StopWish(["SIGUSR1"])
    first.listen()
    second.listen()
    signal.raise_signal(signal.SIGUSR1)
    assert (first.given, second.given) == (False, True)
    second.ignore()
    assert not second.given  # A wish that was granted does not stop the next training.
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_stopped_says_what_was_saved():
    assert str(tem_tf.Stopped(7)) == (
        "training was asked to stop, and has saved step 7"
    )
