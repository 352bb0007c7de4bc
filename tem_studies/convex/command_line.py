"""From the flags of main.py to the settings of a convex study."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tem_studies.convex.configuration import ConvexConfiguration

# Flags of the image workloads that mean the same here.
_SHARED = (
    *("datasource", "path_data", "threshold", "density", "workers"),
    *("train_iterations", "check_interval", "seed", "threads", "logdir"),
)


def configure(given: dict[str, Any], own: Collection[str]) -> ConvexConfiguration:
    """Makes one checked configuration from the flags that were given.

    Args:
        given: Values by name, of those flags that the user gave.
        own: Names of the flags of this study alone.

    Raises:
        ValueError: naming the flag and what is wrong with it.
    """
    if "topk_scope" in given:
        raise ValueError(
            "`topk_scope` needs a network of several variables; logistic regression "
            "has one vector and no layers. Leave --topk_scope out."
        )
    for name in sorted(set(given) - {*own, *_SHARED, "arch", "compressor"}):
        raise ValueError(
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
                raise ValueError(
                    f"`{name}` must be two integers with a comma between them. "
                    f"Received: {name}={settings[name]!r}."
                ) from None
    if "sweep" in settings:
        settings["sweep"] = tuple(settings["sweep"])
    return ConvexConfiguration(**settings)
