"""From the settings that a user gave to one run, and what is said at its end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tem_studies import missing_packages
from tem_studies.quiet_start import start_tensorflow
from tem_studies.refusal import Refusal
from tem_studies.workloads import data_places
from tem_studies.workloads.compression_settings import read_counts
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.environment import (
    Start,
    check_keras,
    check_workers,
    role,
)
from tem_studies.workloads.logdir import (
    claim_default,
    give_back,
    require_unused,
    require_writable,
)

if TYPE_CHECKING:
    from tem_studies.workloads.experiment import Experiment


def prepare(
    configuration: Configuration, logdir: str | None, overwrite: bool, start: Start
) -> Experiment:
    """Makes one training ready to start.

    Args:
        configuration: Its settings.
        logdir: The directory that the user chose; None: one named after the time.
        overwrite: Whether another run's results there may be replaced.
        start: How workers start, where there are several.

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
                if not overwrite:
                    require_unused(logdir)
        except Refusal as error:
            if is_alone:
                raise
            refusal = str(error)  # Said when the others have come: they would wait.
    try:
        start_tensorflow()
        with missing_packages.importing():
            from tem_studies.workloads import experiment

        return experiment.set_up(configuration, source, refusal, start)
    finally:
        if claimed:
            give_back(claimed)  # Only if it is empty still.


def check(configuration: Configuration) -> data_places.Source:
    """Checks what files and environment say of a run's settings; finds its data.

    Raises:
        Refusal: naming what is wrong.
    """
    check_keras()
    check_workers(configuration)
    if configuration.counts is not None:
        read_counts(configuration.counts)
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
            lines.append(f"{'test ' + name.replace('_', ' '):<15} {value:.4f}")
    communication = result["communication"]
    if communication and communication["dense_bytes"]:  # No step may have sent.
        sent = communication["payload_bytes"] + communication["padded_bytes"]
        dense = communication["dense_bytes"]
        lines += [
            f"density         {100 * communication['density']:.3g} %",
            f"bytes sent      {sent:,} ({100 * sent / dense:.3g} % of {dense:,} dense)",
        ]
    return "\n".join(
        [
            *lines,
            f"result          {os.path.join(logdir, 'result.json')}",
            f"TensorBoard     tensorboard --logdir {logdir}",
        ]
    )
