"""What can be compared: compressors, and how each comes to spend a given volume.

What an entry costs on the wire depends on where the others are, so every method has a
strength (λ, a density) that pilot runs find, until the real bytes of a whole run meet
the budget. A threshold must be found at each learning rate; a density once, at the
common rate. The control of the hard threshold replays the k_t of its pilot.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from tem_studies.workloads.compression_rows import COMPRESSOR_ROWS, CompressorRow
from tem_studies.workloads.own_names import is_own


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of `METHODS`.

    Attributes:
        label: For legends.
        compressor: Name of the compressor (`--compressor`).
        searched: Name of the setting that pilots find; "": there is none.
        slope: About d log(volume) / d log(searched); its sign is certain.
        at_every_rate: Whether it must be found at each learning rate.
        fixed: Other settings.
        replays: The method whose k_t it sends.
        takes: Settings of `OF_SOME` that are its own, too. It needs the first of them.
        first: Where the search begins, as a share of the budget's density.
        beside: From what is searched and a run's steps to other settings.
    """

    label: str
    compressor: str
    searched: str = ""
    slope: float = 1.0
    at_every_rate: bool = False
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    replays: str = ""
    takes: tuple[str, ...] = ()
    first: float = 1.0
    beside: Callable[[float, int], dict[str, Any]] = lambda strength, steps: {}

    @property
    def has_budget(self) -> bool:
        """Whether its volume can be chosen."""
        return bool(self.searched or self.replays)

    def start(self, density: float, size: int) -> float:
        """Where the search begins.

        Args:
            density: The budget.
            size: Number of entries of the gradient.
        """
        if self.searched == "threshold":
            return 1 / (2 * math.sqrt(density * size))  # λ as in the study's code
        return density * self.first

    def rounded(self, strength: float, size: int) -> float:
        """Six digits, and in the middle of the densities that give the same k."""
        if self.searched == "density":
            strength = (math.floor(strength * size) + 0.5) / size
        if self.searched != "threshold":
            strength = min(strength, 1.0)
        return float(f"{strength:.6g}")

    def settings(self, strength: float, steps: int) -> dict[str, Any]:
        """Settings of a run of so many steps."""
        own: dict[str, Any] = {"compressor": self.compressor, **self.fixed}
        if self.searched:
            own |= {self.searched: strength, **self.beside(strength, steps)}
        return own


DENSE, WARM_UP = "none", "topk_warmup"
_ENTIRE = {"topk_scope": "model"}
# Settings of a comparison that some of its methods have, and others not.
_LOCAL = ("local_steps", "outer_learning_rate", "outer_momentum")
_FROZEN = ("freeze_step",)
OF_SOME = _LOCAL + _FROZEN
# The same of compressors that users bring by name.
OF_OWN = "compressor_arguments"
OF_METHODS = (*OF_SOME, OF_OWN)


def _plain(name: str, row: CompressorRow) -> Method:
    """A compressor with its knob and nothing else."""
    if row.knob is None:
        return Method(row.label, name)
    knob = row.knob
    return Method(
        row.label,
        name,
        knob.setting,
        knob.slope,
        knob.at_every_rate,
        first=knob.first,
        beside=knob.beside,
    )


METHODS: dict[str, Method] = {
    **{
        name: _plain(name, row)
        for name, row in COMPRESSOR_ROWS.items()
        if row.knob is not None or name == DENSE
    },
    "topk_model": Method("Top-k, entire model", "topk", "density", fixed=_ENTIRE),
    "topk_replay": Method(
        "Top-k, k_t of the threshold", "topk_schedule", replays="hard_threshold"
    ),
    # Half of the volume is that of the dense steps.
    WARM_UP: Method("Top-k after a dense start", "topk", "density", 0.5, fixed=_ENTIRE),
    # Everything at every step, in few bits.
    **{
        f"all_{bits}": Method(f"all in {bits}", "all", fixed={"value_dtype": bits})
        for bits in ("int8", "int4", "int2", "sign")
    },
    "local": Method("local steps", "none", takes=_LOCAL),
    "local_int2": Method(
        "local steps, all in int2", "all", fixed={"value_dtype": "int2"}, takes=_LOCAL
    ),
    "local_sign": Method(
        "local steps, all as signs", "all", fixed={"value_dtype": "sign"}, takes=_LOCAL
    ),
    "local_topk": Method(
        "local steps, Top-k in int2",
        "topk",
        "density",
        fixed=_ENTIRE | {"value_dtype": "int2"},
        takes=_LOCAL,
    ),
    "frozen_sign": Method(
        "variance frozen, all as signs",
        "all",
        fixed={"value_dtype": "sign"},
        takes=_FROZEN,
    ),
    "frozen_topk": Method(
        "variance frozen, Top-k in int2",
        "topk",
        "density",
        fixed=_ENTIRE | {"value_dtype": "int2"},
        takes=_FROZEN,
    ),
}


def method_of(name: str) -> Method:
    """A method by its name: a row of `METHODS`, or a user's own compressor.

    Of that nothing is known but its arguments, so it has no budget.

    Args:
        name: Its key, or `module:Class`.
    """
    return Method(name, name) if is_own(name) else METHODS[name]


def has_own_volume(name: str) -> bool:
    """Whether it sends less than everything, and how much cannot be chosen."""
    return name != DENSE and not method_of(name).has_budget
