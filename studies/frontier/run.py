r"""The least bits at nearly dense quality: a GPT, four workers, a search.

    python studies/frontier/run.py PATH_TEXT [--processes 2]   # may be stopped
    python studies/frontier/run.py --report                    # the tables again

PATH_TEXT is tiny Shakespeare's input.txt, or its directory. Every training is one of
main.py, with four virtual workers on one thread: four to nine minutes. results.csv gets
a line after each.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import configurations  # noqa: E402
import results  # noqa: E402
from configurations import STEPS, TUNING_SEED, WORKERS, Configuration  # noqa: E402

RESULTS = HERE / "results.csv"
SETTINGS = (
    f"--datasource=text --arch=gpt --workers={WORKERS} --threads=1 "
    f"--train_iterations={STEPS} --check_interval={STEPS} --sample_characters=0"
)
Trained = tuple[Configuration, int]


def train(trained: Trained, data: str) -> dict[str, Any]:
    """One training: its row of results.csv."""
    one, seed = trained
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, str(ROOT / "main.py"), *SETTINGS.split(), *one.flags()),
            *(f"--seed={seed}", f"--path_data={data}", f"--logdir={folder}"),
        ]
        # It ends with 1 if the training has diverged, which is a result.
        subprocess.run(
            command, env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}, check=False
        )
        result = json.loads(pathlib.Path(folder, "result.json").read_text())
    sent = result["communication"]
    # Of one worker; `dense_bytes` is 4 for a parameter, an exchange and a worker.
    parameters = sent["dense_bytes"] / 4 / WORKERS / sent["steps"]
    diverged = result["status"] == "diverged"
    loss = math.inf if diverged else result["history"][-1]["validation_loss"]
    return {
        "configuration": one,
        "seed": seed,
        "loss": loss,
        "bits": 8 * sent["payload_bytes"] / parameters / WORKERS / STEPS,
        "entries": sent["density"],
        "seconds": round(time.monotonic() - began, 1),
    }


def wanted(rows: Sequence[dict[str, Any]]) -> list[Trained]:
    """What is to be trained next, in this order: a function of what there is."""
    done = {(row["configuration"], row["seed"]) for row in rows}
    listed = [(one, TUNING_SEED) for one in configurations.first()]
    if all(one in done for one in listed):
        listed = configurations.repeats(rows)
    return [one for one in dict.fromkeys(listed) if one not in done]


def main() -> None:
    """Trains what has not been trained, and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path_text", nargs="?")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    rows = results.load(RESULTS)
    if not arguments.report:
        if arguments.path_text is None:
            parser.error("PATH_TEXT is missing")
        with concurrent.futures.ThreadPoolExecutor(arguments.processes) as pool:
            running: dict[concurrent.futures.Future, Trained] = {}
            while True:
                busy = set(running.values())
                left = [one for one in wanted(rows) if one not in busy]
                for one in left[: arguments.processes - len(running)]:
                    running[pool.submit(train, one, arguments.path_text)] = one
                if not running:
                    break
                ended, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in ended:
                    del running[future]
                    rows.append(future.result())
                    results.save(RESULTS, rows)
    print(results.report(rows))


if __name__ == "__main__":
    main()
