"""What a run leaves behind: LOGDIR/result.json, checkpoints and TensorBoard events.

Only the chief writes. Files appear whole or not at all, and outlive a power cut: see
`tem_tf.durable_files`. TensorBoard's events are appended: see `event_files`.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import keras
import numpy as np
import tensorflow as tf

from tem_studies.refusal import Refusal, writing
from tem_studies.workloads.bounded_files import read_npz
from tem_studies.workloads.event_files import (
    keep_until,
    scalar,
    sync_events,
    writing_events,
)
from tem_studies.workloads.logdir import (
    RESULT_NAME,
    RESUME_NAME,
    STEPS_NAME,
    WRITERS,
    hold,
    left_by_a_run,
    not_writable,
)
from tem_studies.workloads.study_files import finite_or_null
from tem_studies.written_files import durable_files, opened, write_bytes, write_text

STEPS = ("entries", "payload_bytes", "error")  # what steps.npz has of each step
PHASES = ("load", "build", "prune", "train", "validate", "test")


class RunDirectory:
    """The directory of one run; on other workers than the chief it does nothing.

    What an earlier run left in it under the same names is removed: its result, its
    checkpoints and its events would otherwise stand beside those of this run. Whether
    that is wanted was asked before (`logdir.require_unused`).

    Args:
        path: The run's directory (`--logdir`).
        writes: Whether this process is the chief.
        settings: What TensorBoard's HPARAMS shows beside the validation's scores.
    """

    def __init__(
        self, path: str, writes: bool, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.writes = writes
        self._settings = settings or {}
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._held: TextIO | None = None

    @property
    def resume_path(self) -> str:
        """Of what a run that was killed goes on from; all workers write there."""
        return str(self.path / RESUME_NAME)

    def open(self, keeps: bool = False) -> None:
        """Makes the directory and removes what an earlier run left in it.

        Args:
            keeps: Whether a killed run may go on: `go_on_from` says it.

        Raises:
            Refusal: it cannot be written to; another run writes to it now.
        """
        if not self.writes:
            return
        checkpoints = self.path / "checkpoints"
        try:
            durable_files.make_directory(checkpoints)
        except OSError as error:
            raise not_writable(self.path, "logdir", error.strerror) from error
        self._held = hold(self.path)  # Before anything is removed.
        if keeps:
            with writing(self.path):
                durable_files.make_directory(self.resume_path)
        else:
            self.go_on_from(0)

    def go_on_from(self, step: int) -> None:
        """Removes what was written of later steps, and begins to write.

        Args:
            step: 0: a new run.

        Raises:
            Refusal: it cannot be written to.
        """
        if not self.writes:
            return
        if not step:
            with writing(self.path):
                for file in left_by_a_run(self.path):
                    file.unlink(missing_ok=True)
        for name in WRITERS:
            keep_until(self.path / name, step)
            with writing_events(self.path / name):
                writer = tf.summary.create_file_writer(str(self.path / name))
            self._writers[name] = writer
        if not step and self._settings:
            self._log_settings()

    def forget_resume(self) -> None:
        """Removes what a finished run need not go on from."""
        if self.writes:
            shutil.rmtree(self.resume_path, ignore_errors=True)

    def log_check(
        self, step: int, train: Any, validation: Any, extra: Mapping[str, float]
    ) -> None:
        """Writes the scores of both splits, and `extra` beside training's."""
        self._scalars("train", step, train._asdict() | dict(extra))
        self._scalars("validation", step, validation._asdict())

    def log_communication(self, step: int, summary: Mapping[str, float]) -> None:
        """Writes a `communication_summary` under `communication/`."""
        scalars = {f"communication/{name}": x for name, x in summary.items()}
        self._scalars("communication", step, scalars)

    def save_weights(self, step: int, model: keras.Model) -> None:
        """Writes checkpoints/step-NNNNNN.weights.h5, for `model.load_weights`."""
        if not self.writes:
            return
        final = self.path / "checkpoints" / f"step-{step:06d}.weights.h5"
        memory = _MemoryFile(final.name)
        model.save_weights(memory)
        write_bytes(final, memory.getbuffer())

    def save_steps(self, records: np.ndarray) -> None:
        """Writes steps.npz: what every single step sent and held back.

        Args:
            records: float64 (steps, 3), as of `StepRecords.read`.
        """
        if not self.writes:
            return
        columns = dict(zip(STEPS, records.T, strict=True))
        with opened(self.path / STEPS_NAME, "wb") as file:
            np.savez_compressed(file, **columns)

    def save_result(self, result: Mapping[str, Any]) -> None:
        """Writes result.json; numbers that are not finite become null."""
        if not self.writes:
            return
        text = json.dumps(finite_or_null(result), indent=2, allow_nan=False)
        write_text(self.path / RESULT_NAME, text + "\n")

    def close(self) -> None:
        """Closes the TensorBoard files; another run may write there."""
        for name, writer in self._writers.items():
            with writing_events(self.path / name):
                writer.close()
            sync_events(self.path / name)
        if self._held is not None:
            self._held.close()

    def _log_settings(self) -> None:
        # Its import takes a second.
        from tensorboard.plugins.hparams import api

        writer = self._writers["validation"]
        with writing_events(self.path / "validation"), writer.as_default():
            api.hparams(dict(self._settings))

    def _scalars(self, writer: str, step: int, scalars: Mapping[str, float]) -> None:
        if writer in self._writers:
            with writing_events(self.path / writer):
                with self._writers[writer].as_default():
                    for name, value in scalars.items():
                        scalar(name, value, step)
                self._writers[writer].flush()


class _MemoryFile(io.BytesIO):
    """A file in memory, for libraries that ask a file for its name's ending.

    HDF5 ends the process with a segmentation fault when the disk is full, so it never
    writes to one.

    Args:
        name: As which it shows itself.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __str__(self) -> str:
        return self._name


def read_steps(folder: Path) -> dict[str, np.ndarray]:
    """Reads what `RunDirectory.save_steps` wrote in a run's directory.

    Raises:
        Refusal: it is damaged or missing.
    """
    path = folder / STEPS_NAME
    try:
        found = read_npz(path)
        steps = {name: found[name] for name in STEPS}
        if len({(len(x), x.ndim, x.dtype.kind) for x in steps.values()}) != 1:
            raise ValueError("its columns differ in length or type")
        return steps
    except (ValueError, LookupError, TypeError) as error:
        raise Refusal(
            f"{path} cannot be read ({error}): it is damaged or missing. Remove "
            f"{folder} to have the run made again; nothing was changed."
        ) from error


class Stopwatch:
    """Adds up the seconds spent in each phase of a run.

    Args:
        phases: Their names.
    """

    def __init__(self, phases: Iterable[str] = PHASES) -> None:
        self.seconds = dict.fromkeys(phases, 0.0)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Counts the time of a `with` block as that phase's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start


def pruning_record(
    model: keras.Model, masks: list[np.ndarray]
) -> dict[str, dict[str, int]]:
    """Entries kept and in total, per trainable variable by its path."""
    return {
        variable.path: {"kept": int(mask.sum()), "total": int(mask.size)}
        for variable, mask in zip(model.trainable_variables, masks, strict=True)
    }
