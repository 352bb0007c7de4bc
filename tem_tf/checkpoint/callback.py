"""Training by Keras's `fit` that goes on where a killed job's last checkpoint is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tem_tf import _fit_internals
from tem_tf.checkpoint.callback_states import CallbackStates
from tem_tf.checkpoint.epoch_data import EpochData
from tem_tf.checkpoint.loop import Deferred, SavedLoop
from tem_tf.checkpoint.stop_wish import SIGNALS
from tem_tf.replica_state import values_here


class Checkpoint(SavedLoop, keras.callbacks.Callback):
    """Saves training as a whole, on all workers, and goes on with it after a kill.

    What is saved: weights, the optimizer's variables, residuals, the compressor's
    state, accumulated gradients, the loss's scale, metrics, batch-norm statistics of
    each worker, generators of random numbers (layers', Keras's, Python's, numpy's), the
    position, the history, and what Keras's EarlyStopping, ReduceLROnPlateau and
    ModelCheckpoint remember of earlier epochs, which other callbacks do for themselves.
    A copy is taken between two steps and a thread writes it, whole or not at all; it
    counts once every worker's part is on the disk. A damaged checkpoint is noticed,
    moved aside, and the one before is taken.

    As a callback of `fit` it goes on from the newest checkpoint in its directory, at
    the end of an epoch, or at any step if the data comes through `data`:

    ```python
    checkpoint = tem_tf.Checkpoint("shared/checkpoints", every=100)

    def make_dataset(epoch):
        examples = tf.data.Dataset.from_tensor_slices((x, y))
        return examples.shuffle(len(x), seed=epoch).batch(64)

    model.fit(checkpoint.data(make_dataset), epochs=10, callbacks=[checkpoint])
    ```

    In a training loop of one's own:

    ```python
    start = checkpoint.begin(model, optimizer)  # On all workers; 0 at first.
    for step in range(start, steps):
        train(batch_of(step))
        checkpoint.after(step + 1)
    checkpoint.end(steps)
    ```

    A signal of `stop_signals` is a wish to stop: all workers stop after the same step,
    save it, and end with the exit code 75 (`tem_tf.Stopped`), by which a scheduler
    knows that the job is to be started again.

    Args:
        directory: String or path, seen by all workers.
        every: Int >= 1, default 100. Steps between two checkpoints. Lower => less is
            lost, and more is written.
        keep: Int >= 1, default 2. Checkpoints that stay. With one, there is none to
            take where it is damaged.
        stop_signals: Names of signals, default SIGTERM and SIGUSR1. Those that have a
            handler already are left to it.

    Raises:
        ValueError: an argument is out of range; where training begins, on all workers:
            they do not share the directory, or the checkpoint there is of another
            model, of other settings or of a newer tem_tf.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every: int = 100,
        keep: int = 2,
        stop_signals: Sequence[str] = SIGNALS,
    ):
        keras.callbacks.Callback.__init__(self)
        SavedLoop.__init__(self, directory, every, keep, stop_signals)
        self._data: EpochData | None = None
        self._epoch = self._batches = 0  # Of the current epoch so many are done.
        self._resumed_at = 0  # Batches of the epoch that Keras does not count.
        self._stops = False  # Where the epoch ends.
        self._ended_early = False  # By a callback.
        self._history: dict[str, Any] | None = None  # Restored, not yet put back.
        self._learning_rate: float | None = None  # Of an epoch that goes on.
        self._last = _Last(self._training_ends)
        self._callbacks: list[keras.callbacks.Callback] | None = None  # Of this `fit`.
        self._states = Deferred(CallbackStates(lambda: self._callbacks or ()))
        self._begun_with: tuple[Any, Any] | None = None  # A model and its optimizer.

    def data(
        self,
        make_dataset: Callable[[tf.Tensor], tf.data.Dataset],
        steps: int | None = None,
    ) -> tf.data.Dataset:
        """The data of `fit`, such that training can go on at any step.

        Args:
            make_dataset: Takes an epoch, int64 scalar, and returns its batches, global
                ones under a strategy. The same epoch must give the same batches, on all
                workers and in every process: shuffle with a seed, which may be made of
                the epoch.
            steps: Batches of an epoch, where the dataset does not know it.

        Returns:
            For `fit` without `steps_per_epoch`; each epoch is as long.

        Raises:
            ValueError: `make_dataset` makes no dataset; the number of batches is not
                known, or there are none.
        """
        self._data = EpochData(make_dataset, steps)
        return self._data.dataset

    def on_train_begin(self, logs=None):
        # What others do where an epoch begins belongs to it, and not to the one before;
        # what they do where training ends is saved, as the best weights put back.
        self._callbacks = _fit_internals.surround(self, self._last)
        of_last_fit = self._begun_with
        self._begun_with = self._trained, self._trained.optimizer
        if self._saver is None or self._begun_with != of_last_fit:
            self._epoch = self._batches = 0
            self._stops = self._ended_early = False
            _build(self._trained, self._data)
            self.begin(*self._begun_with, {"callbacks": self._states})
        self._wish.listen()
        self._check_steps()
        if self._ended_early or self._epoch >= self._asked_for["epochs"]:
            self._say("this training has ended: there is nothing to do")
            _fit_internals.set_initial_epoch(self._trained, self._asked_for["epochs"])
        elif self.step:
            self._say("training goes on")
            _fit_internals.set_initial_epoch(self._trained, self._epoch)

    def on_epoch_begin(self, epoch, logs=None):
        # Not at an epoch's end, where other callbacks have still to come.
        goes_on = self._data is not None and epoch == self._epoch and self._batches > 0
        _fit_internals.set_initial_epoch(self._trained, None)  # This fit has read it.
        if not goes_on:
            self._epoch, self._batches = epoch, 0
        self._put_history_back()
        self._states.apply()  # Where training begins the callbacks forget.
        if goes_on:
            assert self._metrics is not None
            self._metrics.apply()  # Keras has just reset them.
            self._learning_rate = _learning_rate(self._trained)
            # Keras says so of every epoch that is shorter than it thinks.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
        elif self._stops:
            self._save_and_stop()
        elif self._is_due():
            self._save()
        self._resumed_at = self._batches
        if self._data is not None:
            self._data.set(epoch, self._batches)

    def on_train_batch_begin(self, batch, logs=None):
        if self._learning_rate is not None:
            # A LearningRateScheduler has begun this epoch for the second time.
            if _learning_rate(self._trained) != self._learning_rate:
                self._trained.optimizer.learning_rate = self._learning_rate
            self._learning_rate = None
        # An epoch that was resumed ends here, as Keras knows it: a step that asks for
        # data where there is none moves seeds before it fails.
        if self._data is not None and self._resumed_at + batch >= self._data.steps:
            raise StopIteration

    def on_train_batch_end(self, batch, logs=None):
        # After the last batch Keras may make the next epoch's iterator at once.
        done = self._resumed_at + batch + 1
        if self._data is not None:
            done = min(done, self._data.steps)
        self._took(self.step + done - self._batches)
        self._batches = done
        is_last = self._data is not None and done == self._data.steps
        if self._agreed_to_stop():
            self._stops = True
        if is_last:
            assert self._data is not None
            self._data.set(self._epoch + 1)
        elif self._data is not None:
            if self._stops:
                self._save_and_stop()
            if self._is_due():
                self._save()
        elif self._stops:
            self._stop()  # As of the last epoch's end.

    def on_train_end(self, logs=None):
        if self._callbacks is None:  # `_last` is not among them.
            self._training_ends()

    def _training_ends(self) -> None:
        self._put_history_back()
        if self._epoch < self._asked_for["epochs"]:
            self._epoch, self._batches = self._epoch + 1, 0
            self._ended_early = self._epoch < self._asked_for["epochs"]
        _fit_internals.set_initial_epoch(self._trained, None)
        self._finish()

    @property
    def _trained(self) -> Any:
        return self.model

    @property
    def _asked_for(self) -> dict[str, Any]:
        return self.params or {}

    def _position(self) -> dict[str, Any]:
        history = getattr(self.model, "history", None)
        return {
            "step": self.step,
            "epoch": self._epoch,
            "batches": self._batches,
            "of": None if self._data is None else self._data.steps,
            "ended_early": self._ended_early,
            "history": {} if history is None else _numbers(history.history),
            "epochs": [] if history is None else list(history.epoch),
        }

    def _go_on_from(self, position: dict[str, Any]) -> None:
        self.step = position["step"]
        self._epoch, self._batches = position["epoch"], position["batches"]
        self._ended_early = position["ended_early"]
        self._history = position
        if self._batches and self._data is None:
            raise ValueError(
                "A checkpoint within an epoch needs the data it was made with: pass "
                "`checkpoint.data(make_dataset)` to `fit`. Received: "
                f"{self.directory} at step {self.step}"
            )
        if self._batches and position["of"] != self._data.steps:
            raise ValueError(
                "An epoch must go on with as many batches as it began with. "
                f"Received: {self.directory} at step {self.step}, of an epoch of "
                f"{position['of']} batches there and {self._data.steps} here. Pass the "
                "same data, or another directory."
            )

    def _put_history_back(self) -> None:
        # Keras's callback has emptied it when training began.
        history = getattr(self.model, "history", None)
        if self._history is not None and history is not None:
            history.history.update(self._history["history"])
            history.epoch[:] = self._history["epochs"]
        self._history = None

    def _check_steps(self) -> None:
        if self._data is None or self._asked_for["steps"] == self._data.steps:
            return
        raise ValueError(
            "`steps_per_epoch`, `class_weight` and `validation_split` cannot be given "
            f"with the data of a Checkpoint, whose epochs have {self._data.steps} "
            f"steps. Received: epochs of {self._asked_for['steps']} steps"
        )


class _Last(keras.callbacks.Callback):
    """Stands behind all other callbacks where training ends.

    Args:
        on_train_end: What to do.
    """

    def __init__(self, on_train_end: Callable[[], None]):
        super().__init__()
        self._on_train_end = on_train_end

    def on_train_end(self, logs=None):
        self._on_train_end()


def _build(model: keras.Model, data: EpochData | None) -> None:
    """Makes what Keras would make in the first step: a checkpoint sets its values."""
    if data is not None:
        _fit_internals.build_for_fit(model, next(iter(data.dataset)))
    # A model of one's own class may call itself built when its layers are not.
    is_built = model.built and model.weights
    if is_built and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if not is_built:
        raise ValueError(
            "A model must be built before a checkpoint can be restored. Give it a "
            "keras.Input, or pass the data through `checkpoint.data`."
        )


def _learning_rate(model: keras.Model) -> float:
    # A tensor, where it follows a schedule.
    return float(values_here(model.optimizer.learning_rate)[0].numpy())


def _numbers(history: dict[str, Any]) -> dict[str, Any]:
    """With Python's numbers, which JSON keeps exactly."""
    return {
        name: [
            float(value) if np.ndim(value) == 0 else np.asarray(value).tolist()
            for value in values
        ]
        for name, values in history.items()
    }
