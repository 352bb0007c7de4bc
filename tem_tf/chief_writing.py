"""Keras's writing callbacks on a worker that is not the chief: they write elsewhere.

Each worker runs all callbacks, since what they do may need all workers, and all write
to the path that the user gave: files are torn, curves zigzag. Here the path is
exchanged for one in a scratch directory while a hook of the callback runs, on the
callback itself and for one call of `fit`, `evaluate` or `predict`; outside its hooks
it shows the user's path. The scratch directory is removed when the call ends, or with
the process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import shutil
import tempfile
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _fit_internals

# The attribute that holds where a callback writes. Others of the same name, in a
# user's own callback, may be of files that are read: those stay.
_PATHS = {
    keras.callbacks.ModelCheckpoint: "filepath",
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.TensorBoard: "log_dir",
    keras.callbacks.BackupAndRestore: "backup_dir",
}
_LAST_HOOK = {
    "fit": "on_train_end",
    "evaluate": "on_test_end",
    "predict": "on_predict_end",
}


def write_elsewhere(callbacks: Iterable[Any], function: str) -> None:
    """Has those of Keras's four writing callbacks write elsewhere for one call.

    Args:
        callbacks: Of any kinds; subclasses of the four count.
        function: "fit", "evaluate" or "predict", before whose end all is undone. A call
            that raises leaves it to the next.
    """
    for callback in callbacks:
        for kind, attribute in _PATHS.items():
            if isinstance(callback, kind):
                if before := _Elsewhere.of(callback):
                    before.end()
                _Elsewhere(callback, attribute, _LAST_HOOK[function])


def backup_dirs(callbacks: Iterable[Any]) -> list[str]:
    """Where each `BackupAndRestore` has its files, as full paths."""
    return [
        _full(os.fspath(callback.backup_dir))
        for callback in callbacks
        if isinstance(callback, keras.callbacks.BackupAndRestore)
    ]


def copy_backups(callbacks: Iterable[Any], directories: Iterable[str]) -> None:
    """Copies the chief's backups to where this worker will look for them.

    Args:
        callbacks: That write elsewhere.
        directories: The chief's, one for each `BackupAndRestore` among them. One that
            is not there, as another machine may have other paths, is taken from this
            worker's own.
    """
    own = [c for c in callbacks if isinstance(c, keras.callbacks.BackupAndRestore)]
    for callback, directory in zip(own, directories, strict=True):
        found = directory if tf.io.gfile.isdir(directory) else callback.backup_dir
        with _Elsewhere.of(callback).paths():
            for name in _files(found):
                target = os.path.join(callback.backup_dir, name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                tf.io.gfile.copy(os.path.join(found, name), target, overwrite=True)


def backup_contents(callbacks: Iterable[Any]) -> list[list[str]]:
    """The files that each `BackupAndRestore` will find, each with its checksum."""
    contents = []
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            elsewhere = _Elsewhere.of(callback)
            with elsewhere.paths() if elsewhere else contextlib.nullcontext():
                directory = os.fspath(callback.backup_dir)
            contents.append(
                [
                    f"{name} ({_checksum(os.path.join(directory, name)):08x})"
                    for name in _files(directory)
                ]
            )
    return contents


class _Elsewhere:
    """Puts wrappers around a callback's hooks, in which its paths are others.

    Args:
        callback: One of the four kinds.
        attribute: That which holds its path.
        last_hook: The one after which all is as before.
    """

    def __init__(
        self, callback: keras.callbacks.Callback, attribute: str, last_hook: str
    ):
        self._callback = callback
        self._attribute = attribute
        self._last_hook = last_hook
        self._scratch = tempfile.mkdtemp(prefix="tem_tf_not_chief_")
        self._remove = weakref.finalize(self, shutil.rmtree, self._scratch, True)
        # Keras may run a callback's hooks in two threads.
        self._lock = threading.Lock()
        self._depth = 0
        self._given: dict[str, tuple[Any, str]] = {}
        hooks = dict(_fit_internals.hooks_of(callback))
        hooks.setdefault(last_hook, getattr(callback, last_hook))
        self._own = {name: vars(callback).get(name) for name in hooks}
        for name, hook in hooks.items():
            setattr(callback, name, self._wrapped(name, hook))

    @classmethod
    def of(cls, callback: keras.callbacks.Callback) -> Any:
        """The one around a callback's hooks, or None."""
        hooks = (vars(callback).get(last_hook) for last_hook in _LAST_HOOK.values())
        found = [hook.elsewhere for hook in hooks if hasattr(hook, "elsewhere")]
        return found[0] if found else None

    def end(self) -> None:
        """Takes the wrappers off, and removes what was written."""
        for name, own in self._own.items():
            delattr(self._callback, name)
            if own is not None:
                setattr(self._callback, name, own)
        self._remove()

    def _wrapped(self, name: str, hook: Callable) -> Callable:
        @functools.wraps(hook)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.paths():
                result = hook(*args, **kwargs)
            if name == self._last_hook:
                self.end()
            return result

        wrapped.elsewhere = self  # type: ignore[attr-defined]
        return wrapped

    @contextlib.contextmanager
    def paths(self) -> Iterator[None]:
        """Exchanges the callback's paths as long as it lasts."""
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._exchange()
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._give_back()

    def _exchange(self) -> None:
        base = os.fspath(getattr(self._callback, self._attribute))
        self._given = {}
        self._before = self._states()
        for name, value in list(vars(self._callback).items()):
            # Private ones are made of it, such as BackupAndRestore's files.
            if name != self._attribute and not name.startswith("_"):
                continue
            if isinstance(value, str | os.PathLike) and _is_below(value, base):
                self._given[name] = value, self._place(os.fspath(value))
        for name, (_, place) in self._given.items():
            setattr(self._callback, name, place)
        os.makedirs(os.path.dirname(self._place(base)), exist_ok=True)

    def _give_back(self) -> None:
        for name, (value, place) in self._given.items():
            if getattr(self._callback, name, None) == place:  # Else a hook set it anew.
                setattr(self._callback, name, value)
        if isinstance(self._callback, keras.callbacks.ModelCheckpoint):
            self._keep_the_latest()

    def _place(self, path: str) -> str:
        full = _full(path)
        if full.startswith(self._scratch):
            return full
        return os.path.join(self._scratch, full.replace("://", "/").lstrip("/"))

    def _keep_the_latest(self) -> None:
        """Removes what a hook has not written, if it has written something.

        Nobody will read a hundred epochs' checkpoints; a subclass may read the last.
        """
        states = self._states()
        written = {p for p, state in states.items() if self._before.get(p) != state}
        if written:
            for path in set(states) - written:
                path.unlink(missing_ok=True)

    def _states(self) -> dict[pathlib.Path, tuple[int, int]]:
        files = (p for p in pathlib.Path(self._scratch).rglob("*") if p.is_file())
        return {p: ((s := p.stat()).st_mtime_ns, s.st_size) for p in files}


def _full(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _is_below(path: Any, base: str) -> bool:
    """Whether it is the base itself, or in it."""
    path = os.fspath(path)
    return path == base or path.startswith(base.rstrip("/") + "/")


def _files(directory: Any) -> list[str]:
    """The files below a directory, by their paths in it; none if it is not there."""
    directory = os.fspath(directory)
    return sorted(
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in tf.io.gfile.walk(directory)
        for name in names
    )


def _checksum(path: str) -> int:
    total = 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(1 << 20):
            total = zlib.crc32(chunk, total)
    return total
