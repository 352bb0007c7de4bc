"""Trainings of twelve steps, of which every run must have the same bits.

    python -m tests.same_bits THREADS ROWS OUT

runs each row twice, with so many threads, and writes digests: a process for itself,
since threads can only be set at its start. ROWS is `few`, or a compressor's name.
"""

import hashlib
import itertools
import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import tem_tf

STEPS = 12
SHAPES = ((400, 500), (90_000,), (100, 100), (7,))  # Some 300,000 entries.

COMPRESSORS = {
    "identity": tem_tf.Identity(),
    "all_entries": tem_tf.AllEntries(),
    "hard_threshold": tem_tf.HardThreshold(1.0),
    "hard_threshold_ramp": tem_tf.HardThreshold(tem_tf.Ramp(2.0, 0.5, steps=6)),
    "topk_layer": tem_tf.TopK(density=0.05),
    "topk_model": tem_tf.TopK(density=0.05, scope="model"),
    "topk_schedule": tem_tf.TopKSchedule([5000, 0, 300]),
    "random_k": tem_tf.RandomK(0.05, seed=1),
    "accordion": tem_tf.Accordion(0.02, 0.1, interval_steps=4),
    "adaptive_threshold": tem_tf.AdaptiveThreshold(0.05, steps=STEPS),
    "powersgd": tem_tf.PowerSGD(rank=2),
    "sign": tem_tf.Sign(),
}
MEMORIES = {
    "no_memory": None,
    "error_feedback": tem_tf.ErrorFeedback(),
    "decaying": tem_tf.DecayingErrorFeedback(0.9),
    "dgc": tem_tf.MomentumCorrection(0.9),
    "dgc_unmasked": tem_tf.MomentumCorrection(0.9, masking=False),
    "ef21": tem_tf.EF21(),
    "ef21_sgdm": tem_tf.EF21SGDM(0.3),
}
VALUE_DTYPES = ("float32", "bfloat16", "float16", "int8", "int4", "int2", "sign")
CLIPPED = ("accordion", "sign")  # `local_clipnorm` is given with these.
# These have float32 alone.
_WHOLE = ("identity", "powersgd", "sign")

ROWS = [
    (compressor, memory, value_dtype)
    for compressor, memory, value_dtype in itertools.product(
        COMPRESSORS, MEMORIES, VALUE_DTYPES
    )
    if value_dtype == "float32" or compressor not in _WHOLE
]
# Each compressor, memory and value type once or more.
FEW = [
    ("hard_threshold", "error_feedback", "float32"),
    ("topk_layer", "error_feedback", "float32"),
    ("adaptive_threshold", "dgc", "bfloat16"),
    ("adaptive_threshold", "error_feedback", "float32"),
    ("identity", "dgc", "float32"),
    ("topk_model", "ef21_sgdm", "float16"),
    ("random_k", "ef21", "float32"),
    ("accordion", "dgc_unmasked", "float16"),
    ("powersgd", "decaying", "float32"),
    ("sign", "ef21", "float32"),
    ("topk_schedule", "decaying", "float32"),
    ("all_entries", "error_feedback", "sign"),
    ("hard_threshold", "error_feedback", "int2"),
    ("random_k", "dgc", "int4"),
    ("topk_model", "ef21", "int8"),
    ("hard_threshold_ramp", "no_memory", "float32"),
]


class Training:
    """One row's: `run` starts anew and returns a digest of weights and residuals.

    Args:
        row: Names of a compressor, a memory and a value type, or a memory itself.
        strategy: `tf.distribute.Strategy`.
        shapes: Of the variables.
    """

    def __init__(self, row, strategy=None, shapes=SHAPES):
        compressor, memory, value_dtype = row
        self._strategy = strategy or tf.distribute.get_strategy()
        rng = np.random.default_rng(0)
        self._start = [rng.normal(size=s).astype(np.float32) for s in shapes]
        with self._strategy.scope():
            self._variables = [keras.Variable(w) for w in self._start]
            self.optimizer = tem_tf.SparsifiedOptimizer(
                keras.optimizers.SGD(0.1),
                COMPRESSORS[compressor],
                MEMORIES.get(memory, memory),
                dense_below=10,
                value_dtype=value_dtype,
                local_clipnorm=100.0 if compressor in CLIPPED else None,
            )
            self.optimizer.build(self._variables)
        # One graph for all runs.
        self.steps = tf.function(self._steps).get_concrete_function(tf.constant(1))

    def run(self, steps=STEPS):
        """Hexadecimal digits of this worker's weights and what it keeps."""
        for variable, start in zip(self._variables, self._start, strict=True):
            variable.assign(start)
        self.optimizer.iterations.assign(0)
        self.optimizer.forget()
        self.steps(tf.constant(steps))
        digest = hashlib.sha256()
        weights, kept = self._strategy.run(self._read)
        for tensor in [*weights, *kept]:
            (own,) = self._strategy.experimental_local_results(tensor)
            digest.update(own.numpy().tobytes())
        return digest.hexdigest()

    def _steps(self, count):
        for _ in tf.range(count):
            self._strategy.run(self._step)

    def _step(self):
        """A gradient that is a sum in the graph, of two terms, and hangs on weights."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        shift = tf.cast(replica, tf.float32)
        gradients = [
            tf.sin(3.0 * v + shift) + tf.cos(7.0 * v * v) for v in self._variables
        ]
        self.optimizer.apply(gradients, self._variables)

    def _read(self):
        state = self.optimizer.aggregator.state
        weights = [tf.convert_to_tensor(v) for v in self._variables]
        # Not what is only shown: metrics' last digit hangs on the number of threads.
        names = [n for n in sorted(state._variables) if not n.startswith("metrics/")]
        return weights, [state.read(name) for name in names]


def rows_of(name):
    """`few`, or all rows of a compressor."""
    return FEW if name == "few" else [row for row in ROWS if row[0] == name]


def digests(rows, strategy=None):
    """Of each row two runs, which differ from their start."""
    found = []
    for row in rows:
        training = Training(row, strategy)
        found.append([training.run(), training.run()])
        assert training.run(steps=0) not in found[-1], row
    return found


def main():
    threads, rows, out = sys.argv[1:]
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(int(threads))
    found = digests(rows_of(rows))
    pathlib.Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
