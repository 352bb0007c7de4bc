"""What a step of training may be: its numbers' types, and whether it updates at all.

Like configuration.py this file imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import dataclasses
import math

from tem_studies.refusal import Refusal
from tem_studies.workloads.checks import Checked

DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
NONFINITE = ("raise", "zero", "skip")
DYNAMIC = "dynamic"


@dataclasses.dataclass(frozen=True)
class StepSettings(Checked):
    """`None` means "not given", so that results from before are those without."""

    dtype_policy: str | None = None
    loss_scale: str | None = None
    accumulate_steps: int | None = None
    nonfinite: str | None = None
    jit_compile: bool | None = None
    compile_model: bool | None = None

    @property
    def scale(self) -> str | float | None:
        """`loss_scale` for the optimizer: as under Keras's `compile`, if not given."""
        if self.loss_scale is None:
            return DYNAMIC if self.dtype_policy == "mixed_float16" else None
        return DYNAMIC if self.loss_scale == DYNAMIC else float(self.loss_scale)

    def _check_steps(self, workers: int, steps: int) -> None:
        for name, allowed in (
            ("dtype_policy", DTYPE_POLICIES),
            ("nonfinite", NONFINITE),
        ):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise Refusal(
                    f"`{name}` must be one of {', '.join(allowed)}. "
                    f"Received: {name}={value!r}."
                )
        if self.accumulate_steps is not None:
            self._integer("accumulate_steps", 1)
            if self.accumulate_steps > steps:
                raise Refusal(
                    "`accumulate_steps` must be at most `train_iterations`, or nothing "
                    f"is ever updated. Received: accumulate_steps="
                    f"{self.accumulate_steps} with train_iterations={steps}."
                )
        if self.loss_scale is not None and not _is_scale(self.loss_scale):
            raise Refusal(
                "`loss_scale` must be dynamic, or a number above 0 and finite. "
                f"Received: loss_scale={self.loss_scale!r}."
            )
        if self.scale is not None and self.nonfinite == "zero":
            raise Refusal(
                "`nonfinite` must be raise or skip with a loss scale, which skips "
                f"steps that overflow. Received: nonfinite={self.nonfinite!r}."
            )
        if self.jit_compile and workers > 1:
            raise Refusal(
                "`jit_compile` is for one worker: XLA compiles no step in which "
                f"workers exchange. Received: jit_compile=True with workers={workers}."
            )
        if self.jit_compile and self.compile_model:
            raise Refusal(
                "`compile_model` is a part of what `jit_compile` compiles. Received: "
                "both. Leave one of them out."
            )


def _is_scale(text: str) -> bool:
    if text == DYNAMIC:
        return True
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
