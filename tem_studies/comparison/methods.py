"""What can be compared: compressors, and how each comes to spend a given volume.

What an entry costs on the wire depends on where the others are, so every method has a
strength (λ, a density) that pilot runs find, until the real bytes of a whole run meet
the budget. A threshold must be found at each learning rate; a density once, at the
common rate. The control of the hard threshold replays the k_t of its pilot.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# ACCORDION has this many times its low density where it sends much, and decides this
# many times in a run: 0.1 % and 1 %, every 10 of 300 epochs (Sahu et al., NeurIPS
# 2021).
_ACCORDION_FACTOR = 10
_ACCORDION_DECISIONS = 30


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
    """

    label: str
    compressor: str
    searched: str = ""
    slope: float = 1.0
    at_every_rate: bool = False
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    replays: str = ""
    takes: tuple[str, ...] = ()

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
        return density / 2 if self.compressor == "accordion" else density

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
            own[self.searched] = strength
        if self.compressor == "accordion":
            own["high_density"] = min(1.0, _ACCORDION_FACTOR * strength)
            own["accordion_interval"] = max(1, steps // _ACCORDION_DECISIONS)
        return own


WARM_UP = "topk_warmup"
_ENTIRE = {"topk_scope": "model"}
# Settings of a comparison that some of its methods have, and others not.
_LOCAL = ("local_steps", "outer_learning_rate", "outer_momentum")
_FROZEN = ("freeze_step",)
OF_SOME = _LOCAL + _FROZEN

METHODS: dict[str, Method] = {
    "none": Method("dense", "none"),
    "topk": Method("Top-k, layer by layer", "topk", "density"),
    "topk_model": Method("Top-k, entire model", "topk", "density", fixed=_ENTIRE),
    "topk_replay": Method(
        "Top-k, k_t of the threshold", "topk_schedule", replays="hard_threshold"
    ),
    # Half of the volume is that of the dense steps.
    WARM_UP: Method("Top-k after a dense start", "topk", "density", 0.5, fixed=_ENTIRE),
    "random_k": Method("random k", "random_k", "density"),
    "accordion": Method("ACCORDION", "accordion", "low_density", at_every_rate=True),
    # With error feedback an entry g is sent every λ/|g| steps, one of noise every
    # (λ/σ)²: between -1 and -2.
    "hard_threshold": Method(
        "hard threshold", "hard_threshold", "threshold", -1.5, at_every_rate=True
    ),
    "adaptive_threshold": Method("adaptive threshold", "adaptive_threshold", "density"),
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
