r"""Reads files that were altered at random: each is refused, or gives a value.

    python tests/faults/mutated_files.py --count 10000 --seed 0 [--kinds idx cifar]

Of every kind of file that is read: bits flipped, cut, doubled, joined with itself,
numbers replaced by the largest there are, JSON by other JSON. A reader may raise what
the program shows in one line (`Refusal`), and no other error. It runs in a process of
its own, whose memory is limited: a crash or more memory ends that, and names the file's
number, which makes the same file again.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import pathlib
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

# Beyond what the process has once TensorFlow is loaded: a reader's own bound is 2 GiB
# (bounded_files.MAXIMAL_BYTES), for a file and again for what is made of it.
GIBIBYTES = 5
_NUMBERS = (b"0", b"-1", b"1", b"2147483648", b"9" * 19, b"9" * 4999, b"1e999", b"NaN")
_VALUES = (None, True, -1, 0, 10**17, 1e300, "", "wonderful", [], {}, [[]], {"a": [1]})


def mutated(content: bytes, generator: random.Random) -> bytes:
    """A copy of a file that was altered in one to three places."""
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        content = _altered(content, generator)
    return content


def _altered(content: bytes, generator: random.Random) -> bytes:
    if not content:
        return content
    start, end = sorted(generator.randrange(len(content) + 1) for _ in range(2))
    near = min(end, start + generator.randrange(1, 9))
    kind = generator.randrange(9)
    if kind == 0:
        flipped = bytearray(content)
        for _ in range(generator.randrange(1, 9)):
            flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        return bytes(flipped)
    if kind == 1:
        return content[:start]
    if kind == 2:
        return content[:start] + content[near:]
    if kind == 3:
        return content[:end] + content[start:]
    if kind == 4:
        piece = content[start:near]
        return (
            content[:start] + piece * generator.choice((2, 99, 9999)) + content[near:]
        )
    if kind == 5:
        return content[:start] + generator.randbytes(near - start) + content[near:]
    if kind == 6:  # The header, mostly: sizes are there.
        place = generator.randrange(min(len(content), 200))
        ends = (b"\0", b"\xff", b"\x7f", b"\x80")
        length = generator.choice((1, 2, 4, 8))
        return content[:place] + generator.choice(ends) * length + content[place + 1 :]
    numbers = list(re.finditer(rb"\d+(?:\.\d+)?", content[:20_000]))
    if kind == 7 and numbers:
        one = generator.choice(numbers)
        number = generator.choice(_NUMBERS)
        return content[: one.start()] + number + content[one.end() :]
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(content)
        return json.dumps(_other(value, generator)).encode()
    return content[start:] + content[:start]


def _other(value, generator):
    """Nested JSON with one of its values another."""
    if isinstance(value, dict | list) and value and generator.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = generator.choice(list(keys))
        copied = value.copy()
        if generator.random() < 0.1:
            del copied[key]
        else:
            copied[key] = _other(value[key], generator)
        return copied
    return generator.choice(_VALUES)


# ----------------------------------------------------------------------------- readers


def _array_bytes(save, **arrays) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def make_kinds(scratch: pathlib.Path) -> dict:
    """From a kind to its files and how they are read: (path, contents, read)."""
    import numpy as np

    from tem_studies.comparison import command_line as comparisons
    from tem_studies.comparison import report as comparison_report
    from tem_studies.convex import data, problem, run_files
    from tem_studies.data_parallelism import report
    from tem_studies.data_parallelism.directory import StudyDirectory
    from tem_studies.workloads import (
        character_files,
        compression_settings,
        data_files,
        ratings_files,
        results,
        study_files,
        text_files,
    )
    from tem_studies.workloads.data_places import Source
    from tests.comparison import made_up
    from tests.faults import intact_files

    idx = intact_files.idx()
    svm = b"1 1:0.5 3:2\n-1 2:1e-3 # note\n1 qid:2 1:4\n" * 5
    csv = intact_files.ratings()
    words = b"the cat sat\non the mat <unk>\n" * 4
    place = scratch / "directories"
    trials = intact_files.trials(place / "trials")
    packed = intact_files.trials(place / "packed")
    directory = StudyDirectory(packed)
    first = directory.results()["run-0"]
    directory.save("run-1", {**first, "trial": 1, "steps": 30, "steps_to_result": 30})
    directory.pack()
    laboratory = intact_files.laboratory(place / "laboratory")
    compared = made_up.comparison(
        place / "comparison",
        methods=("none", "hard_threshold"),
        budgets=(0.05,),
        rates=(),
        nseeds=1,
    )
    (place / "comparison").mkdir()
    made_up.write(compared)
    run = next((place / "comparison" / "runs").glob("*"))
    minimum = {name: np.ones(3) for name in problem.Minimum._fields[:1]}
    minimum |= {name: np.float64(1) for name in problem.Minimum._fields[1:]}
    plan = b'compare = ["none"]\nbudgets = [0.1]\n[run]\ndatasource = "digits"\n'

    def read_text(path):
        text_files.load(Source("tokens", "files", str(path.parent)))

    def read_characters(path):
        character_files.load(Source("text", "files", str(path)))

    def read_comparison(path):
        comparison_report.read(compared)

    def read_trials(path):
        report.table(report.read([path.parents[path.name == "result.json"]]))

    def read_laboratory(path):
        run_files.read(laboratory)
        run_files.read_entries(laboratory)

    tokens = scratch / "tokens"
    tokens.mkdir()
    for split in ("train", "valid", "test"):
        (tokens / f"{split}.tokens").write_bytes(words)

    def of(directory, *names):
        return [(directory / name, (directory / name).read_bytes()) for name in names]

    def new(name, content):
        return [(scratch / name, content)]

    def images(path):
        data_files.read_idx(path, 3)

    def svm_data(path):
        data.read_libsvm(path, "data")

    return {
        "idx": (new("images", idx), images),
        "idx.gz": (new("images.gz", gzip.compress(idx)), images),
        "cifar": (new("batch", intact_files.cifar()), data_files.read_cifar10_batch),
        "libsvm": (new("data", svm), svm_data),
        "libsvm.gz": (new("data.gz", gzip.compress(svm)), svm_data),
        "libsvm.bz2": (new("data.bz2", intact_files.bzipped(svm)), svm_data),
        "ratings.csv": (new("ratings.csv", csv), ratings_files.read_ratings),
        "ratings.dat": (
            new("ratings.dat", csv.partition(b"\n")[2].replace(b",", b"::")),
            ratings_files.read_ratings,
        ),
        "tokens": (of(tokens, "train.tokens", "test.tokens"), read_text),
        "characters": (new("input.txt", "Ça va ? Ω\n".encode() * 9), read_characters),
        "counts": (
            new("counts.txt", b"12\n7\n0\n" * 9),
            lambda path: compression_settings.read_counts(str(path)),
        ),
        "steps": (
            of(run, "steps.npz"),
            lambda path: results.read_steps(path.parent),
        ),
        "minimum": (
            new("minimum.npz", _array_bytes(np.savez, **minimum)),
            problem._cached,
        ),
        "plan": (new("plan.toml", plan), comparisons._parsed),
        "json": (
            new("data.json", b'{"checksum of the data": 12}'),
            lambda path: study_files.read_json(path, dict),
        ),
        "comparison": (
            of(place / "comparison", "comparison.json", f"runs/{run.name}/result.json"),
            read_comparison,
        ),
        "trials": (
            of(trials, "study.json", "metaparameters.json", "run-0/result.json"),
            read_trials,
        ),
        "packed": (of(packed, "trials.jsonl"), read_trials),
        "laboratory": (
            of(laboratory, "run.json", "curves.csv", "entries.npy"),
            read_laboratory,
        ),
    }


def work(kinds: list[str], count: int, seed: int, scratch: pathlib.Path) -> None:
    """Reads `count` altered files of each kind; prints a line about each."""
    makers = make_kinds(scratch)
    for kind in kinds:
        for path, content in makers[kind][0]:
            path.write_bytes(content)
            makers[kind][1](path)  # It is read as it was.
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096
    limit = used + (GIBIBYTES << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.simplefilter("ignore")
    for kind in kinds:
        print(json.dumps(_read_altered(kind, *makers[kind], count, seed)), flush=True)


def _read_altered(kind: str, files: list, read, count: int, seed: int) -> dict:
    from tem_studies.refusal import Refusal

    refused, faults = 0, []
    for number in range(count):
        generator = random.Random(f"{kind} {seed} {number}")
        path, content = generator.choice(files)
        path.write_bytes(mutated(content, generator))
        print(kind, number, file=sys.stderr, flush=True)  # For the case of a crash.
        try:
            read(path)
        except Refusal:
            refused += 1
        except Exception as error:
            faults.append(f"{number}: {type(error).__name__}: {str(error)[:200]}")
        path.write_bytes(content)
    return {"kind": kind, "refused": refused, "faults": faults}


def run(kinds: list[str], count: int, seed: int) -> Iterator[dict]:
    """What became of the files of each kind.

    Yields:
        "kind"; "refused", a count; "faults", what went wrong.
    """
    kinds = list(kinds)
    while kinds:
        with (
            tempfile.TemporaryDirectory() as scratch,
            tempfile.TemporaryFile("w+") as said,
        ):
            command = [sys.executable, __file__, "--child", scratch]
            command += ["--count", str(count), "--seed", str(seed), "--kinds", *kinds]
            child = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True
            )
            with child:
                for line in child.stdout:
                    yield json.loads(line)
                    kinds.pop(0)
            if child.returncode != 0:
                said.seek(0)
                last = said.readlines()[-3:]
                fault = f"exit code {child.returncode}: {last}"
                yield {"kind": kinds.pop(0), "refused": 0, "faults": [fault]}


def main() -> None:
    """Reads the command line, prints a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--child", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        work(arguments.kinds, arguments.count, arguments.seed, arguments.child)
        return
    failed = False
    start = time.monotonic()
    for found in run(arguments.kinds, arguments.count, arguments.seed):
        print(
            f"{found['kind']:<12} {arguments.count} files, {found['refused']} refused, "
            f"{len(found['faults'])} faults; {time.monotonic() - start:.0f} s so far",
            flush=True,
        )
        for fault in found["faults"][:5]:
            print(f"    {fault}", flush=True)
        failed = failed or bool(found["faults"])
    sys.exit(failed)


KINDS = (
    *("idx", "idx.gz", "cifar", "libsvm", "libsvm.gz", "libsvm.bz2", "ratings.csv"),
    *(
        "ratings.dat",
        "tokens",
        "characters",
        "counts",
        "steps",
        "minimum",
        "plan",
        "json",
    ),
    *("comparison", "trials", "packed", "laboratory"),
)

if __name__ == "__main__":
    main()
