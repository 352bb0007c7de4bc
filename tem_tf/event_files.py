"""TensorBoard's event files of a training that goes on where it was before."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import tensorflow as tf

from tem_tf import durable_files

EVENTS = "events.out.tfevents.*"


def keep_until(folder: str | os.PathLike, step: int) -> None:
    """Removes events of later steps, which will be written again.

    Args:
        folder: Of event files that nobody writes; it may be missing.
        step: The last whose events stay.

    Raises:
        OSError, tf.errors.OpError: a file cannot be written.
    """
    for path in pathlib.Path(folder).glob(EVENTS):
        records = list(_records(path))
        kept = [r for r in records if tf.compat.v1.Event.FromString(r).step <= step]
        if kept == records:
            continue
        with (
            durable_files.replacing(path) as partial,
            tf.io.TFRecordWriter(str(partial)) as writer,
        ):
            for record in kept:
                writer.write(record)


def _records(path: pathlib.Path) -> Iterator[bytes]:
    """Records of a file, whose last one a kill may have cut."""
    with contextlib.suppress(tf.errors.DataLossError):
        for record in tf.data.TFRecordDataset(str(path)):
            yield record.numpy()
