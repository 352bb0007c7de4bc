"""A comparison's settings: one run's settings, methods, budgets, rates and seeds.

This file imports no TensorFlow, so that a wrong flag is refused at once.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from tem_studies.comparison.methods import (
    METHODS,
    OF_METHODS,
    OF_OWN,
    OF_SOME,
    method_of,
)
from tem_studies.refusal import Refusal
from tem_studies.workloads.checks import Checked
from tem_studies.workloads.compression_settings import OF_COMPRESSORS, OF_MEMORIES
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.own_names import (
    arguments_for,
    check_name,
    check_takers,
    file_name,
    is_own,
    read_arguments,
)

COMPARISON_NAME = "comparison.json"  # in a study directory: these settings
PROBE = "probe"  # Name of one dense step, from which the number of entries is known.

# Tuning and pilot runs have seeds from here on, counted from the run's seed, so that no
# reported run was ever tuned on. Our choice.
TUNING_SEED_OFFSET = 1000

# Settings of a run that do not change what it finds.
_WITHOUT_EFFECT = ("path_data", "logdir", "threads", "save_interval")
# What each method and run of a comparison has of its own.
OWN_SETTINGS = (
    *("compressor", *OF_COMPRESSORS),
    *("warmup_steps", "learning_rate", "goal_error"),
)
# What a compressor has beside its own; the dense method could not have it.
FIXED_SETTINGS = (
    *("error_feedback", "memory", *OF_MEMORIES, "dense_below", "value_dtype"),
)


@dataclasses.dataclass(frozen=True)
class Comparison(Checked):
    """Methods on one workload. `main.py --help` says what each setting means.

    Attributes:
        run: What all runs share. Its learning rate is the common one; its seed is the
            first of the reported runs.
        methods: Names, at least two.
        budgets: Volumes of a whole run, as densities: see `volume.budget_bytes`.
        rates: Learning rates to choose from, or the common one alone.
        nseeds: Reported seeds of each method, budget and rate.
        tuning_seeds: Seeds that rates are chosen on.
        baseline: The method that differences are shown to; None: the first.
        margin: What counts as equal, of quality, or of perplexity as a share of the
            baseline's; None: `Quality.margin`.
        directory: Of the study.
        parallel_trials: Processes.
        resumes: Whether finished runs in the directory may be used.
        local_steps, outer_learning_rate, outer_momentum: Of methods of local steps.
        freeze_step: Of methods that freeze AdamW's variance.
        compressor_arguments: Of users' own compressors among the methods; a key may
            begin with the class that it is for, as in "Halves.factor".

    Raises:
        Refusal: naming the setting, what was received and what to pass instead.
    """

    run: Configuration
    methods: tuple[str, ...]
    budgets: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    nseeds: int = 5
    tuning_seeds: int = 1
    baseline: str | None = None
    margin: float | None = None
    directory: str | None = None
    parallel_trials: int = 1
    resumes: bool = True
    local_steps: int | None = None
    outer_learning_rate: float | None = None
    outer_momentum: float | None = None
    freeze_step: int | None = None
    compressor_arguments: Any = None

    def __post_init__(self) -> None:
        for name in ("nseeds", "tuning_seeds", "parallel_trials"):
            self._integer(name, 1)
        if self.nseeds > TUNING_SEED_OFFSET:
            raise Refusal(
                f"`nseeds` must be at most {TUNING_SEED_OFFSET}: tuning seeds follow. "
                f"Received: nseeds={self.nseeds}."
            )
        self._check_methods()
        self._check_budgets()
        self._check_settings_of_some()
        for rate in self.rates:
            if not _is_number(rate) or not 0 < rate < math.inf:
                raise Refusal(
                    f"`rates` must be numbers above 0 and finite. Received: {rate!r}."
                )
        if not self.rates:
            object.__setattr__(self, "rates", (self.run.learning_rate,))  # Frozen.
        if list(self.rates) != sorted(set(self.rates)):
            raise Refusal(
                "`rates` must rise. Received: rates="
                f"{' '.join(f'{r:g}' for r in self.rates)}."
            )
        if self.run.learning_rate not in self.rates:
            raise Refusal(
                "`learning_rate` is the common rate of a comparison and must be among "
                f"`rates`. Received: learning_rate={self.run.learning_rate:g}, rates="
                f"{' '.join(f'{r:g}' for r in self.rates)}."
            )
        if self.margin is not None:
            self._number("margin", "above 0 and finite", lambda x: 0 < x < math.inf)
        if self.baseline is None:
            object.__setattr__(self, "baseline", self.methods[0])
        if self.baseline not in self.methods:
            raise Refusal(
                f"`baseline` must be one of {', '.join(self.methods)}. "
                f"Received: baseline={self.baseline!r}."
            )

    def _check_methods(self) -> None:
        for name in self.methods:
            if is_own(name):
                check_name("compare", name)
            elif name not in list(METHODS):  # A file may have what cannot be hashed.
                raise Refusal(
                    f"`compare` must name methods among {', '.join(METHODS)}, or "
                    "compressors as module:Class. "
                    f"Received: {name!r}."
                )
        if len(set(self.methods)) < max(2, len(self.methods)):
            raise Refusal(
                "`compare` needs at least two methods, each once. "
                f"Received: {','.join(self.methods)}."
            )
        for name in self.methods:
            model = method_of(name).replays
            if model and model not in self.methods:
                raise Refusal(
                    f"`compare` {name} replays the counts of {model}. Received: "
                    f"{','.join(self.methods)}. Name {model} too."
                )

    def _check_budgets(self) -> None:
        limited = [name for name in self.methods if method_of(name).has_budget]
        if limited and not self.budgets:
            raise Refusal(
                f"`budgets` must be given for {limited[0]}: densities of the whole "
                "run, as --budgets 0.01 0.001."
            )
        if self.budgets and not limited:
            raise Refusal(
                f"`budgets` have no effect on {', '.join(self.methods)}, whose volumes "
                "are fixed. Leave --budgets out."
            )
        for budget in self.budgets:
            if not _is_number(budget) or not 0 < budget < 1:
                raise Refusal(
                    f"`budgets` must be in (0, 1). Received: {budget!r}. "
                    "Pass a fraction: 10 % is 0.1."
                )
        if len(set(self.budgets)) < len(self.budgets):
            raise Refusal(
                "`budgets` must have each value once. Received: "
                f"{' '.join(f'{b:g}' for b in self.budgets)}."
            )

    def _check_settings_of_some(self) -> None:
        for name in self.methods:
            needed = method_of(name).takes[:1]
            if needed and getattr(self, needed[0]) is None:
                raise Refusal(
                    f"`compare` {name} needs `{needed[0]}`. Received: {needed[0]}=None."
                    f" Pass --{needed[0]}."
                )
        for name in OF_SOME:
            takers = [m for m, method in METHODS.items() if name in method.takes]
            if getattr(self, name) is not None and not {*takers} & {*self.methods}:
                raise Refusal(
                    f"`{name}` is a setting of {', '.join(takers)}. Received: {name}="
                    f"{getattr(self, name)!r} with {','.join(self.methods)}."
                )
        if self.compressor_arguments is not None:
            arguments = read_arguments(OF_OWN, self.compressor_arguments, True)
            check_takers(OF_OWN, arguments, [*self.methods])
            object.__setattr__(self, OF_OWN, arguments or None)  # It is frozen.
        for name in self.methods:
            row = method_of(name)
            if row.takes or row.compressor == "all" or is_own(name):
                strength = max(self.budgets, default=1.0)
                dataclasses.replace(self.run, **self.settings_of(name, strength))

    def settings_of(self, method: str, strength: float) -> dict[str, Any]:
        """A method's settings of a run."""
        row = method_of(method)
        own = {name: getattr(self, name) for name in row.takes}
        if is_own(method):
            own[OF_OWN] = arguments_for(method, self.compressor_arguments) or None
        return row.settings(strength, self.run.train_iterations) | own

    @property
    def path(self) -> Path:
        """The study directory."""
        if self.directory is not None:
            return Path(self.directory)
        arch = file_name(self.run.arch)
        return Path("studies") / f"compare-{self.run.datasource}-{arch}"

    @property
    def seeds(self) -> range:
        """Of the reported runs."""
        return range(self.run.seed, self.run.seed + self.nseeds)

    @property
    def seeds_for_tuning(self) -> range:
        """Of pilots and of the choice of learning rates; the first is the pilots'."""
        first = self.run.seed + TUNING_SEED_OFFSET
        return range(first, first + self.tuning_seeds)

    def identity(self) -> dict[str, Any]:
        """All that must be equal for two commands to share a study directory.

        Seeds, methods and budgets may be added later; runs that exist stay good.
        """
        settings = self.run.as_dict()
        for name in (*_WITHOUT_EFFECT, *OWN_SETTINGS):
            settings.pop(name)
        settings |= {name: getattr(self, name) for name in OF_METHODS}
        return settings | {"tuning_seeds": self.tuning_seeds}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
