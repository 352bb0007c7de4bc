"""The kinds of task: how the data of each is found and read, and what trains on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tem_studies.workloads import data_sources, ratings_files, text_files
from tem_studies.workloads.image_task import ImageTask
from tem_studies.workloads.ratings_task import RatingsTask
from tem_studies.workloads.task import Task
from tem_studies.workloads.text_task import TextTask


class Kind(NamedTuple):
    """One kind of task.

    Attributes:
        locate: From a data source and a directory (or None) to where the data is; runs
            no TensorFlow. Raises FileNotFoundError or ValueError.
        load: Reads and checks what `locate` found. It has `place` and `digest()`.
        make: From a configuration, the data and the number of replicas to the task.
    """

    locate: Callable[[str, str | None], data_sources.Source]
    load: Callable[[data_sources.Source], Any]
    make: Callable[..., Task]


KINDS = {
    "images": Kind(data_sources.locate, data_sources.load, ImageTask),
    "text": Kind(text_files.locate, text_files.load, TextTask),
    "ratings": Kind(ratings_files.locate, ratings_files.load, RatingsTask),
}
