"""One run's settings: a frozen record that is checked before any work is done.

Names, meanings and defaults of the DPS study's settings are its authors' (see the
README); the others are ours. This file imports neither TensorFlow nor Keras, so that
a wrong flag is refused at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from tem_studies.refusal import Refusal
from tem_studies.workloads import own_names
from tem_studies.workloads.compression_settings import (
    COMPRESSOR_SETTINGS,
    MEMORY_SETTINGS,
    check_settings_of,
)
from tem_studies.workloads.workload_settings import (
    ARCHITECTURES,
    DATASOURCES,
    WorkloadSettings,
)

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
DECAY_TYPES = ("constant", "linear", "cosine", "step")
TOPK_SCOPES = ("layer", "model", "block")
FEW_BITS = ("int8", "int4", "int2", "sign")
VALUE_DTYPES = ("float32", "bfloat16", "float16", *FEW_BITS)

# Settings that may differ between the workers of one run: places on their own disks
# and the share of the processor.
PER_WORKER_SETTINGS = ("path_data", "logdir", "threads")


@dataclasses.dataclass(frozen=True)
class Configuration(WorkloadSettings):
    """The settings of one run. `main.py --help` says what each one means.

    `None` means "not given": a compressor's settings, and `goal_error`, which ends a
    run only when it is given.

    Raises:
        Refusal: naming the setting, what was received and what to pass instead.

    Example:
        >>> Configuration(datasource="digits", compressor="topk", density=0.01).density
        0.01
    """

    datasource: str = "mnist"
    path_data: str | None = None
    arch: str = "simple-cnn"
    target_sparsity: float = 0.9
    batch_size: int = 100
    train_iterations: int = 10_000
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    decay_type: str = "constant"
    decay_steps: int = 1000
    end_learning_rate_factor: float = 0.01
    momentum: float = 0.9
    check_interval: int = 100
    save_interval: int = 1000
    check_interval_arrival: int = 100
    goal_error: float | None = None
    compressor: str = "none"
    compressor_arguments: Any = None
    threshold: float | None = None
    density: float | None = None
    topk_scope: str | None = None
    density_ramp_steps: int | None = None
    low_density: float | None = None
    high_density: float | None = None
    accordion_interval: int | None = None
    counts: str | None = None
    error_feedback: bool = True
    memory: str | None = None
    memory_decay: float | None = None
    memory_momentum: float | None = None
    dense_below: int = 0
    warmup_steps: int = 0
    local_clipnorm: float | None = None
    value_dtype: str = "float32"
    workers: int = 1
    threads: int = 0
    logdir: str = "runs/unnamed"
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_data_and_network()
        self._check_training()
        self._check_workload()
        self._check_compression()
        self._check_process()
        self._check_steps(self.workers, self.train_iterations)
        self._check_exchanges(self.train_iterations, self.optimizer)

    def shared(self) -> dict[str, Any]:
        """The settings that must be equal on all workers of one run."""
        return {
            name: value
            for name, value in self.as_dict().items()
            if name not in PER_WORKER_SETTINGS
        }

    def as_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return dataclasses.asdict(self)

    def hyperparameters(self) -> dict[str, str | int | float | bool]:
        """The settings that tell runs apart: those of each, and what is not usual."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        return {
            name: value if isinstance(value, str | int | float) else str(value)
            for name, value in self.shared().items()
            if value is not None and (name in _ALWAYS_SHOWN or value != usual[name])
        }

    def _check_data_and_network(self) -> None:
        self._one_of("datasource", DATASOURCES)
        self._one_of("arch", ARCHITECTURES, "function")
        self._number("target_sparsity", "in [0, 1)", lambda x: 0 <= x < 1, _FRACTION)

    def _check_training(self) -> None:
        self._one_of("optimizer", OPTIMIZERS)
        self._one_of("decay_type", DECAY_TYPES)
        for name in (
            "batch_size",
            "train_iterations",
            "decay_steps",
            "check_interval",
            "save_interval",
            "check_interval_arrival",
        ):
            self._integer(name, 1)
        self._number("learning_rate", "above 0 and finite", lambda x: 0 < x < math.inf)
        self._number("end_learning_rate_factor", "in [0, 1]", lambda x: 0 <= x <= 1)
        self._number("momentum", "in [0, 1)", lambda x: 0 <= x < 1)
        if self.goal_error is not None:
            self._number("goal_error", "in [0, 1]", lambda x: 0 <= x <= 1, _FRACTION)

    def _check_compression(self) -> None:
        self._one_of("compressor", tuple(COMPRESSOR_SETTINGS), "Class")
        self._read_arguments()
        check_settings_of(self, "compressor", COMPRESSOR_SETTINGS)
        if self.threshold is not None:
            self._number(
                "threshold",
                "above 0 and finite",
                lambda x: 0 < x < math.inf,
                "It is an absolute magnitude, in units of one worker's own gradient.",
            )
        for name in ("density", "low_density", "high_density"):
            if getattr(self, name) is not None:
                self._number(name, "in (0, 1]", lambda x: 0 < x <= 1, _FRACTION)
        low, high = self.low_density, self.high_density
        if low is not None and high is not None and high < low:
            raise Refusal(
                "`high_density` must be at least `low_density`. Received: "
                f"low_density={low}, high_density={high}."
            )
        for name in ("density_ramp_steps", "accordion_interval"):
            if getattr(self, name) is not None:
                self._integer(name, 1)
        self._check_memory()
        if self.topk_scope is not None:
            self._one_of("topk_scope", TOPK_SCOPES)
        if self.topk_scope == "block" and self.density_ramp_steps is not None:
            raise Refusal(
                "`density_ramp_steps` cannot be used with `topk_scope` block, whose "
                "share is fixed. Leave one of them out."
            )
        self._one_of("value_dtype", VALUE_DTYPES)
        of_all = self.compressor == "all" and self.value_dtype in FEW_BITS
        if of_all and self.target_sparsity > 0:
            raise Refusal(
                "`compressor` all sends pruned entries, too, and no value in few bits "
                "is 0, so that they would move. Received: value_dtype="
                f"{self.value_dtype!r} with target_sparsity={self.target_sparsity}. "
                "Pass --target_sparsity 0, or another compressor."
            )
        self._integer("dense_below", 0)
        self._integer("warmup_steps", 0)
        if self.local_clipnorm is not None:
            self._number(
                "local_clipnorm", "above 0 and finite", lambda x: 0 < x < math.inf
            )
        if self.compressor == "none":
            for name, default in _ONLY_WITH_COMPRESSOR.items():
                if getattr(self, name) != default:
                    raise Refusal(
                        f"`{name}` has no effect with `compressor` none. Received: "
                        f"{name}={getattr(self, name)!r}. Leave --{name} out or pass "
                        "--compressor."
                    )

    def _read_arguments(self) -> None:
        name, given = "compressor_arguments", self.compressor_arguments
        if given is None:
            return
        arguments = own_names.read_arguments(name, given)
        own_names.check_takers(name, arguments, [self.compressor])
        object.__setattr__(self, name, arguments or None)  # It is frozen.

    def _check_memory(self) -> None:
        if self.memory is not None:
            self._one_of("memory", tuple(MEMORY_SETTINGS))
            if not self.error_feedback:
                raise Refusal(
                    "`memory` cannot be kept without `error_feedback`. Received: "
                    f"memory={self.memory!r}. Leave --memory or --noerror_feedback out."
                )
        check_settings_of(self, "memory", MEMORY_SETTINGS)
        if self.memory_decay is not None:
            self._number("memory_decay", "in (0, 1]", lambda x: 0 < x <= 1)
        if self.memory_momentum is not None:
            self._number("memory_momentum", "in (0, 1)", lambda x: 0 < x < 1)

    def _check_process(self) -> None:
        if not self.logdir:
            raise Refusal(
                "`logdir` must name a directory. Received: logdir=''. Leave it out for "
                "one under runs/."
            )
        self._integer("workers", 1)
        self._integer("threads", 0)
        self._integer("seed", 0)
        if self.seed >= 2**31:  # what every generator in use takes
            raise Refusal(f"`seed` must be below 2**31. Received: seed={self.seed}.")
        check_divisible(self.batch_size, self.workers)

    def _one_of(self, name: str, allowed: Collection[str], own: str = "") -> None:
        """Checks a name; `own` is what a user's own module may have of that kind."""
        value = getattr(self, name)
        if own and own_names.is_own(value):
            return own_names.check_name(name, value, own)
        if value not in allowed:
            names = ", ".join([*allowed, *([f"or module:{own}"] if own else [])])
            raise Refusal(
                f"`{name}` must be one of {names}. Received: {name}={value!r}."
            )


def check_divisible(batch_size: int, replicas: int) -> None:
    """Raises unless every replica gets the same number of examples per step."""
    if batch_size % replicas:
        below = batch_size - batch_size % replicas
        raise Refusal(
            "`batch_size` is the number of examples per step over all replicas and "
            f"must be divisible by their number. Received: batch_size={batch_size} "
            f"with {replicas} replicas. Pass {below + replicas}"
            + (f" or {below}." if below else ".")
        )


# In TensorBoard's HPARAMS.
_ALWAYS_SHOWN = (
    *("datasource", "arch", "target_sparsity", "batch_size", "optimizer"),
    *("learning_rate", "compressor", "seed"),
)
_FRACTION = "Pass a fraction: 10 % is 0.1."
_ONLY_WITH_COMPRESSOR = {
    "error_feedback": True,
    "memory": None,
    "dense_below": 0,
    "warmup_steps": 0,
    "value_dtype": "float32",
}
