"""Bits on the wire by density: writes wire_bits.csv, which the simulation reads.

    TEM_TF_NATIVE=built python studies/frontier/wire_bits.py

Messages of `tem_tf.wire.encode`, header included, of a vector as long as the model, at
random places, which take the most bits.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import tensorflow as tf

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tem_studies.written_files import write_table  # noqa: E402
from tem_tf import wire  # noqa: E402
from tem_tf.sparse_gradient import SparseGradient  # noqa: E402
from tem_tf.wire import few_bits  # noqa: E402

TABLE = HERE / "wire_bits.csv"
SIZE = 804_096  # Parameters of the GPT.
VALUE_TYPES = {32: "float32", 4: "int4", 2: "int2", 1: "sign"}
# Half powers of two, from an entry in 65,536 to all.
DENSITIES = [2.0 ** (-half / 2) for half in range(32, -1, -1)]


def bits_per_parameter(count: int, value_bits: int) -> float:
    """Bits of a message of so many entries, by the parameters of the model."""
    random = np.random.default_rng(count)
    places = np.sort(random.choice(SIZE, count, replace=False)).astype(np.int32)
    values = tf.constant(random.laplace(size=count), tf.float32)
    message = SparseGradient(values, tf.constant(places), SIZE)
    value_type = VALUE_TYPES[value_bits]
    words = wire.encode(message, tf.zeros([0]), tf.constant(0), value_type)
    return 32 * int(tf.size(words)) / SIZE


def main() -> None:
    """Writes the table."""
    from configurations import LEVELS

    for bits, levels in LEVELS.items():
        if levels != few_bits.levels(VALUE_TYPES[bits]):
            raise SystemExit(f"configurations.py has other levels of {bits} bits.")
    counts = sorted({max(1, int(SIZE * density + 1e-9)) for density in DENSITIES})
    write_table(
        TABLE,
        [
            {
                "entries": count,
                "density": count / SIZE,
                **{
                    f"bits_{value_bits}": bits_per_parameter(count, value_bits)
                    for value_bits in VALUE_TYPES
                },
            }
            for count in counts
        ],
    )


if __name__ == "__main__":
    main()
