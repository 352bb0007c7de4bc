"""Runs the study of README.md and makes its report.

    python docs/studies/compressors/run.py PATH_DATA [STUDY_DIR] [FLAGS]

PATH_DATA holds Fashion-MNIST/; STUDY_DIR (default: studies/compressors) receives the
runs and, in report/, tables and figures. Finished runs are not run again, so it may be
stopped and started at any time, and on several machines that share STUDY_DIR. FLAGS go
to main.py; --parallel_trials 2 is there already.
"""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]


def command(arguments: list[str]) -> list[str]:
    """The command line of the study."""
    flags = [a for a in arguments if a.startswith("-")]
    first = arguments.index(flags[0]) if flags else len(arguments)
    data, *place = arguments[:first]
    directory = place[0] if place else str(ROOT / "studies" / "compressors")
    line = [sys.executable, "main.py", "--compare", str(HERE / "plan.toml")]
    line += ["--path_data", str(pathlib.Path(data).resolve())]
    line += ["--study_dir", str(pathlib.Path(directory).resolve())]
    return [*line, "--parallel_trials", "2", *arguments[first:]]


def main() -> None:
    """Starts main.py."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    raise SystemExit(subprocess.run(command(sys.argv[1:]), cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
