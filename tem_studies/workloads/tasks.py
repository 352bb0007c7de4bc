"""The kinds of task: how the data of each is read, and what trains on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tem_studies.workloads import (
    character_files,
    data_sources,
    ratings_files,
    text_files,
)
from tem_studies.workloads.character_task import CharacterTask
from tem_studies.workloads.data_places import Source
from tem_studies.workloads.image_task import ImageTask
from tem_studies.workloads.ratings_task import RatingsTask
from tem_studies.workloads.task import Task
from tem_studies.workloads.text_task import TextTask


class Kind(NamedTuple):
    """One kind of task.

    Attributes:
        load: Reads and checks what `data_places.locate` found; what it returns has
            `place` and `digest()`.
        make: From a configuration, the data and the number of replicas to the task.
    """

    load: Callable[[Source], Any]
    make: Callable[..., Task]


KINDS = {
    "images": Kind(data_sources.load, ImageTask),
    "text": Kind(text_files.load, TextTask),
    "characters": Kind(character_files.load, CharacterTask),
    "ratings": Kind(ratings_files.load, RatingsTask),
}
