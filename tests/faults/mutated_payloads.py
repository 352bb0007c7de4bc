"""Reads payloads that were altered at random: no crash, and both decoders agree.

    python tests/faults/mutated_payloads.py --count 1000000 --compared 20000 --seed 0

First the native decoder alone, with two sanitizers (`tests/wire_fuzz.cc`, which holds
the laws). Then, of each value type, the native operation against TensorFlow's: the same
values, or the same refusal in the same words.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from tem_tf import native, wire  # noqa: E402
from tem_tf.wire import VALUE_DTYPES  # noqa: E402
from tests.wire_messages import message  # noqa: E402

_SIZE, _BLOCK = 400, 2


def build(output: pathlib.Path) -> pathlib.Path:
    """Compiles `wire_fuzz.cc` with its sanitizers."""
    sources = pathlib.Path(native.__file__).parent / "src"
    program = ROOT / "tests" / "wire_fuzz.cc"
    command = ["g++", "-std=c++17", f"-I{sources}", str(program), "-o", str(output)]
    command += ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all"]
    command += ["-fsanitize=address,undefined"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return output


def mutated(payload: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A payload with flipped bits, another length, or an edited header."""
    payload = payload.copy()
    kind = rng.integers(4)
    if kind == 0:
        for _ in range(rng.integers(1, 5)):
            payload[rng.integers(len(payload))] ^= np.int32(1) << rng.integers(31)
    elif kind == 1:
        payload = payload[: rng.integers(len(payload))]
    elif kind == 2:
        more = rng.integers(-(2**31), 2**31, rng.integers(1, 5), np.int32)
        payload = np.concatenate([payload, more])
        payload[1] += rng.integers(0, 2) * len(more)
    else:
        payload[rng.integers(6)] += rng.integers(-2, 3)
    return payload


def compare(library, value_dtype: str, count: int, seed: int) -> tuple[int, list[str]]:
    """Decodes altered payloads natively and in TensorFlow's operations.

    Returns:
        How many were refused, and where the two differ.
    """
    shape = [tf.TensorSpec([None], tf.int32)]

    def decoder(library):
        def decode(payload):
            got = wire.decode(payload, _SIZE, _BLOCK, value_dtype, library=library)
            return got.message.values, got.message.indices, got.block

        return tf.function(decode, input_signature=shape)

    def outcome(decode, payload):
        try:
            return [one.numpy() for one in decode(tf.constant(payload))]
        except tf.errors.InvalidArgumentError as error:
            return re.search(r"cannot read the wire: [^.?]*[.?]", error.message)[0]

    native_one, pure_one = decoder(library), decoder(None)
    rng = np.random.default_rng(seed)
    refused, different = 0, []
    for number in range(count):
        entries = (0, 1, 10, 120, 399)[number % 5]
        indices = np.sort(rng.choice(_SIZE, entries, replace=False))
        sent = message(_SIZE, indices, rng.normal(size=entries))
        block = tf.constant(rng.normal(size=_BLOCK), tf.float32)
        none = tf.constant(0)
        payload = wire.encode(sent, block, none, value_dtype, library=library)
        payload = mutated(payload.numpy(), rng)
        ours, theirs = outcome(native_one, payload), outcome(pure_one, payload)
        refused += isinstance(theirs, str)
        if isinstance(ours, str) or isinstance(theirs, str):
            same = isinstance(ours, type(theirs)) and ours == theirs
        else:
            same = all(
                np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
                for a, b in zip(ours, theirs, strict=True)
            )
        if not same:
            different.append(f"{value_dtype} {number}: {ours} and {theirs}")
    return refused, different


def main() -> None:
    """Reads the command line, prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="sanitized")
    parser.add_argument("--compared", type=int, default=20_000, help="of all types")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        program = build(pathlib.Path(scratch) / "wire_fuzz")
        command = [str(program), str(arguments.count), str(arguments.seed)]
        code = subprocess.run(command).returncode
    print(f"exit code {code} after {time.monotonic() - start:.0f} s", flush=True)
    library = native.library()
    if library is None:
        sys.exit(f"native kernels: {native.status().reason}")
    failed = code != 0
    for value_dtype in VALUE_DTYPES:
        count = arguments.compared // len(VALUE_DTYPES)
        refused, different = compare(library, value_dtype, count, arguments.seed)
        print(
            f"{value_dtype}: {count} payloads, {refused} refused, {len(different)} "
            f"differ; {time.monotonic() - start:.0f} s",
            flush=True,
        )
        print(*different[:5], sep="\n", end="\n" if different else "")
        failed = failed or bool(different)
    sys.exit(failed)


if __name__ == "__main__":
    main()
