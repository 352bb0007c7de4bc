"""Moments of a training at which a worker can be killed, and how they are reached.

Nothing in the product knows of them. Functions of the product, of Keras and of `os` are
replaced in the worker's process by ones that call the same and tell a `Trigger` before
and after:

    start            before TensorFlow is imported; the cluster has met; all is restored
    trace            Keras's `train_step`, of which the graph is made
    step             a callback ahead of Checkpoint: a batch begins, a batch has ended
    before exchange  an op in the graph, on which what is sent depends
    after exchange   an op in the graph, on which all that uses the answers depends
    copy             the generators of random numbers are read, amid the other parts
    write            the first bytes of a file are written; or all, and none is synced
    rename           `os.replace`, before and after, of a file of a checkpoint
    commit           the manifest, before and after; on others than the chief the same
                     as soon as they have told the chief what they have written
    end              a callback ahead of Checkpoint; `fit` has returned

What this cannot show: a moment inside of one C++ call, as within a collective. Kills at
moments that are drawn at random, from outside, are for that.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

# With how often a point may be passed before the fault: what a few steps bring.
POINTS = {
    "start": 3,
    "trace": 1,
    "step": 6,
    "before exchange": 2,
    "after exchange": 2,
    "copy": 2,
    "write": 5,
    "rename": 5,
    "commit": 2,
    "end": 1,
}


class Moment(NamedTuple):
    """When something happens.

    Attributes:
        point: A name in `POINTS`.
        after: Whether after it, where there is a before and an after.
        occurrence: 1 for the first time that this worker gets there.
    """

    point: str
    after: bool = False
    occurrence: int = 1


class Trigger:
    """Calls a function at one moment of this process.

    Args:
        moment: None: never.
        action: What is called, in whichever thread gets there.
    """

    def __init__(self, moment: Moment | None, action: Callable[[], None]):
        self._moment, self._action = moment, action
        self._passed = 0

    def reach(self, point: str, after: bool = False) -> None:
        """Says that a point is reached."""
        if self._moment is None or (point, after) != self._moment[:2]:
            return
        self._passed += 1
        if self._passed == self._moment.occurrence:
            self._action()

    def around(self, point: str, function: Callable) -> Callable:
        """The same function, with a point before and after it."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.reach(point)
            result = function(*arguments, **options)
            self.reach(point, after=True)
            return result

        return wrapped


def in_files(trigger: Trigger, directory: pathlib.Path, is_chief: bool) -> None:
    """Reaches copy, write, rename and commit of checkpoints in a directory."""
    from tem_tf import durable_files
    from tem_tf.checkpoint import array_files, parts
    from tem_tf.checkpoint.directory import Directory

    parts.Randoms.read = trigger.around("copy", parts.Randoms.read)

    opened, replace, fsync = durable_files.opened, os.replace, os.fsync

    @contextlib.contextmanager
    def opened_to_stop(path, mode="w", **options):
        with opened(path, mode, **options) as file:
            yield _HalfWritten(file, trigger)

    def replace_to_stop(source, target):
        inside = directory in pathlib.Path(target).parents
        call = trigger.around("rename", replace) if inside else replace
        call(source, target)

    def fsync_to_stop(descriptor):
        path = pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if directory in path.parents and path.is_file():
            trigger.reach("write", after=True)
        fsync(descriptor)

    array_files.durable_files.opened = opened_to_stop
    os.replace, os.fsync = replace_to_stop, fsync_to_stop
    if is_chief:
        write_text = durable_files.write_text

        def write_text_to_stop(path, text):
            is_commit = pathlib.Path(path).name == "manifest.json"
            call = trigger.around("commit", write_text) if is_commit else write_text
            call(path, text)

        durable_files.write_text = write_text_to_stop
    else:
        write = Directory.write

        def write_to_stop(*arguments):
            write(*arguments)
            trigger.reach("commit")
            trigger.reach("commit", after=True)

        Directory.write = write_to_stop


class _HalfWritten:
    """A file, of which the first bytes are on their way at the point `write`."""

    def __init__(self, file: Any, trigger: Trigger):
        self._file, self._trigger = file, trigger
        self._whole = True

    def write(self, content: Any) -> None:
        half = len(content) // 2
        if half and self._whole:  # Once in each file.
            self._whole = False
            self._file.write(content[:half])
            self._file.flush()
            self._trigger.reach("write")
            content = content[half:]
        self._file.write(content)


def in_exchanges(trigger: Trigger) -> None:
    """Reaches the exchanges of models that are made from now on.

    Ours and Keras's own, of which a training has one.
    """
    import keras

    from tem_tf.transport import Exchange

    rounds = Exchange.rounds
    optimizer = keras.optimizers.Optimizer
    all_reduce = optimizer._all_reduce_sum_gradients

    def rounds_to_stop(exchange, asked, ask, rider):
        asked = _told(trigger, "before exchange", asked)
        received = rounds(exchange, asked, ask, rider)
        return _told(trigger, "after exchange", received)

    def all_reduce_to_stop(self, grads_and_vars):
        gradients, variables = zip(*grads_and_vars, strict=True)
        gradients = _told(trigger, "before exchange", gradients)
        pairs = all_reduce(self, list(zip(gradients, variables, strict=True)))
        gradients, variables = zip(*pairs, strict=True)
        gradients = _told(trigger, "after exchange", gradients)
        return list(zip(gradients, variables, strict=True))

    Exchange.rounds = rounds_to_stop
    optimizer._all_reduce_sum_gradients = all_reduce_to_stop


def _told(trigger: Trigger, point: str, nest: Any) -> Any:
    """The tensors of a nest, once all of them are there and the trigger knows."""
    import tensorflow as tf

    # One of them is a place in memory that a kernel may take over: an identity, which
    # keeps the place, changes nothing.
    flat = tf.nest.flatten(nest)
    tensors = [leaf for leaf in flat if isinstance(leaf, tf.Tensor)]
    with tf.control_dependencies(tensors):
        told = tf.py_function(lambda: trigger.reach(point), [], [])
    with tf.control_dependencies([told] if told is not None else []):
        flat = [tf.identity(x) if isinstance(x, tf.Tensor) else x for x in flat]
    return tf.nest.pack_sequence_as(nest, flat)
