"""When workers exchange, and what an AdamW sends: settings of a run.

Like configuration.py this file imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import dataclasses
import math

from tem_studies.refusal import Refusal
from tem_studies.workloads.checks import Checked

# Of `tem_tf.LocalUpdates`.
OUTER_LEARNING_RATE, OUTER_MOMENTUM = 0.9, 0.6
_OF_LOCAL_STEPS = ("outer_learning_rate", "outer_momentum")
# What a step of one's own cannot do, or would do twice.
_NOT_WITH = {
    "local_steps": (
        *("accumulate_steps", "loss_scale", "warmup_steps", "freeze_step"),
        "running_mean_epochs",
    ),
    "freeze_step": ("warmup_steps",),
}


@dataclasses.dataclass(frozen=True)
class ExchangeSettings(Checked):
    """`None` means "not given", so that results from before are those without."""

    local_steps: int | None = None
    outer_learning_rate: float | None = None
    outer_momentum: float | None = None
    freeze_step: int | None = None

    def _check_exchanges(self, steps: int, optimizer: str) -> None:
        for name in ("local_steps", "freeze_step"):
            if getattr(self, name) is None:
                continue
            self._integer(name, 1)
            if getattr(self, name) > steps:
                raise Refusal(
                    f"`{name}` must be at most `train_iterations`. Received: {name}="
                    f"{getattr(self, name)} with train_iterations={steps}."
                )
            for other in _NOT_WITH[name]:
                if getattr(self, other):
                    raise Refusal(
                        f"`{name}` cannot be used with `{other}`. Received: "
                        f"{name}={getattr(self, name)}, {other}="
                        f"{getattr(self, other)!r}. Leave one of them out."
                    )
        for name in _OF_LOCAL_STEPS:
            if getattr(self, name) is not None and self.local_steps is None:
                raise Refusal(
                    f"`{name}` is a setting of local steps. Received: "
                    f"{name}={getattr(self, name)!r} without local_steps. Pass "
                    f"--local_steps or leave --{name} out."
                )
        if self.outer_learning_rate is not None:
            self._number(
                "outer_learning_rate", "above 0 and finite", lambda x: 0 < x < math.inf
            )
        if self.outer_momentum is not None:
            self._number("outer_momentum", "in [0, 1)", lambda x: 0 <= x < 1)
        if self.local_steps is not None and self.nonfinite == "skip":
            raise Refusal(
                "`nonfinite` must be raise or zero with `local_steps`: workers take "
                "steps by themselves. Received: nonfinite='skip'."
            )
        if self.freeze_step is not None and optimizer != "adamw":
            raise Refusal(
                "`freeze_step` is a setting of adamw, whose variance it freezes. "
                f"Received: freeze_step={self.freeze_step} with optimizer="
                f"{optimizer!r}. Pass --optimizer adamw."
            )
