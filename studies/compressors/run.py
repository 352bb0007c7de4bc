"""Runs one study of README.md and makes its report.

    python studies/compressors/run.py WORKLOAD PATH_DATA [STUDY_DIR] [FLAGS]

WORKLOAD is simple_cnn, lstm or neumf: the plan of that name. PATH_DATA holds
Fashion-MNIST/, shakespeare/ or ml-latest-small/; STUDY_DIR (default:
studies/compressors/WORKLOAD) receives the runs and, in report/, tables and figures.
Finished runs are not run again, so it may be stopped and started at any time, and on
several machines that share STUDY_DIR. FLAGS go to main.py; --parallel_trials 2 is there
already.
"""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
# Where below PATH_DATA the data of a workload is looked for.
WORKLOADS = {"simple_cnn": "", "lstm": "shakespeare", "neumf": ""}


def command(arguments: list[str]) -> list[str]:
    """The command line of one study."""
    flags = [a for a in arguments if a.startswith("-")]
    first = arguments.index(flags[0]) if flags else len(arguments)
    workload, data, *place = arguments[:first]
    directory = place[0] if place else str(ROOT / "studies" / "compressors" / workload)
    line = [sys.executable, "main.py", "--compare", str(HERE / f"{workload}.toml")]
    line += ["--path_data", str(pathlib.Path(data, WORKLOADS[workload]).resolve())]
    line += ["--study_dir", str(pathlib.Path(directory).resolve())]
    return [*line, "--parallel_trials", "2", *arguments[first:]]


def main() -> None:
    """Starts main.py."""
    arguments = sys.argv[1:]
    named = len(arguments) > 1 and not arguments[1].startswith("-")
    if not named or arguments[0] not in WORKLOADS:
        raise SystemExit(__doc__)
    raise SystemExit(subprocess.run(command(arguments), cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
