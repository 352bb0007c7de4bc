"""The settings of a convex study: a frozen record, checked before any work is done.

This file imports neither TensorFlow nor Keras, so that a wrong flag is refused at once.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tem_studies.refusal import Refusal
from tem_studies.workloads.checks import Checked
from tem_studies.workloads.compression_rows import COMPRESSOR_ROWS
from tem_studies.workloads.own_names import (
    check_name,
    check_takers,
    is_own,
    read_arguments,
)

METHODS = (
    "ec-sgd",
    "ec-gd",
    "ec-gd-star",
    "ec-sgd-diana",
    "ec-gd-diana",
    "ec-lsvrg",
    "ec-lsvrg-diana",
    "ec-local-sgd",
    "ef21-sgdm",
)
# Controls that copy the volume of hard_threshold, which must run beside them.
CONTROLS = ("topk_equal", "topk_replay", "topk_warmup")
SPLITS = ("shuffled", "dirichlet", "sorted")
SWEPT = ("threshold", "density")
# The one setting of each compressor that can be set up here and has one.
NEEDS = {
    name: row.needs[0]
    for name, row in COMPRESSOR_ROWS.items()
    if row.needs and {*row.needs} <= {*SWEPT} and not row.lacks
}


@dataclasses.dataclass(frozen=True)
class ConvexConfiguration(Checked):
    """The settings of one study. `main.py --help` says what each one means.

    Raises:
        Refusal: naming the setting, what was received and what to pass instead.

    Example:
        >>> ConvexConfiguration(datasource="madelon", compressors=("topk",), k=1).k
        1
    """

    datasource: str = "breast-cancer"
    path_data: str | None = None
    classes: tuple[int, ...] = (0, 6)
    made_up_size: tuple[int, ...] = (6000, 5000)
    methods: tuple[str, ...] = ("ec-sgd",)
    compressors: tuple[str, ...] = ("none",)
    compressor_arguments: Any = None
    threshold: float | None = None
    density: float | None = None
    k: int | None = None
    sweep: tuple[str, ...] = ()
    goal_suboptimality: float = 1e-3
    workers: int = 20
    split: str = "shuffled"
    dirichlet_alpha: float = 1.0
    step_size: float = 1.0
    local_steps: int | None = None
    start_offset: float | None = None
    train_iterations: int = 3000
    check_interval: int = 10
    seeds: int = 1
    seed: int = 0
    threads: int = 0
    logdir: str = "runs/unnamed"

    def __post_init__(self) -> None:
        self._some_of("methods", METHODS)
        own = [name for name in self.compressors if is_own(name)]
        for name in own:
            check_name("compressors", name)
        self._some_of("compressors", (*COMPRESSOR_ROWS, *CONTROLS, *own))
        self._read_arguments()
        self._pair("classes", 0, 9)
        self._pair("made_up_size", 2, 10**6)
        if self.classes[0] == self.classes[1]:
            raise Refusal(
                f"`classes` must be two different labels. Received: {self.classes}."
            )
        if self.split not in SPLITS:
            raise Refusal(
                f"`split` must be one of {', '.join(SPLITS)}. "
                f"Received: split={self.split!r}."
            )
        for name, least in (
            ("workers", 1),
            ("train_iterations", 1),
            ("check_interval", 1),
            ("seeds", 1),
            ("seed", 0),
            ("threads", 0),
        ):
            self._integer(name, least)
        if self.seed + self.seeds > 2**31:  # what every generator in use takes
            raise Refusal(f"`seed` must be below 2**31. Received: seed={self.seed}.")
        if self.k is not None:
            self._integer("k", 1)
        if self.local_steps is not None:
            self._integer("local_steps", 1)
            if "ec-local-sgd" not in self.methods:
                raise Refusal(
                    "`local_steps` is a setting of ec-local-sgd. Received: "
                    f"local_steps={self.local_steps} with {','.join(self.methods)}."
                )
            if self.local_steps > self.train_iterations:
                raise Refusal(
                    "`local_steps` must be at most `train_iterations`. Received: "
                    f"local_steps={self.local_steps} with train_iterations="
                    f"{self.train_iterations}."
                )
        for name in ("dirichlet_alpha", "step_size", "threshold"):
            if getattr(self, name) is not None:
                self._number(name, "above 0 and finite", lambda x: 0 < x < math.inf)
        if self.density is not None:
            self._number("density", "in (0, 1]", lambda x: 0 < x <= 1, _FRACTION)
        self._number("goal_suboptimality", "in (0, 1)", lambda x: 0 < x < 1)
        if self.start_offset is not None:
            self._number("start_offset", "that is finite", math.isfinite)
        if self.train_iterations % self.check_interval:
            raise Refusal(
                "`train_iterations` must be a multiple of `check_interval`. Received: "
                f"train_iterations={self.train_iterations}, "
                f"check_interval={self.check_interval}."
            )
        if not self.logdir:
            raise Refusal(
                "`logdir` must name a directory. Received: logdir=''. Leave it out for "
                "one under runs/."
            )
        self._check_compressors()

    def as_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return dataclasses.asdict(self)

    def sweeps(self) -> dict[str, tuple[float, ...]]:
        """The values of each setting that is swept.

        >>> sweep, compressors = ("density=0.1,0.2",), ("topk",)
        >>> ConvexConfiguration(sweep=sweep, compressors=compressors).sweeps()
        {'density': (0.1, 0.2)}
        """
        swept = {}
        for text in self.sweep:
            name, _, values = text.partition("=")
            if name in swept:
                raise Refusal(
                    f"`sweep` must name {name} once, with all its values. "
                    f"Received: sweep={' '.join(self.sweep)!r}."
                )
            try:
                swept[name] = tuple(float(value) for value in values.split(","))
            except ValueError:
                swept[name] = ()
            if name not in SWEPT or not swept[name]:
                raise Refusal(
                    "`sweep` must be threshold=… or density=… with numbers between "
                    f"commas. Received: sweep={text!r}."
                )
        return swept

    def _read_arguments(self) -> None:
        name, given = "compressor_arguments", self.compressor_arguments
        if given is None:
            return
        arguments = read_arguments(name, given, of_classes=True)
        check_takers(name, arguments, [*self.compressors])
        object.__setattr__(self, name, arguments or None)  # It is frozen.

    def _check_compressors(self) -> None:
        swept = self.sweeps()
        for name, values in swept.items():
            for value in values:
                if not 0 < value < math.inf or (name == "density" and value > 1):
                    rule = "in (0, 1]" if name == "density" else "above 0 and finite"
                    raise Refusal(f"`{name}` must be {rule}. Received: {value!r}.")
            if not any(
                NEEDS.get(compressor) == name for compressor in self.compressors
            ):
                raise Refusal(
                    f"`sweep` of {name} needs a compressor that has one. "
                    f"Received: compressors={','.join(self.compressors)}."
                )
        for compressor in self.compressors:
            needed = NEEDS.get(compressor)
            given = needed and (getattr(self, needed) or needed in swept)
            if compressor == "topk" and self.k is not None:
                given = True
            if needed and not given:
                also = " or --k" if compressor == "topk" else ""
                raise Refusal(
                    f"`compressor` {compressor} needs `{needed}`. Received: "
                    f"{needed}=None. Pass --{needed}{also}."
                )
            row = COMPRESSOR_ROWS.get(compressor)
            unknown = row.needs if row else ()
            if row and row.lacks:
                raise Refusal(
                    f"`compressor` {compressor} cannot be set up here: this study has "
                    f"no place for {row.lacks}. Use "
                    "tem_studies.convex.simulation.run."
                )
            if not {*unknown} <= {*SWEPT}:
                raise Refusal(
                    f"`compressor` {compressor} cannot be set up here: logistic "
                    "regression has one vector, and no flag of its own for "
                    f"{', '.join(unknown)}. Use tem_studies.convex.simulation.run."
                )
            if compressor in CONTROLS and "hard_threshold" not in self.compressors:
                raise Refusal(
                    f"`compressor` {compressor} copies the volume of hard_threshold, "
                    "which must be among --compressors. "
                    f"Received: compressors={','.join(self.compressors)}."
                )
        if swept and set(self.compressors) & set(CONTROLS):
            raise Refusal(
                "`sweep` cannot vary compressors that copy another's volume. "
                f"Received: compressors={','.join(self.compressors)}."
            )

    def _some_of(self, name: str, allowed: tuple[str, ...]) -> None:
        values = getattr(self, name)
        if not values or not set(values) <= set(allowed):
            raise Refusal(
                f"`{name}` must be one or more of {', '.join(allowed)}. "
                f"Received: {name}={','.join(values)!r}."
            )
        if len(set(values)) < len(values):
            raise Refusal(
                f"`{name}` must name each once. Received: {','.join(values)!r}."
            )

    def _pair(self, name: str, least: int, most: int) -> None:
        pair = getattr(self, name)
        if len(pair) != 2 or not all(least <= value <= most for value in pair):
            raise Refusal(
                f"`{name}` must be two integers between {least} and {most}. "
                f"Received: {name}={pair}."
            )


_FRACTION = "Pass a fraction: 10 % is 0.1."
