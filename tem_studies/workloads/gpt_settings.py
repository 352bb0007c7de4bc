"""The settings of the GPT, and those of a run that it has where no flag is given.

Like configuration.py this file imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from tem_studies.refusal import Refusal
from tem_studies.workloads.checks import Checked

GPT = "gpt"

# Sizes of karpathy/nanoGPT's network of characters for a CPU; lengths of the sample and
# of its beginning are our choice.
_SIZES = {"gpt_layers": 4, "gpt_heads": 4, "gpt_features": 128, "context": 64}
_SAMPLE = {"sample_characters": 500, "prompt": "\n"}

# How nanoGPT trains that network on a CPU (README, config/train_shakespeare_char.py).
# It clips the whole gradient's norm; ours is that of each worker's own.
_BATCH_SIZE = 12  # Of each worker.
_TRAINING: dict[str, Any] = {
    "train_iterations": 2000,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "decay_type": "cosine",
    "local_clipnorm": 1.0,
    "check_interval": 250,
}
_OF_ADAMW = {"beta_2": 0.99, "epsilon": 1e-8, "weight_decay": 0.1}
_WARMUP_STEPS = 100
_LAST_RATE = 0.1  # As a share of the highest.


@dataclasses.dataclass(frozen=True)
class GptSettings(Checked):
    """`None` means "not given": of a GPT it is replaced by the usual value."""

    gpt_layers: int | None = None
    gpt_heads: int | None = None
    gpt_features: int | None = None
    context: int | None = None
    sample_characters: int | None = None
    prompt: str | None = None

    def _check_gpt(self) -> None:
        for name, value in (_SIZES | _SAMPLE).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # It is frozen.
        for name in _SIZES:
            self._integer(name, 1)
        self._integer("sample_characters", 0)
        if self.gpt_features % self.gpt_heads:
            raise Refusal(
                "`gpt_features` must be divisible by `gpt_heads`. Received: "
                f"gpt_features={self.gpt_features}, gpt_heads={self.gpt_heads}."
            )
        if not self.prompt:
            raise Refusal(
                "`prompt` must have at least one character. Received: prompt=''. Leave "
                "--prompt out for the end of a line."
            )


def usual_settings(
    settings: dict[str, Any], given: Collection[str], workers: int
) -> dict[str, Any]:
    """Settings of a GPT's run, with the usual ones in the place of defaults.

    Args:
        settings: All settings by name.
        given: Names of those that the user chose.
        workers: Their number, virtual ones or processes.
    """
    usual = _TRAINING | {"batch_size": _BATCH_SIZE * workers}
    settings = settings | {k: v for k, v in usual.items() if k not in given}
    more: dict[str, Any] = {}
    if settings["optimizer"] == "adamw":
        more |= _OF_ADAMW
    if settings["decay_type"] == "cosine":
        steps = settings["train_iterations"]
        if "decay_steps" in given:
            steps = settings["decay_steps"]
        # A twentieth, as 100 of 2,000 are.
        warmup = min(_WARMUP_STEPS, steps // 20) if isinstance(steps, int) else 0
        more |= {
            "decay_steps": steps,
            "end_learning_rate_factor": _LAST_RATE,
            "learning_rate_warmup_steps": warmup or None,
        }
    return settings | {k: v for k, v in more.items() if k not in given}
