"""What workers tell one another when Keras's `fit` or `evaluate` begins.

Unequal numbers of batches end in TensorFlow's own words, at the step at which one
worker sums gradients and another its metrics. So all tell beforehand how many steps
they will take, and all raise alike. Shuffles without a common seed end nowhere: each
worker takes its share of an order of its own, and rows are missed; the chief warns.
"""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _collective_internals, _fit_internals, chief_writing
from tem_tf.synchronised_callbacks import require_same_hearing, synchronise_first
from tem_tf.worker_texts import WorkerTexts


class FitStart:
    """Compares what begins, and sends the writing callbacks of all but one elsewhere.

    Args:
        strategy: Whose worker this is.
        is_chief: Whether this worker is the one that writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy, is_chief: Callable[[], bool]):
        self._strategy = strategy
        self._is_chief = is_chief
        self._texts = WorkerTexts(strategy)
        self._begun: weakref.WeakSet = weakref.WeakSet()

    def note(self, dataset: Any = None) -> None:
        """Call it in the strategy's methods that Keras calls before the first step.

        Collective, if `fit` or `evaluate` begins; otherwise nothing.

        Args:
            dataset: What Keras wants to have distributed. None: it has been so before.

        Raises:
            ValueError: on all workers, the calls would not take the same steps.
        """
        call = _fit_internals.call_that_begins()
        if call is None or call.data in self._begun:
            return
        if not _collective_internals.is_multi_worker(self._strategy):
            return
        self._begun.add(call.data)
        callbacks = []
        if not isinstance(call.callbacks, keras.callbacks.CallbackList):
            callbacks = keras.tree.flatten(call.callbacks) if call.callbacks else []
        hears, complaint = False, ""
        if call.function == "fit":
            hears, complaint = synchronise_first(call.model, callbacks)
        if not self._is_chief():
            chief_writing.write_elsewhere(callbacks, call.function)
        if call.function == "predict":  # Which needs no other worker.
            return
        mine = {
            "call": call.function,
            "epochs": call.epochs,
            "steps": steps_of(call, dataset),
            "shuffles": shuffles_of(call, dataset),
            "backups": chief_writing.backup_dirs(callbacks),
            "is_chief": self._is_chief(),
            "hears": hears,
            "complaint": complaint,
        }
        workers = [json.loads(said) for said in self._texts.gather(json.dumps(mine))]
        require_same_steps(workers, _name_of(call))
        require_same_hearing(
            [worker["hears"] for worker in workers],
            [worker["complaint"] for worker in workers],
        )
        if self._is_chief() and (complaint := shuffle_complaint(workers)):
            warnings.warn(complaint, stacklevel=2)
        if any(worker["backups"] for worker in workers):
            self._share_backups(callbacks, workers)

    def _share_backups(self, callbacks: Sequence[Any], workers: list[dict]) -> None:
        """Has all workers restore what the chief has, before it goes on to write."""
        counts = [len(worker["backups"]) for worker in workers]
        if len(set(counts)) > 1:
            raise ValueError(
                "`callbacks` must hold BackupAndRestore on all workers: all restore "
                f"what the chief wrote. Received: {_each(counts)} of them"
            )
        said: dict[str, Any] = {}
        try:
            if not self._is_chief():
                chief = next(worker for worker in workers if worker["is_chief"])
                chief_writing.copy_backups(callbacks, chief["backups"])
            said["files"] = chief_writing.backup_contents(callbacks)
        except (OSError, tf.errors.OpError) as error:  # The others wait to hear of it.
            said["failed"] = str(error)
        seen = [json.loads(text) for text in self._texts.gather(json.dumps(said))]
        if any("failed" in one or one != seen[0] for one in seen):
            found = [one.get("failed") or one["files"] for one in seen]
            raise ValueError(
                "`backup_dir` of BackupAndRestore must be a directory that all workers "
                f"share: they restore what the chief wrote. Received: {_each(found)}. "
                "Give it on a file system that all machines see."
            )


def steps_of(call: _fit_internals.Call, dataset: Any) -> list[Any]:
    """By what a worker decides when an epoch ends, in words that name the numbers.

    Where the number of batches is unknown all workers agree on the end, at each step,
    in a collective of TensorFlow's; where they have no end there is none.

    Returns:
        The steps of an epoch, None until the data ends; after how many batches it ends
        within a later epoch, None if it does not; whether it has an end.
    """
    steps, batches = _fit_internals.steps_and_batches(call.data)
    has_end = _fit_internals.has_end(call.data, dataset)
    if not steps:
        return [batches, None, has_end]
    ends = batches and batches % steps and batches < steps * call.epochs
    return [steps, batches if ends else None, has_end]


def require_same_steps(workers: Sequence[dict], name: str) -> None:
    """Raises if workers would not end their epochs together.

    Args:
        workers: What each of them said.
        name: What this worker's call was given, such as "`x` of `fit`".

    Raises:
        ValueError: naming what each has.
    """
    calls = [worker["call"] for worker in workers]
    if len(set(calls)) > 1:
        raise ValueError(
            "The method of a model that is called must be the same on all workers. "
            f"Received: {_each(calls)}. `evaluate`, too, needs all of them."
        )
    epochs = [worker["epochs"] for worker in workers]
    if len(set(epochs)) > 1:
        raise ValueError(
            "`epochs` must be the same on all workers, which would wait for one "
            f"another. Received: {_each(epochs)}"
        )
    steps = [worker["steps"] for worker in workers]
    if any(one != steps[0] for one in steps):
        raise ValueError(
            f"{name} must have as many batches on all workers, which would wait for "
            f"one another. Received: {_each([_said(*one) for one in steps])}. Give all "
            "workers the same data, which the strategy shares out; or `.repeat()` it "
            "and set the same number of steps."
        )


def shuffles_of(call: _fit_internals.Call, dataset: Any) -> list[Any]:
    """The seeds of the shuffles before the strategy shares data out."""
    if not isinstance(dataset, tf.data.Dataset):
        return []
    seeds = _fit_internals.array_shuffle_seeds(call.data)
    return seeds or _fit_internals.dataset_shuffle_seeds(dataset)


def shuffle_complaint(workers: Sequence[dict]) -> str | None:
    """What to say of shuffles that are not the same on all workers, if they are so.

    It is no error: such training converges, on a random sample with repeats, and plain
    `fit(x, y)` with arrays shuffles so by default.

    Args:
        workers: What each of them said.
    """
    seeds = [worker["shuffles"] for worker in workers]
    random = any(not any(pair) for one in seeds for pair in one)
    if not random and all(one == seeds[0] for one in seeds):
        return None
    shown = [[tuple(pair) if any(pair) else None for pair in one] for one in seeds]
    return (
        "`shuffle` must have the same seed on all workers: each shuffles all data, and "
        "takes its share of an order of its own, so that of two workers an epoch "
        "misses a quarter of the rows and sees others twice. Received seeds: "
        f"{_each(shown)}. Call keras.utils.set_random_seed(seed), the same on all "
        "workers, before the data is made, or Dataset.shuffle(..., seed=seed)."
    )


def _name_of(call: _fit_internals.Call) -> str:
    return f"`{'validation_data' if call.is_validation else 'x'}` of `{call.function}`"


def _said(steps: int | None, ends: int | None, has_end: bool) -> str:
    """A worker's steps in words."""
    batches = f"{steps} batches"
    if steps is None:
        batches = "batches until they end"
    if not has_end:
        return f"{batches} of data without an end"
    return batches + (f" of data that ends after {ends}" if ends else "")


def _each(values: Sequence[Any]) -> str:
    return ", ".join(f"worker {index}: {value}" for index, value in enumerate(values))
