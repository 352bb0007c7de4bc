"""From what a user gave to a comparison, and what is said at its end.

`--compare` takes methods between commas, or a JSON or TOML file with the settings of a
comparison by the names of their flags, and with those of all runs under "run":

    {"compare": ["none", "topk", "hard_threshold"], "budgets": [0.01],
     "rates": [0.03, 0.1, 0.3], "run": {"datasource": "digits", "workers": 2}}

or a study directory, whose report is then made from what is finished. A flag that is
given on the command line comes before the file.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tem_studies import missing_packages
from tem_studies.comparison.configuration import (
    COMPARISON_NAME,
    FIXED_SETTINGS,
    OWN_SETTINGS,
    Comparison,
)
from tem_studies.comparison.directory import ComparisonDirectory
from tem_studies.comparison.methods import OF_METHODS
from tem_studies.quiet_start import start_tensorflow
from tem_studies.refusal import Refusal
from tem_studies.unused_flags import OF_TRAINING, Use, require_none, require_used
from tem_studies.workloads import command_line
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.environment import (
    check_keras,
    check_no_cluster,
    count_workers,
)
from tem_studies.workloads.logdir import require_writable
from tem_studies.workloads.own_names import is_own, require_module
from tem_studies.workloads.study_files import read_json
from tem_studies.workloads.workload_settings import with_usual

# Flag -> attribute, where they differ.
_ATTRIBUTES = {"compare": "methods", "study_dir": "directory"}
_LISTS = ("methods", "budgets", "rates")
_PATHS = ("path_data", "study_dir")
_FILES = (".json", ".toml")
_USES = (*OF_TRAINING, Use(("tuning_seeds",), "rates"))


def configure(
    run: Mapping[str, Any], settings: Mapping[str, Any], given: set[str]
) -> tuple[Comparison, bool]:
    """Makes one checked comparison.

    Args:
        run: Settings of a run by name.
        settings: Those of a comparison by name.
        given: Names of flags that the user gave; others have their defaults.

    Returns:
        The comparison, and whether only its report is wanted.

    Raises:
        Refusal: a setting is wrong; the file cannot be read.
    """
    named = settings["compare"]
    place = Path(named)
    # Not Path.exists, which raises for a list that is too long to be a file's name.
    if os.path.exists(place / COMPARISON_NAME):
        words = f"with `compare` {named}, a study directory, which has its settings."
        require_none(given, sorted(given - {"compare"}), words)
        return _of_directory(place), True
    run, settings, chosen = dict(run), dict(settings), set(given)
    if place.suffix in _FILES:
        content, theirs = _read(place, settings, run)
        chosen |= theirs.keys()
        run |= {n: v for n, v in theirs.items() if n not in given}
        settings["compare"] = content.pop("compare")
        settings |= {n: v for n, v in content.items() if n not in given}
    else:
        settings["compare"] = named.split(",")
    _check_own(chosen)
    require_none(
        given, ["check_interval_arrival"], "in a comparison, which has no goal."
    )
    # As of one run, for the file's `arch`.
    run = with_usual(run, chosen, count_workers(run["workers"]))
    run["goal_error"] = None
    values = {_ATTRIBUTES.get(name, name): value for name, value in settings.items()}
    values["resumes"] = not values.pop("no_load_cache")
    values |= {name: run.pop(name) for name in OF_METHODS}
    for name in _LISTS:
        value = values[name]
        value = () if value is None else value
        values[name] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    comparison = Comparison(run=Configuration(**run), **values)
    rates = comparison.rates if len(comparison.rates) > 1 else ()
    used = comparison.run.as_dict() | {"rates": rates}
    require_used(given, used, _USES)
    return comparison, False


def carry_out(comparison: Comparison, only_report: bool) -> str:
    """Runs a comparison and makes its report; returns what to tell the user.

    Raises:
        Refusal: naming what is wrong.
    """
    if only_report:
        check_keras()
    else:
        check_no_cluster("A comparison makes each run")
        require_writable(comparison.path, "study_dir")
        ComparisonDirectory(comparison.path).check(comparison)
        for name in filter(is_own, comparison.methods):
            require_module("compare", name)
        command_line.check(comparison.run)
    missing_packages.require("matplotlib", "scipy", "tensorboard")
    start_tensorflow()
    with missing_packages.importing():
        from tem_studies.comparison import report, study

    if not only_report:
        study.run(comparison)
    place = comparison.path / "report"
    table = report.make(comparison, place)
    return "\n".join(
        [
            table,
            f"report          {place}",
            f"TensorBoard     tensorboard --logdir {place / 'tensorboard'}",
        ]
    )


def _of_directory(place: Path) -> Comparison:
    path = place / COMPARISON_NAME
    content = read_json(path, dict)
    try:
        asked = content["asked"] | {"directory": str(place)}
        asked["run"] = Configuration(**asked["run"])
        for name in _LISTS:
            asked[name] = tuple(asked[name])
        return Comparison(**asked)
    except (KeyError, TypeError) as error:
        raise Refusal(
            f"{path} must hold the settings of a comparison, as this version writes "
            f"them. Received: {error}. Give the command that made it."
        ) from error


def _check_own(chosen: set[str]) -> None:
    """Raises if a setting was chosen that is not the user's to choose."""
    for name in OWN_SETTINGS:
        if name in chosen and name != "learning_rate":
            raise Refusal(
                f"`{name}` has no effect in a comparison: each method sets its own. "
                f"Leave --{name} out."
            )
    for name in FIXED_SETTINGS:
        if name in chosen:
            raise Refusal(
                f"`{name}` cannot be chosen in a comparison: its methods have plain "
                f"error feedback and values of their own. Leave --{name} out."
            )


def _read(
    path: Path, settings: Mapping[str, Any], run: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file has of the settings of a comparison, and of those of a run."""
    content = _parsed(path)
    theirs = content.pop("run", {})
    wrong = "no list `compare` and table `run`"
    if isinstance(theirs, dict) and "compare" in content:
        unknown = [name for name in theirs if name not in run or name == "logdir"]
        unknown += [name for name in content if name not in settings]
        wrong = f"`{unknown[0]}`" if unknown else ""
    if wrong:
        raise Refusal(
            f"`compare` {path} must hold flags of a comparison by name, and those "
            f"of a run under `run`. Received: {wrong}."
        )
    _check_kinds(content, settings)
    _check_kinds(theirs, run)
    return content, theirs


def _check_kinds(theirs: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises if a file has something else than a truth value or a text for one.

    Flags are read as what they are; numbers are checked where settings are.
    """
    for name, value in theirs.items():
        if isinstance(defaults[name], bool) and not isinstance(value, bool):
            kind = "true or false"
        elif name in _PATHS and not isinstance(value, str | None):
            kind = "a path"
        else:
            continue
        raise Refusal(f"`{name}` must be {kind}. Received: {name}={value!r}.")


def _parsed(path: Path) -> dict[str, Any]:
    try:
        written = path.read_bytes()
    except OSError as error:
        raise Refusal(
            f"`compare` must name methods between commas, or a file that can be read. "
            f"Received: compare={str(path)!r} ({error.strerror})."
        ) from error
    try:
        text = written.decode()
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:  # as all decoding errors are
        raise Refusal(f"`compare` {path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise Refusal(f"`compare` {path} must hold a table of settings.")
    return content
