"""The lines of a figure: which methods meet which compressors with which setting."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tem_studies.convex.configuration import CONTROLS, NEEDS, ConvexConfiguration
from tem_studies.refusal import refusing
from tem_studies.workloads import own_parts
from tem_studies.workloads.own_names import arguments_for, file_name, is_own
from tem_tf.compressors import COMPRESSORS, Compressor, Identity

_LONGEST = 120  # Characters of a file's name, our choice; a seed and more follow.


@dataclasses.dataclass(frozen=True)
class Cell:
    """One line of a figure: a method, a compressor and its setting.

    Attributes:
        method: Name of the method.
        compressor: Name of the compressor or control.
        arguments: Of the compressor.
        swept: Whether `arguments` is one of a sweep.
    """

    method: str
    compressor: str
    arguments: tuple[tuple[str, Any], ...] = ()
    swept: bool = False

    @property
    def label(self) -> str:
        """For legends."""
        return " ".join(filter(None, [self.method, self.compressor, self.setting]))

    @property
    def setting(self) -> str:
        """The arguments in words."""
        return " ".join(
            f"{name}={value:g}" if type(value) in (int, float) else f"{name}={value}"
            for name, value in self.arguments
        )

    @property
    def file_name(self) -> str:
        """The label as the name of a file, in which other letters may not be."""
        return re.sub(r"[^\w.=+-]", "_", file_name(self.label))[:_LONGEST]

    def make(self) -> Compressor:
        """The plugin's object; a control has a schedule in its place.

        Raises:
            Refusal: the plugin refuses the setting.
        """
        if self.compressor in CONTROLS:
            return Identity()
        if is_own(self.compressor):
            return own_parts.make_compressor(self.compressor, dict(self.arguments))
        with refusing(ValueError):
            return COMPRESSORS[self.compressor](**dict(self.arguments))


def cells(configuration: ConvexConfiguration) -> list[Cell]:
    """All lines of a study, hard_threshold before what copies its volume."""
    swept, found = configuration.sweeps(), []
    for method in configuration.methods:
        for compressor in sorted(configuration.compressors, key=CONTROLS.__contains__):
            if is_own(compressor):
                own = arguments_for(compressor, configuration.compressor_arguments)
                found.append(Cell(method, compressor, tuple(own.items())))
                continue
            name = NEEDS.get(compressor)
            if name is None:
                found.append(Cell(method, compressor))
            elif name in swept:
                found += [
                    Cell(method, compressor, ((name, value),), True)
                    for value in swept[name]
                ]
            elif compressor == "topk" and configuration.k is not None:
                found.append(Cell(method, compressor, (("k", configuration.k),)))
            else:
                value = getattr(configuration, name)
                found.append(Cell(method, compressor, ((name, value),)))
    return found
