"""From the settings that a user gave to a study, and what is said at its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tem_studies import missing_packages
from tem_studies.data_parallelism.configuration import Cell, Study
from tem_studies.data_parallelism.directory import (
    StudyDirectory,
    check_directories,
    studies_in,
)
from tem_studies.data_parallelism.packed_trials import PACKED_NAME
from tem_studies.quiet_start import start_tensorflow
from tem_studies.refusal import Refusal
from tem_studies.unused_flags import OF_TRAINING, Use, require_none, require_used
from tem_studies.workloads import command_line
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.environment import check_keras, check_no_cluster
from tem_studies.workloads.logdir import require_writable

_REPORT_NEEDS = ("matplotlib", "scipy", "tensorboard")
_USES = (
    *OF_TRAINING,
    Use(("lipschitz_interval", "lipschitz_examples"), "check_lipschitz"),
)


def configure(
    run: Mapping[str, Any], settings: Mapping[str, Any], given: Collection[str] = ()
) -> Study:
    """Makes one checked study.

    Args:
        run: Settings of a run by name; `batch_size` and `target_sparsity` may have
            several values.
        settings: The others by name.
        given: Names of the flags on the command line.

    Raises:
        Refusal: a setting is wrong, or has no effect.
    """
    cells = []
    for sparsity in _several(run["target_sparsity"]):
        for batch_size in _several(run["batch_size"]):
            values = {"batch_size": batch_size, "target_sparsity": sparsity}
            cells.append(
                Cell(
                    Configuration(**run | values),
                    mparams_kind=_several(settings["mparams_kind"] or ()),
                    check_lipschitz=settings["check_lipschitz"],
                    lipschitz_interval=settings["lipschitz_interval"],
                    lipschitz_examples=settings["lipschitz_examples"],
                    stop_beyond_best=settings["stop_beyond_best"],
                )
            )
    study = Study(
        tuple(cells),
        directory=settings["study_dir"],
        nruns=settings["nruns"],
        parallel_trials=settings["parallel_trials"],
        rerun_seeds=settings["rerun_seeds"],
        resumes=not settings["no_load_cache"],
    )
    words = "where `mparams_kind` names it: each trial has its own."
    require_none(given, study.cells[0].mparams_kind, words)
    require_used(given, {**run, **settings}, _USES)
    return study


def run(planned: Study) -> str:
    """Runs a study and makes its report; returns what to tell the user.

    Raises:
        Refusal: naming what is wrong.
    """
    check_no_cluster("A study runs each trial")
    require_writable(planned.path, "study_dir")
    check_directories(planned)
    command_line.check(planned.cells[0].run)
    missing_packages.require(*_REPORT_NEEDS)
    start_tensorflow()
    with missing_packages.importing():
        from tem_studies.data_parallelism import study

    if not study.run(planned):
        return (
            "Other processes still run trials of this study; the last one makes the "
            f"report. The same command shows how far it is: {planned.path}"
        )
    return make_report([planned.path], None)


def on_files(settings: Mapping[str, Any], target: str | None) -> str | None:
    """Does what is asked of a study's files; returns what to tell the user.

    Args:
        settings: Of the study, by name.
        target: Where a report or a copy goes.

    Returns:
        None: nothing is asked of them.

    Raises:
        Refusal: there is no study, or it is damaged.
    """
    if settings["report"] is not None:
        return make_report(_several(settings["report"]), target)
    if settings["pack"] is not None:
        return pack(_several(settings["pack"]))
    if settings["export"] is not None:
        return export(settings["export"], target)
    return None


def make_report(directories: Sequence[str | Path], target: str | None) -> str:
    """Makes table, figures and TensorBoard of studies; returns what to tell the user.

    Args:
        directories: Study directories, or parents of some.
        target: Where the report goes; None: report/ in the first of them.

    Raises:
        Refusal: there is no study, or it is damaged.
    """
    paths = [Path(directory) for directory in directories]
    check_keras()
    for study in (found for path in paths for found in studies_in(path)):
        StudyDirectory(study).configuration()  # Raises if it is damaged.
    place = Path(target) if target else paths[0] / "report"
    require_writable(place, "logdir" if target else "report")
    missing_packages.require(*_REPORT_NEEDS)
    start_tensorflow()
    with missing_packages.importing():
        from tem_studies.data_parallelism import report

    table = report.make(paths, place)
    return "\n".join(
        [
            table,
            f"report          {place}",
            f"TensorBoard     tensorboard --logdir {place / 'tensorboard'}",
        ]
    )


def pack(directories: Sequence[str | Path]) -> str:
    """Puts finished trials into one file for each study; returns what was done.

    Args:
        directories: Study directories, or parents of some.

    Raises:
        Refusal: there is no study, it is damaged, or cannot be written.
    """
    packed = [(study.path, study.pack()) for study in _studies(directories)]
    return "\n".join(
        f"{path / PACKED_NAME}: {count} trials" if count else f"{path}: nothing to pack"
        for path, count in packed
    )


def export(directory: str | Path, target: str | None) -> str:
    """Copies studies with files for each trial; returns what was done.

    Args:
        directory: Study directory, or a parent of some.
        target: Where the copies go: a directory that is empty or does not exist.

    Raises:
        Refusal: there is no study, it is damaged, or the target is not as it must be.
    """
    if target is None:
        raise Refusal("`export` copies to a directory. Pass one as --logdir.")
    place = Path(target)
    require_writable(place, "logdir")
    if place.exists() and any(place.iterdir()):
        raise Refusal(f"`logdir` {place} is not empty. Pass another directory.")
    lines = []
    for study in _studies([directory]):
        copy = place / study.path.relative_to(directory)
        lines.append(f"{copy}: {study.export(copy)} trials")
    return "\n".join(lines)


def _studies(directories: Sequence[str | Path]) -> list[StudyDirectory]:
    """Those in directories, each of which can be read.

    Raises:
        Refusal: there is none, or one is damaged.
    """
    if "" in directories:
        raise Refusal("A study's directory must have a name. Received: ''")
    paths = [path for directory in directories for path in studies_in(Path(directory))]
    studies = [StudyDirectory(path) for path in dict.fromkeys(paths)]
    for study in studies:
        study.configuration()
        study.results()
    return studies


def _several(value: Any) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
