"""A study's settings: one run's settings for each cell, and how its trials are run.

A cell is one batch size at one sparsity. This file imports no TensorFlow, so that a
wrong flag is refused at once.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tem_studies.data_parallelism.metaparameters import DECAYS, check_kinds
from tem_studies.refusal import Refusal
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.own_names import file_name, is_own
from tem_studies.workloads.workload_settings import DPS_NETWORKS, WorkloadSettings

# Settings of a run that do not change what a trial finds.
_WITHOUT_EFFECT = ("path_data", "logdir", "threads", "save_interval")

# Settings that a study leaves at their defaults, so that its identity is without them.
_UNSET = {field.name: field.default for field in dataclasses.fields(WorkloadSettings)}

# Settings whose value a cell's name shows if it is not this one.
_NAMED = {
    "optimizer": "sgd",
    "decay_type": "constant",
    "compressor": "none",
    "threshold": None,
    "density": None,
    "seed": 0,
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """What defines the trials of one study directory.

    Attributes:
        run: Every setting that the trials share; metaparameters replace some of them.
        mparams_kind: Names of the metaparameters.
        check_lipschitz: Whether to measure the smoothness along training.
        lipschitz_interval: Steps between two measurements.
        lipschitz_examples: Size of the fixed subset that it is measured on, or None for
            the whole training split.
        stop_beyond_best: Whether a trial ends once it is later than the best one.

    Raises:
        Refusal: naming the setting, what was received and what to pass instead.
    """

    run: Configuration
    mparams_kind: tuple[str, ...] = ()
    check_lipschitz: bool = False
    lipschitz_interval: int = 1000
    lipschitz_examples: int | None = None
    stop_beyond_best: bool = False

    def __post_init__(self) -> None:
        if self.run.arch not in DPS_NETWORKS and not is_own(self.run.arch):
            raise Refusal(
                f"`arch` of a study must be one of {', '.join(DPS_NETWORKS)}, or "
                "module:function. "
                f"Received: arch={self.run.arch!r}."
            )
        for name, default in _UNSET.items():
            value = getattr(self.run, name)
            if value != default:
                raise Refusal(
                    f"`{name}` cannot be set in a study. Received: {name}={value!r}. "
                    f"Leave --{name} out."
                )
        if self.run.decay_type not in DECAYS:
            raise Refusal(
                f"`decay_type` of a study must be one of {', '.join(DECAYS)}. "
                f"Received: decay_type={self.run.decay_type!r}."
            )
        check_kinds(self.mparams_kind, self.run.optimizer, self.run.decay_type)
        goal = self.run.goal_error
        if goal is None or not 0 < goal < 1:
            raise Refusal(
                "`goal_error` of a study must be in (0, 1). "
                f"Received: goal_error={goal}. Pass a fraction: 10 % is 0.1."
            )
        check_at_least("lipschitz_interval", self.lipschitz_interval, 1)
        if self.lipschitz_examples is not None:
            check_at_least("lipschitz_examples", self.lipschitz_examples, 1)
            if not self.check_lipschitz:
                raise Refusal(
                    "`lipschitz_examples` has no effect without `check_lipschitz`. "
                    f"Received: lipschitz_examples={self.lipschitz_examples}. Pass "
                    "--check_lipschitz too, or leave it out."
                )

    def identity(self) -> dict[str, Any]:
        """All that must be equal for two commands to share a study directory."""
        settings = self.run.as_dict()
        for name in (*_WITHOUT_EFFECT, *_UNSET, *self.mparams_kind):
            del settings[name]
        own = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "run"
        }
        return settings | own | {"mparams_kind": list(self.mparams_kind)}

    @property
    def name(self) -> str:
        """Of the cell among those that differ in batch size and sparsity."""
        return f"s{self.run.target_sparsity:g}-b{self.run.batch_size}"


@dataclasses.dataclass(frozen=True)
class Study:
    """Cells, and how to run their trials.

    Attributes:
        cells: They differ in batch size and sparsity alone.
        directory: The study directory if there is one cell, else their parent. None:
            named after the configuration, in studies/.
        nruns: Trials per cell.
        parallel_trials: Processes that run them.
        rerun_seeds: After the trials of a cell, its winner is run again with so many
            other seeds.
        resumes: Whether a directory that has finished trials may be continued.

    Raises:
        Refusal: as in `Cell`.
    """

    cells: tuple[Cell, ...]
    directory: str | None = None
    nruns: int = 1
    parallel_trials: int = 1
    rerun_seeds: int = 0
    resumes: bool = True

    def __post_init__(self) -> None:
        for name, least in (("nruns", 1), ("parallel_trials", 1), ("rerun_seeds", 0)):
            check_at_least(name, getattr(self, name), least)
        names = [cell.name for cell in self.cells]
        if len(set(names)) < len(names):
            raise Refusal(
                "`batch_size` and `target_sparsity` must have each value once. "
                f"Received: {' '.join(names)}."
            )
        run = self.cells[0].run
        if run.workers > 1 and self.parallel_trials > 1:
            raise Refusal(
                "`parallel_trials` cannot be combined with `workers`: virtual workers "
                f"share one process. Received: parallel_trials={self.parallel_trials}, "
                f"workers={run.workers}. Leave one of them out."
            )

    @property
    def path(self) -> Path:
        """The study directory, or the parent of several."""
        if self.directory is not None:
            return Path(self.directory)
        run = self.cells[0].run
        parts = [run.datasource, file_name(run.arch)]
        for name, usual in _NAMED.items():
            if getattr(run, name) != usual or name == "optimizer":
                parts.append(file_name(f"{getattr(run, name)}"))
        if len(self.cells) == 1:
            parts.append(self.cells[0].name)
        return Path("studies") / "-".join(parts)

    def path_of(self, cell: Cell) -> Path:
        """A cell's study directory."""
        return self.path if len(self.cells) == 1 else self.path / cell.name


def check_at_least(name: str, value: Any, least: int) -> None:
    """Raises unless a setting is an integer that is large enough."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Refusal(
            f"`{name}` must be an integer of at least {least}. "
            f"Received: {name}={value!r}."
        )
