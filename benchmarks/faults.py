r"""Training that is killed, stopped, cut off and short of disk: what is seen, and lost.

    python benchmarks/faults.py kills                         # 100 kills: half an hour
    python benchmarks/faults.py kills --number 2 --rows topk_16_bits        # a minute
    sudo python benchmarks/faults.py others                   # all other faults
    sudo python benchmarks/faults.py others --faults stop_5 full

Three workers of a small model (dense layers, batch norm, dropout) train 40 steps by
`fit` with `tem_tf.Checkpoint(every=2)` under `tem-tf-run --max_restarts`, and must end
with the bits of the undisturbed run: weights, slots, residuals and batch norm's
statistics of every worker, history. The machinery and what it cannot show:
tests/faults/. What is done is in DIRECTORY/results.jsonl; the same command goes on from
there.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tests.faults import kills

ROWS = (
    *("dense", "identity", "threshold", "topk_16_bits", "momentum_correction"),
    *("adaptive_threshold", "accumulated"),
)


def main() -> None:
    """Disturbs; prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    killing = kinds.add_parser("kills", help="SIGKILL of workers")
    killing.add_argument("--number", type=int, default=100, help="of kills")
    killing.add_argument("--seed", type=int, default=0)
    killing.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    killing.add_argument("--together", type=int, default=5, help="kills of a training")
    for each in (killing,):
        each.add_argument(
            "--directory", type=pathlib.Path, default=pathlib.Path("faults")
        )
        each.add_argument("--json", type=pathlib.Path, help="write a summary here")
    arguments = parser.parse_args()
    matrix = kills.Matrix(
        arguments.directory / "kills",
        kills.plan(arguments.seed, arguments.number, arguments.rows),
        arguments.together,
        say=lambda line: print(line, flush=True),
    )
    matrix.run()
    print(kills.table(matrix.results))
    if arguments.json:
        text = json.dumps(kills.summary(matrix.results), indent=1)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
