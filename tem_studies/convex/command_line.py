"""From the flags of main.py to a convex study, and what is said at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from tem_studies import missing_packages
from tem_studies.convex import data_places
from tem_studies.convex.configuration import SWEPT, ConvexConfiguration
from tem_studies.quiet_start import start_tensorflow
from tem_studies.refusal import Refusal
from tem_studies.unused_flags import Use, require_used
from tem_studies.workloads.environment import check_keras
from tem_studies.workloads.logdir import claim_default, give_back, require_writable
from tem_studies.workloads.own_names import is_own, require_module

# Flags of the image workloads that mean the same here.
_SHARED = (
    *("datasource", "path_data", "threshold", "density", "workers"),
    *("train_iterations", "check_interval", "seed", "threads", "logdir"),
    *("local_steps", "compressor_arguments"),
)

# Data sources that are looked for below --path_data.
_FILES = ("gisette", "madelon", data_places.FASHION)
_USES = (
    Use(("path_data",), "datasource", _FILES),
    Use(("classes",), "datasource", (data_places.FASHION,)),
    Use(("made_up_size",), "datasource", (data_places.MADE_UP,)),
    Use(("dirichlet_alpha",), "split", ("dirichlet",)),
    Use(("goal_suboptimality",), "sweep"),
    Use(("k",), "compressors", ("topk",)),
    Use(("density",), "compressors", ("topk", "random_k")),
    Use(("threshold",), "compressors", ("hard_threshold",)),
)


def configure(given: dict[str, Any], own: Collection[str]) -> ConvexConfiguration:
    """Makes one checked configuration from the flags that were given.

    Args:
        given: Values by name, of those flags that the user gave.
        own: Names of the flags of this study alone.

    Raises:
        Refusal: naming the flag and what is wrong with it.
    """
    if "topk_scope" in given:
        raise Refusal(
            "`topk_scope` needs a network of several variables; logistic regression "
            "has one vector and no layers. Leave --topk_scope out."
        )
    for name in sorted(set(given) - {*own, *_SHARED, "arch", "compressor"}):
        raise Refusal(
            f"`{name}` has no effect with `arch` logistic-regression. "
            f"Leave --{name} out."
        )
    settings = {name: given[name] for name in (*own, *_SHARED) if name in given}
    if "compressor" in given and "compressors" in given:
        raise Refusal(
            "`compressor` has no effect with `compressors`, which names them all. "
            "Leave --compressor out."
        )
    if "compressor" in given:
        settings["compressors"] = given["compressor"]
    for name in ("methods", "compressors"):
        if name in settings:
            settings[name] = tuple(settings[name].split(","))
    for name in ("classes", "made_up_size"):
        if name in settings:
            try:
                settings[name] = tuple(int(x) for x in settings[name].split(","))
            except ValueError:
                raise Refusal(
                    f"`{name}` must be two integers with a comma between them. "
                    f"Received: {name}={settings[name]!r}."
                ) from None
    if "sweep" in settings:
        settings["sweep"] = tuple(settings["sweep"])
    configuration = ConvexConfiguration(**settings)
    require_used(given, configuration.as_dict(), _USES)
    for name, swept in (*((n, n) for n in SWEPT), ("k", "density")):
        if name in given and swept in configuration.sweeps():
            raise Refusal(
                f"`{name}` has no effect with `sweep` of {swept}. Leave --{name} out."
            )
    if {"k", "density"} <= given.keys() and "random_k" not in configuration.compressors:
        raise Refusal("`density` has no effect with `k`. Leave one of them out.")
    return configuration


def run(configuration: ConvexConfiguration, logdir: str | None) -> tuple[str, bool]:
    """Runs a study.

    Args:
        configuration: Its settings.
        logdir: The directory that the user chose; None: one named after the time.

    Returns:
        What to tell the user, and whether a run diverged.

    Raises:
        Refusal: naming what is wrong.
    """
    check_keras()
    for name in filter(is_own, configuration.compressors):
        require_module("compressors", name)
    data_places.locate(configuration.datasource, configuration.path_data)
    claimed = None
    if logdir is None:
        claimed = claim_default()
        configuration = dataclasses.replace(configuration, logdir=claimed)
    else:
        require_writable(logdir)
    try:
        start_tensorflow()
        with missing_packages.importing():
            from tem_studies.convex import study

        found = study.run(configuration)
    finally:
        if claimed:
            give_back(claimed)  # Only if it is empty still.
    lines = [
        f"diverged: {label}; it is in no figure. Pass a smaller --step_size."
        for label in found["diverged"]
    ]
    lines += [
        f"moved away: {words}. Pass a smaller --step_size or another threshold."
        for words in found["moved_away"]
    ]
    lines.append(f"figures and tables: {configuration.logdir}")
    return "\n".join(lines), bool(found["diverged"])
