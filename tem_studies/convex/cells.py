"""The lines of a figure: which methods meet which compressors with which setting."""

from __future__ import annotations

import dataclasses
from typing import Any

from tem_studies.convex.configuration import CONTROLS, ConvexConfiguration
from tem_studies.refusal import refusing
from tem_tf.compressors import COMPRESSORS, Compressor, Identity


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
        """For legends and file names."""
        settings = [f"{name}={value:g}" for name, value in self.arguments]
        return " ".join([self.method, self.compressor, *settings])

    def make(self) -> Compressor:
        """The plugin's object; a control has a schedule in its place.

        Raises:
            Refusal: the plugin refuses the setting.
        """
        if self.compressor in CONTROLS:
            return Identity()
        with refusing(ValueError):
            return COMPRESSORS[self.compressor](**dict(self.arguments))


def cells(configuration: ConvexConfiguration) -> list[Cell]:
    """All lines of a study, hard_threshold before what copies its volume."""
    swept, found = configuration.sweeps(), []
    for method in configuration.methods:
        for compressor in sorted(configuration.compressors, key=CONTROLS.__contains__):
            names = {"hard_threshold": "threshold", "none": None}
            name = None if compressor in CONTROLS else names.get(compressor, "density")
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
