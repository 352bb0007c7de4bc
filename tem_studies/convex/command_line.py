"""From the flags of main.py to a convex study, and what is said at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from tem_studies import missing_packages
from tem_studies.convex import data_places
from tem_studies.convex.configuration import ConvexConfiguration
from tem_studies.quiet_start import start_tensorflow
from tem_studies.refusal import Refusal
from tem_studies.workloads.environment import check_keras
from tem_studies.workloads.logdir import claim_default, give_back, require_writable

# Flags of the image workloads that mean the same here.
_SHARED = (
    *("datasource", "path_data", "threshold", "density", "workers"),
    *("train_iterations", "check_interval", "seed", "threads", "logdir"),
    "local_steps",
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
    if "compressor" in given:
        settings.setdefault("compressors", given["compressor"])
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
    return ConvexConfiguration(**settings)


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

        diverged = study.run(configuration)["diverged"]
    finally:
        if claimed:
            give_back(claimed)  # Only if it is empty still.
    lines = [
        f"diverged: {label}; it is in no figure. Pass a smaller --step_size."
        for label in diverged
    ]
    lines.append(f"figures and tables: {configuration.logdir}")
    return "\n".join(lines), bool(diverged)
