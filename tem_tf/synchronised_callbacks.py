"""Callbacks of Keras's `fit` that hear of an epoch's end when weights are common again.

Under `LocalUpdates` a callback that saves weights, notes the best ones or predicts
would do so with each worker's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras

from tem_tf import _fit_internals
from tem_tf.batch_logs import is_local

_SAVING = keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore


def synchronise_first(model: keras.Model, callbacks: Iterable[Any]) -> None:
    """Has all workers make weights common before callbacks hear of an epoch's end.

    Args:
        model: That `fit` is called of.
        callbacks: The user's.

    Raises:
        ValueError: one of them saves between steps of an epoch.
    """
    if not is_local(model):
        return
    for callback in callbacks:
        if isinstance(callback, _SAVING) and callback.save_freq != "epoch":
            raise ValueError(
                f"`save_freq` of {type(callback).__name__} must be 'epoch' under "
                "LocalUpdates: within an epoch each worker has weights of its own. "
                f"Received: save_freq={callback.save_freq!r}. A tem_tf.Checkpoint can "
                "save at any step."
            )
        hook = callback.on_epoch_end
        # Keras spares itself threads where a method does nothing.
        if not _fit_internals.does_nothing(hook) and not hasattr(hook, "func"):
            callback.on_epoch_end = functools.partial(_on_epoch_end, callback, hook)


def _on_epoch_end(
    callback: keras.callbacks.Callback, hook: Callable, *arguments: Any, **named: Any
) -> Any:
    model: Any = callback.model
    if is_local(model):
        model.optimizer.synchronise()
    return hook(*arguments, **named)
