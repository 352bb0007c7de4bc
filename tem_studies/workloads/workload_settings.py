"""Which networks train on which data, and the settings that only some of them have.

`WORKLOADS` is the registry: a kind of task, its data sources and its networks. Like
configuration.py this file imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from tem_studies.refusal import Refusal
from tem_studies.workloads import own_names
from tem_studies.workloads.exchange_settings import ExchangeSettings
from tem_studies.workloads.gpt_settings import (
    GPT,
    GptSettings,
    usual_settings,
)
from tem_studies.workloads.step_settings import StepSettings

NPZ = "npz"  # Examples of a user's own.

# kind of task -> (data sources, networks); a user's own networks, module:function, are
# those of images, too.
WORKLOADS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "images": (
        ("digits", "mnist", "fashion-mnist", "cifar-10", "cifar-100", NPZ),
        ("simple-cnn", "resnet-8", "resnet-18", "senet-18", "googlenet"),
    ),
    "text": (("wikitext-2", "tokens"), ("lstm",)),
    "characters": (("text",), (GPT,)),
    "ratings": (("movielens-20m", "movielens-1m", "movielens-small"), ("neumf",)),
}
DATASOURCES = tuple(name for sources, _ in WORKLOADS.values() for name in sources)
ARCHITECTURES = tuple(name for _, networks in WORKLOADS.values() for name in networks)
# Those of the DPS study, which are pruned unless they are told otherwise.
DPS_NETWORKS = ("simple-cnn", "resnet-8")
AUGMENTATIONS = ("none", "crop-flip", "crop-flip-rotate")

# Share of entries that dropout sets to 0: the TEM authors', and nanoGPT's.
_DROPOUT = {"text": 0.4, "characters": 0.0, "ratings": 0.5}

# setting -> (the kinds of task that have it, its value without effect)
_OF_KINDS = {
    "augmentation": (("images",), "none"),
    "dtype_policy": (("images",), None),
    "jit_compile": (("images", "characters"), None),
    "compile_model": (("images", "characters"), None),
    "goal_error": (("images",), None),
    "target_sparsity": (("images",), 0.0),
    "dropout": (tuple(_DROPOUT), None),
    "lstm_layers": (("text",), 3),
    "lstm_units": (("text",), 650),
    "tied": (("text",), True),
    "bptt": (("text",), 30),
    **{
        field.name: (("characters",), None) for field in dataclasses.fields(GptSettings)
    },
}


@dataclasses.dataclass(frozen=True)
class WorkloadSettings(StepSettings, ExchangeSettings, GptSettings):
    """Settings that other workloads added to those of the DPS study."""

    augmentation: str = "none"
    weight_decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    decay_epochs: tuple[int, ...] | int | None = None
    learning_rate_warmup_epochs: int = 0
    learning_rate_warmup_factor: float = 1.0
    learning_rate_warmup_steps: int | None = None
    running_mean_epochs: int = 0
    evaluation_examples: int | None = None
    dropout: float | None = None
    lstm_layers: int = 3
    lstm_units: int = 650
    tied: bool = True
    bptt: int = 30

    @property
    def kind(self) -> str:
        """The kind of task, a key of `WORKLOADS`."""
        return _kind_of(self.arch, 1)

    @property
    def dropout_rate(self) -> float:
        """The given dropout, or the study's for this kind of task."""
        return _DROPOUT[self.kind] if self.dropout is None else self.dropout

    def _check_workload(self) -> None:
        if _kind_of(self.datasource, 0) != self.kind:
            raise Refusal(
                f"`arch` {self.arch} cannot be trained on `datasource` "
                f"{self.datasource}. Received: arch={self.arch!r}, "
                f"datasource={self.datasource!r}. Pass --datasource "
                f"{' or '.join(WORKLOADS[self.kind][0])}."
            )
        for name, (kinds, neutral) in _OF_KINDS.items():
            value = getattr(self, name)
            if self.kind not in kinds and value != neutral:
                raise Refusal(
                    f"`{name}` has no effect with `arch` {self.arch}. Received: "
                    f"{name}={value!r}. Leave --{name} out, or pass {neutral!r}."
                )
        self._one_of("augmentation", AUGMENTATIONS)
        self._integer("running_mean_epochs", 0)
        if self.evaluation_examples is not None:
            self._integer("evaluation_examples", 1)
        if self.dropout is not None:
            self._number("dropout", "in [0, 1)", lambda x: 0 <= x < 1)
        for name in ("lstm_layers", "lstm_units", "bptt"):
            self._integer(name, 1)
        if self.kind == "characters":
            self._check_gpt()
        self._check_update()
        self._check_schedule()

    def _check_update(self) -> None:
        self._number("weight_decay", "at least 0 and finite", _is_not_negative)
        for name in ("beta_1", "beta_2"):
            self._number(name, "in [0, 1)", lambda x: 0 <= x < 1)
        self._number("epsilon", "above 0 and finite", _is_positive)
        without_effect = ()
        if self.optimizer == "adam":
            without_effect = ("weight_decay",)
        elif self.optimizer != "adamw":
            without_effect = ("beta_1", "beta_2", "epsilon")
        for name in without_effect:
            self._without_effect(name, f"`optimizer` {self.optimizer}")

    def _check_schedule(self) -> None:
        if (self.decay_type == "step") != (self.decay_epochs is not None):
            raise Refusal(
                "`decay_epochs` and `decay_type` step need each other. Received: "
                f"decay_type={self.decay_type!r}, decay_epochs={self.decay_epochs!r}. "
                "Pass for example --decay_type step --decay_epochs 150 250."
            )
        if self.decay_epochs is not None:
            self._check_decay_epochs()
        self._integer("learning_rate_warmup_epochs", 0)
        self._number(
            "learning_rate_warmup_factor",
            "above 0 and finite",
            _is_positive,
        )
        if not self.learning_rate_warmup_epochs:
            self._without_effect(
                "learning_rate_warmup_factor", "`learning_rate_warmup_epochs` 0"
            )
        if self.learning_rate_warmup_steps is not None:
            self._check_warmup_steps()

    def _check_warmup_steps(self) -> None:
        if self.decay_type != "cosine":
            name = "learning_rate_warmup_steps"
            self._without_effect(name, f"`decay_type` {self.decay_type}")
        self._integer("learning_rate_warmup_steps", 1)
        if self.learning_rate_warmup_steps >= self.decay_steps:
            raise Refusal(
                "`learning_rate_warmup_steps` must be fewer than `decay_steps`, in "
                "which they are. Received: learning_rate_warmup_steps="
                f"{self.learning_rate_warmup_steps}, decay_steps={self.decay_steps}."
            )

    def _check_decay_epochs(self) -> None:
        epochs: Any = self.decay_epochs
        epochs = tuple(epochs) if isinstance(epochs, list | tuple) else (epochs,)
        object.__setattr__(self, "decay_epochs", epochs)  # It is frozen.
        for before, epoch in zip((0, *epochs), epochs, strict=False):
            if type(epoch) is not int or epoch <= before:
                raise Refusal(
                    "`decay_epochs` must be integers of at least 1, in rising order. "
                    f"Received: decay_epochs={epochs!r}."
                )

    def _without_effect(self, name: str, with_what: str) -> None:
        value = getattr(self, name)
        if value != _DEFAULTS[name]:
            raise Refusal(
                f"`{name}` has no effect with {with_what}. Received: {name}={value!r}. "
                f"Leave --{name} out."
            )


_DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(WorkloadSettings)
}


def with_usual(
    settings: dict[str, Any], given: Collection[str], workers: int
) -> dict[str, Any]:
    """A run's settings, with those that its network usually has where none is given.

    Args:
        settings: All settings by name.
        given: Names of those that the user chose.
        workers: Their number, virtual ones or processes.
    """
    if settings["arch"] == GPT:
        settings = usual_settings(settings, given, workers)
    if "target_sparsity" not in given and settings["arch"] not in DPS_NETWORKS:
        settings = settings | {"target_sparsity": 0.0}
    return settings


def _kind_of(name: str, column: int) -> str:
    if own_names.is_own(name):
        return "images"
    return next(kind for kind, row in WORKLOADS.items() if name in row[column])


def _is_not_negative(x: float) -> bool:
    return 0 <= x < math.inf


def _is_positive(x: float) -> bool:
    return 0 < x < math.inf
