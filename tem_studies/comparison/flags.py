"""The flags of a comparison of compressors."""

from __future__ import annotations

from tem_studies.comparison.methods import METHODS
from tem_studies.data_parallelism.flags import STUDY_FLAGS
from tem_studies.flag_row import FlagRow
from tem_studies.workloads.flags import (
    OF_CHECKPOINTS,
    OF_LOGDIR,
    OF_SEVERAL_PROCESSES,
)

_METHODS = ", ".join(
    f"{name} ({method.label}{f'; needs --{method.takes[0]}' if method.takes else ''})"
    for name, method in METHODS.items()
)

COMPARISON_FLAGS = (
    FlagRow(
        "compare",
        str,
        None,
        f"Methods between commas, at least two: {_METHODS}; or module:Class, a "
        "compressor of your own, at its own volume. Or a JSON or TOML file with these "
        "flags by name, and those of a run under run. Or a study directory, to make "
        "its report again. --learning_rate is the rate that all share beside tuned "
        "ones; --seed the first reported seed; --study_dir, --parallel_trials and "
        "--no_load_cache are as in a study.",
    ),
    FlagRow(
        "budgets",
        float,
        None,
        "Volumes of a whole run, as densities in (0, 1): the bytes of so many entries "
        "at random places in every step. Every method is made to send as much.",
        takes_several=True,
    ),
    FlagRow(
        "rates",
        float,
        None,
        "Learning rates, rising on a log grid, from which each method at each budget "
        "gets its own; a winner at an edge widens the grid. Without it: "
        "--learning_rate for all.",
        takes_several=True,
    ),
    FlagRow("nseeds", int, 5, "Reported seeds; fewer than five carry no claim."),
    FlagRow(
        "tuning_seeds",
        int,
        1,
        "Seeds, none of them reported, on which thresholds and rates are chosen.",
    ),
    FlagRow(
        "baseline",
        str,
        None,
        "Method that differences are shown to. Without it: the first.",
    ),
    FlagRow(
        "margin",
        float,
        None,
        "Difference of quality that counts as none; of perplexity, as a share of the "
        "baseline's. Without it: 0.003 of accuracy and of HR@10, 0.01 of perplexity.",
    ),
)

# Flags of a study of trials that a comparison has, too.
SHARED_WITH_STUDY = ("study_dir", "parallel_trials", "no_load_cache")


def misplaced(given: set[str]) -> str | None:
    """What is wrong with flags that belong to comparisons alone, or not to them.

    Args:
        given: Names of the flags on the command line.
    """
    if "compare" in given:
        for name in OF_LOGDIR:
            if name in given:
                return (
                    f"`{name}` has no effect in a comparison: its directory is "
                    f"--study_dir, where what is finished stays. Leave --{name} out."
                )
        for name in OF_SEVERAL_PROCESSES:
            if name in given:
                return (
                    f"`{name}` has no effect in a comparison, whose runs are processes "
                    f"without a cluster. Leave --{name} out."
                )
        for name in OF_CHECKPOINTS:
            if name in given:
                return (
                    f"`{name}` has no effect in a comparison, whose runs keep no "
                    f"checkpoints. Leave --{name} out."
                )
        for row in STUDY_FLAGS:
            if row.name in given and row.name not in SHARED_WITH_STUDY:
                return (
                    f"`{row.name}` has no effect in a comparison. Leave --{row.name} "
                    "out."
                )
        return None
    for row in COMPARISON_FLAGS:
        if row.name in given:
            return (
                f"`{row.name}` has an effect in a comparison alone. Leave --{row.name} "
                "out or pass --compare."
            )
    return None
