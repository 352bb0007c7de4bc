"""Callbacks of Keras's `fit` that hear of an epoch's end when weights are common again.

Under `LocalUpdates` a callback that saves weights, notes the best ones or predicts
would do so with each worker's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from tem_tf import _fit_internals
from tem_tf.batch_logs import is_local

_SAVING = keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore


def synchronise_first(model: keras.Model, callbacks: Iterable[Any]) -> tuple[bool, str]:
    """Has all workers make weights common before callbacks hear of an epoch's end.

    Args:
        model: That `fit` is called of.
        callbacks: The user's.

    Returns:
        Whether one of them will: all workers must then have such, as what they wait for
        is collective. And what is wrong with them, or "": all workers must hear of it.
    """
    hears = False
    if not is_local(model):
        return hears, ""
    for callback in callbacks:
        if isinstance(callback, _SAVING) and callback.save_freq != "epoch":
            return hears, (
                f"`save_freq` of {type(callback).__name__} must be 'epoch' under "
                "LocalUpdates: within an epoch each worker has weights of its own. "
                f"Received: save_freq={callback.save_freq!r}. A tem_tf.Checkpoint can "
                "save at any step."
            )
        hook = callback.on_epoch_end
        if _fit_internals.does_nothing(hook):
            continue
        hears = True
        if getattr(hook, "func", None) is not _on_epoch_end:  # Of a `fit` before.
            callback.on_epoch_end = functools.partial(_on_epoch_end, callback, hook)
    return hears, ""


def require_same_hearing(hears: Sequence[bool], complaints: Sequence[str]) -> None:
    """Raises if callbacks of some workers alone hear of an epoch's end, or are wrong.

    Args:
        hears: Of what `synchronise_first` returned, on each worker.
        complaints: The rest of it.

    Raises:
        ValueError: on all workers.
    """
    for complaint in filter(None, complaints):
        raise ValueError(complaint)
    if len(set(hears)) > 1:
        workers = [str(index) for index, one in enumerate(hears) if one]
        raise ValueError(
            "`callbacks` with `on_epoch_end` must be on all workers or on none under "
            "LocalUpdates, which makes weights common before. Received: some on "
            f"worker {', '.join(workers)} alone. Give them to all; what writes files "
            "can ask `tem_tf.is_chief()`."
        )


def _on_epoch_end(
    callback: keras.callbacks.Callback, hook: Callable, *arguments: Any, **named: Any
) -> Any:
    model: Any = callback.model
    if is_local(model):
        model.optimizer.synchronise()
    return hook(*arguments, **named)
