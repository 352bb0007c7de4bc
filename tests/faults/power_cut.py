r"""Cuts the power of a machine that writes files, and looks at what its disk has.

    python tests/faults/power_cut.py --cuts 50 --seed 0
    python tests/faults/power_cut.py --plain    # files that are renamed without a sync

As root on Linux. A program writes files one after the other on an ext4 of its own, in
an image file, and says which are finished. At a random moment it is stopped, between
two calls of the system, and the image is copied: what the disk holds, without what the
machine has in its memory alone. A copy during which the image changed is made again,
since no moment had it. The copy is mounted, its journal replayed, and every file that
was finished must be there with its content. None may be there by halves.
"""

from __future__ import annotations

import argparse
import collections
import filecmp
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.faults.small_disks import ext4, mounted  # noqa: E402

# Writes files NUMBER.json, in a new directory for every 16, and says each when done.
# Each is written twice: the second write is of what a reader may hold the first of.
PROGRAM = """
import itertools, json, os, pathlib, sys, time
from tem_tf_run import load_part
files = load_part("durable_files")
place = pathlib.Path(sys.argv[1])
def plain(path, text):
    beside = path.with_name(".partial-" + path.name)
    beside.write_text(text)
    os.replace(beside, path)
write = plain if sys.argv[2] == "plain" else files.write_text
for number in itertools.count():
    folder = place / str(number // 16)
    if sys.argv[2] == "plain":
        folder.mkdir(exist_ok=True)
    else:
        files.make_directory(folder)
    for version in (1, 2):
        write(folder / f"{number}.json", json.dumps([number, version] * 200))
        print(number, version, flush=True)
        time.sleep(0.001)  # Else the disk is full before its power is cut.
"""


def run(cuts: int, seed: int, plain: bool = False) -> collections.Counter:
    """What became of finished files: "whole", "missing", "old", "empty" or "torn".

    Args:
        cuts: Moments at which the power is cut, each in a file system of its own.
        seed: Of the moments.
        plain: Whether the files are renamed without a sync, as a proof of the method.
    """
    generator = random.Random(seed)
    found = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(cuts):
            found += _cut(pathlib.Path(scratch), generator.uniform(0.3, 1.5), plain)
    return found


def _cut(scratch: pathlib.Path, seconds: float, plain: bool) -> collections.Counter:
    image, copy = scratch / "disk.img", scratch / "copy.img"
    said = scratch / "said"
    with ext4(image, 32, scratch / "disk") as place, said.open("w") as output:
        kind = "plain" if plain else "durable"
        command = [sys.executable, "-c", PROGRAM, str(place), kind]
        writer = subprocess.Popen(command, stdout=output, cwd=ROOT)
        try:
            while not said.stat().st_size:
                time.sleep(0.01)
            time.sleep(seconds)
            writer.send_signal(signal.SIGSTOP)
            os.waitpid(writer.pid, os.WUNTRACED)
            finished = said.read_text()
            while True:
                shutil.copyfile(image, copy)
                if filecmp.cmp(image, copy, shallow=False):
                    break
        finally:
            writer.kill()
            writer.wait()
    versions = {}
    for line in finished.splitlines():
        number, version = map(int, line.split())
        versions[number] = version
    with mounted(copy, scratch / "after") as place:
        found = collections.Counter(
            _state(place / str(number // 16) / f"{number}.json", version)
            for number, version in versions.items()
        )
        # Files that were being made, too, are whole or not there.
        for path in place.glob("*/[!.]*.json"):
            if int(path.stem) not in versions:
                found[f"unfinished {_state(path, 1)}"] += 1
    copy.unlink()
    return found


def _state(path: pathlib.Path, version: int) -> str:
    if not path.exists():
        return "missing"
    text = path.read_text()
    if not text:
        return "empty"
    number = path.stem
    whole = {f"[{', '.join([number, str(one)] * 200)}]": one for one in (1, 2)}
    if text not in whole:
        return "torn"
    return "whole" if whole[text] >= version else "old"


def main() -> None:
    """Reads the command line, prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    found = run(arguments.cuts, arguments.seed, arguments.plain)
    print(", ".join(f"{count} {state}" for state, count in sorted(found.items())))
    if not arguments.plain:
        sys.exit(bool(set(found) - {"whole", "unfinished whole"}))


if __name__ == "__main__":
    main()
