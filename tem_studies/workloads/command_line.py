"""From the settings that a user gave to one run, and what is said at its end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tem_studies import missing_packages
from tem_studies.quiet_start import start_tensorflow
from tem_studies.refusal import Refusal
from tem_studies.workloads import data_places, own_names
from tem_studies.workloads.compression_settings import read_counts
from tem_studies.workloads.configuration import PER_WORKER_SETTINGS, Configuration
from tem_studies.workloads.environment import (
    Start,
    check_keras,
    check_workers,
    role,
)
from tem_studies.workloads.live_entries import volume_lines
from tem_studies.workloads.logdir import (
    INTERRUPTED,
    RESULT_NAME,
    SCHEMA_PATH,
    claim_default,
    give_back,
    may_go_on,
    require_unused,
    require_writable,
)
from tem_studies.workloads.metric_words import said
from tem_studies.workloads.study_files import read_result, read_schema, require_same

if TYPE_CHECKING:
    from tem_studies.workloads.experiment import Experiment


def prepare(
    configuration: Configuration,
    logdir: str | None,
    overwrite: bool,
    start: Start,
    resume_interval: int | None = None,
) -> Experiment:
    """Makes one training ready to start.

    Args:
        configuration: Its settings.
        logdir: The directory that the user chose; None: one named after the time.
        overwrite: Whether another run's results there may be replaced.
        start: How workers start, where there are several.
        resume_interval: Steps between two checkpoints of the run as a whole; None: it
            does not go on where a killed one was.

    Raises:
        Refusal: naming what is wrong, before any training.
    """
    source, (is_chief, is_alone) = check(configuration), role(start)
    claimed, refusal = None, None
    if is_chief:  # The others write nothing.
        try:
            if logdir is None:
                claimed = claim_default()
                configuration = dataclasses.replace(configuration, logdir=claimed)
            else:
                require_writable(logdir)
                goes_on = resume_interval is not None and may_go_on(logdir)
                if not overwrite and not goes_on:
                    require_unused(logdir)
        except Refusal as error:
            if is_alone:
                raise
            refusal = str(error)  # Said when the others have come: they would wait.
    try:
        start_tensorflow()
        with missing_packages.importing():
            from tem_studies.workloads import set_up

        return set_up.set_up(configuration, source, refusal, start, resume_interval)
    finally:
        if claimed:
            give_back(claimed)  # Only if it is empty still.


def finished(configuration: Configuration) -> dict[str, Any] | None:
    """The result of a run that has finished, if there is one in its directory.

    Raises:
        Refusal: it is of other settings, or damaged.
    """
    path = Path(configuration.logdir, RESULT_NAME)
    if not path.exists():
        return None
    result = read_result(path, read_schema(SCHEMA_PATH))
    theirs = {k: v for k, v in result["configuration"].items() if k in _compared()}
    ours = {k: v for k, v in configuration.as_dict().items() if k in _compared()}
    require_same(path.parent, theirs, ours, "logdir", "run")
    return None if result["status"] == INTERRUPTED else result


def _compared() -> set[str]:
    """Settings that a run must keep when it goes on."""
    fields = {field.name for field in dataclasses.fields(Configuration)}
    return fields - {"workers", *PER_WORKER_SETTINGS}


def check(configuration: Configuration) -> data_places.Source:
    """Checks what files and environment say of a run's settings; finds its data.

    Raises:
        Refusal: naming what is wrong.
    """
    check_keras()
    check_workers(configuration)
    if configuration.counts is not None:
        read_counts(configuration.counts)
    own_names.require_modules(configuration)
    source = data_places.locate(configuration)
    missing_packages.require("tensorboard")
    if source.kind == "scikit-learn":
        missing_packages.require("sklearn")
    return source


def report(result: Mapping[str, Any]) -> str:
    """What to tell the user of a result."""
    logdir = result["configuration"]["logdir"]
    lines = [f"{result['status']} after {result['steps']} steps"]
    if result["test"]:
        _, *metrics = result["test"].items()  # The first is the loss.
        for name, value in metrics:
            lines.append(f"{'test ' + said(name):<15} {value:.4f}")
    elif result["status"] != "diverged":  # Of a task without a test split.
        loss = result["history"][-1]["validation_loss"]
        lines.append(f"validation loss {loss:.4f}")
    lines += volume_lines(result)
    return "\n".join(
        [
            *lines,
            f"result          {os.path.join(logdir, 'result.json')}",
            f"TensorBoard     tensorboard --logdir {logdir}",
        ]
    )
