r"""Training that is killed, stopped, cut off and short of disk: what is seen, and lost.

    python benchmarks/faults.py kills                              # 100 SIGKILLs
    python benchmarks/faults.py kills --number 2 --rows topk_16_bits
    sudo python benchmarks/faults.py others                        # all other faults
    sudo python benchmarks/faults.py others --faults stop_5 full

Three workers of a small model (dense layers, batch norm, dropout) train 40 steps by
`fit` with `tem_tf.Checkpoint(every=2)` under `tem-tf-run --max_restarts`, and must end
with the bits of the undisturbed run: weights, slots, residuals and batch norm's
statistics of every worker, history. How it is done and what it cannot show:
tests/faults/. What is done is in the directory's results.jsonl; the same command goes
on from there, and `--fresh` begins anew.

`others`: a worker is stopped for 5, 15, 60 s (stop_N); its link is cut for 3, 30 s and
for ever (cut_N, cut; needs root and iproute2); the disk is full, the directory is
removed or becomes read-only for a while, amid a checkpoint (full, removed, read_only;
root); the power fails (power, and unsynced, for which fsync does nothing; root and loop
devices). What this machine does not allow is left out with words.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import faults_links

from tests.faults import checkpoint_power_cut as power_cut
from tests.faults import kills, others

ROWS = (
    *("dense", "identity", "threshold", "topk_16_bits", "momentum_correction"),
    *("adaptive_threshold", "accumulated"),
)
POWER = {"power": True, "unsynced": False}  # Whether files are synced.
FAULTS = (*others.FAULTS, *faults_links.FAULTS, *POWER)


def kill(arguments: argparse.Namespace) -> Any:
    """The matrix of kills; prints a table, and returns a summary."""
    matrix = kills.Matrix(
        arguments.directory,
        kills.plan(arguments.seed, arguments.number, arguments.rows),
        arguments.together,
        say=lambda line: print(line, flush=True),
    )
    matrix.run()
    print(kills.table(matrix.results))
    return kills.summary(matrix.results)


def disturb(arguments: argparse.Namespace) -> Any:
    """All other faults; prints and returns the results."""
    arguments.directory.mkdir(parents=True, exist_ok=True)
    path = arguments.directory / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    results: list[dict[str, Any]] = [json.loads(line) for line in lines]
    if not results:
        folder = _empty(arguments.directory / "undisturbed")
        results = [{"endings": others.undisturbed(folder)}]
        _note(path, results[0])
    wanted = results[0]["endings"]
    for fault in arguments.faults:
        done = [result for result in results if result.get("fault") == fault]
        if done:
            print(_in_words(done[0]))
            continue
        folder = _empty(arguments.directory / "job")
        try:
            if fault in POWER:
                synced = POWER[fault]
                it = power_cut.power_cuts(folder, arguments.seed, wanted, synced)
            else:
                it = {**others.FAULTS, **faults_links.FAULTS}[fault](folder, wanted)
        except PermissionError as error:
            it = {"skipped": str(error)}
        results.append({"fault": fault, **it})
        if "skipped" not in it:  # Perhaps it is allowed the next time.
            _note(path, results[-1])
        print(_in_words(results[-1]), flush=True)
        if it.get("same"):
            shutil.rmtree(folder)
    return [r for r in results if r.get("fault") in arguments.faults]


def _in_words(result: dict[str, Any]) -> str:
    if "images" in result:
        return power_cut.in_words(result)
    return others.in_words(result)


def _note(path: pathlib.Path, result: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def _empty(folder: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def main() -> None:
    """Disturbs; prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(required=True)
    killing = kinds.add_parser("kills", help="SIGKILL of workers")
    killing.set_defaults(run=kill, name="kills")
    killing.add_argument("--number", type=int, default=100, help="of kills")
    killing.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    killing.add_argument("--together", type=int, default=5, help="kills of a training")
    disturbing = kinds.add_parser("others", help="all other faults")
    disturbing.set_defaults(run=disturb, name="others")
    disturbing.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    for each in (killing, disturbing):
        each.add_argument("--seed", type=int, default=0)
        each.add_argument("--directory", type=pathlib.Path, help="default: faults/KIND")
        each.add_argument("--fresh", action="store_true", help="forget what is done")
        each.add_argument("--json", type=pathlib.Path, help="write the result here")
    arguments = parser.parse_args()
    if arguments.directory is None:
        arguments.directory = pathlib.Path("faults", arguments.name)
    if arguments.fresh:
        (arguments.directory / "results.jsonl").unlink(missing_ok=True)
    result = arguments.run(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
