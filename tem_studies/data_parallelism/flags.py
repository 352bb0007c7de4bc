"""The flags of the DPS study: many trials of one network."""

from __future__ import annotations

from tem_studies.flag_row import FlagRow
from tem_studies.workloads.flags import (
    OF_CHECKPOINTS,
    OF_LOGDIR,
    OF_SEVERAL_PROCESSES,
)

# Names, meanings and defaults of nruns to lipschitz_interval and of no_load_cache are
# those of the DPS study's authors (arXiv 2003.11316), but for nruns: they have 100.
STUDY_FLAGS = (
    FlagRow(
        "nruns",
        int,
        1,
        "Trials for each batch size and sparsity, each with its own metaparameters.",
    ),
    FlagRow(
        "mparams_kind",
        str,
        None,
        "Metaparameters that differ between trials, among learning_rate, momentum, "
        "decay_steps and end_learning_rate_factor, with blanks between them. They "
        "replace the flags of these names.",
        takes_several=True,
    ),
    FlagRow(
        "check_lipschitz",
        bool,
        False,
        "Whether to measure the Lipschitz constant of the gradient along training. It "
        "makes no study of a command, as --nruns 1 does.",
    ),
    FlagRow("lipschitz_interval", int, 1000, "Steps between two such measurements."),
    FlagRow(
        "lipschitz_examples",
        int,
        None,
        "Examples of the training split, always the same, that it is measured on. "
        "Without it: all.",
    ),
    FlagRow(
        "study_dir",
        str,
        None,
        "Directory of the study; with several batch sizes or sparsities, of their "
        "studies. What is finished there is not run again. Without it: studies/ and a "
        "name made of the configuration.",
    ),
    FlagRow(
        "no_load_cache",
        bool,
        False,
        "Whether to refuse a study directory that has finished trials.",
    ),
    FlagRow("parallel_trials", int, 1, "Processes that run trials at the same time."),
    FlagRow(
        "stop_beyond_best",
        bool,
        False,
        "Whether a trial ends once it has taken as many steps as the best one so far. "
        "If fewer than three are complete then, those that came nearest to the goal "
        "are run again to their end.",
    ),
    FlagRow(
        "rerun_seeds",
        int,
        0,
        "Other seeds with which the best trial is run again at the end.",
    ),
    FlagRow(
        "report",
        str,
        None,
        "Study directories whose table and figures are made again from their files, "
        "side by side, in LOGDIR or, without it, in report/ of the first.",
        takes_several=True,
    ),
    FlagRow(
        "pack",
        str,
        None,
        "Study directories whose finished trials are put into one file each, "
        "trials.jsonl. Studies go on from it, and reports are the same.",
        takes_several=True,
    ),
    FlagRow(
        "export",
        str,
        None,
        "Study directory that is copied to LOGDIR with the files of each trial in a "
        "folder, as before --pack and as the study's authors have them.",
    ),
)

# Each is a command of its own, which takes all from files: with the flags it may have.
OF_FILES = {"report": {"logdir"}, "pack": set(), "export": {"logdir"}}

# Any of these makes a command a study; so do several values of the next ones. What is
# measured of one does not: a study has a goal, and another directory than a run.
MAKES_STUDY = ("nruns", "mparams_kind", "study_dir")
SEVERAL_MAKE_STUDY = ("batch_size", "target_sparsity")


def makers(given: set[str], several: set[str]) -> list[str]:
    """Names of the flags that make a command a study; none: it is one run.

    Args:
        given: Names of the flags on the command line.
        several: Of those, the ones with several values.
    """
    return [
        *(name for name in (*MAKES_STUDY, *OF_FILES) if name in given),
        *(name for name in SEVERAL_MAKE_STUDY if name in several),
    ]


def misplaced(given: set[str], several: set[str]) -> str | None:
    """What is wrong with flags that belong to studies alone, or not to them.

    Args:
        given: Names of the flags on the command line.
        several: Of those, the ones with several values.
    """
    made_by = makers(given, several)
    if of_files := [name for name in OF_FILES if name in given]:
        command = of_files[0]
        for name in sorted(given - {command} - OF_FILES[command]):
            return (
                f"`{name}` has no effect with `{command}`, which takes all from the "
                f"files of studies. Leave --{name} out."
            )
    elif made_by:
        for name in OF_LOGDIR:
            if name in given:
                return (
                    f"`{name}` has no effect in a study, which --{made_by[0]} makes of "
                    "this command: its directory is --study_dir, where what is "
                    f"finished stays. Leave --{name} out."
                )
        for name in OF_SEVERAL_PROCESSES:
            if name in given:
                return (
                    f"`{name}` has no effect in a study, whose trials are processes "
                    f"without a cluster. Leave --{name} out."
                )
        for name in OF_CHECKPOINTS:
            if name in given:
                return (
                    f"`{name}` has no effect in a study, whose trials keep no "
                    f"checkpoints. Leave --{name} out."
                )
    else:
        for row in STUDY_FLAGS:
            if row.name in given:
                return (
                    f"`{row.name}` has an effect in a study alone. Leave --{row.name} "
                    f"out or pass one of --{', --'.join(MAKES_STUDY)}."
                )
    return None
