"""TensorBoard's event files of a study: refused in one line, on the disk once closed.

TensorFlow appends to them, so they grow under their own names: a power cut may take the
last events of a file that is still open, and TensorBoard reads what is before. When one
is closed it is synced as every other file is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from tem_studies.refusal import Refusal, writing
from tem_studies.workloads.tag_words import words_of
from tem_studies.written_files import durable_files
from tem_tf import event_files

# What TensorFlow makes of an operating system's errors: of a full disk or quota, of
# rights, of a directory that is gone or none, of a failing disk.
_OF_FILES = (
    tf.errors.ResourceExhaustedError,
    tf.errors.PermissionDeniedError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
)


@contextmanager
def events(folder: Path) -> Iterator[None]:
    """A block whose summaries go to one new event file.

    Args:
        folder: Where it is made; so are missing parents.

    Raises:
        Refusal: it cannot be written.
    """
    with writing_events(folder):
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default():
            yield
        writer.close()
    sync_events(folder)


def scalar(tag: str, value: float, step: int) -> None:
    """Writes one point of a curve, with words about it."""
    tf.summary.scalar(tag, value, step=step, description=words_of(tag))


@contextmanager
def writing_events(folder: Path) -> Iterator[None]:
    """A block in which TensorFlow writes event files.

    Raises:
        Refusal: the operating system does not let it, as of a full disk.
    """
    try:
        yield
    except _OF_FILES as error:
        reason = str(error).splitlines()[0].rpartition("; ")[2]
        raise Refusal(f"{folder} cannot be written: {reason}.") from error


def sync_events(folder: Path) -> None:
    """Has closed event files on the disk.

    Raises:
        Refusal: the operating system does not let us.
    """
    with writing(folder):
        durable_files.sync_files(folder, event_files.EVENTS)


def keep_until(folder: Path, step: int) -> None:
    """Removes events of later steps, which a run that goes on will write again.

    Args:
        folder: Of event files that nobody writes; it may be missing.
        step: The last whose events stay.

    Raises:
        Refusal: the operating system does not let us.
    """
    with writing(folder), writing_events(folder):
        event_files.keep_until(folder, step)
