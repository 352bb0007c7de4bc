"""What a compressor will ask for in a step, found out without a step.

All workers must ask alike: where one asks once more than another, both wait for ever.
"""

from __future__ import annotations

import tensorflow as tf

from tem_tf.compressors import (
    Compressor,
    Done,
    Gather,
    Heard,
    check_asked,
)
from tem_tf.layout import Segments, unpack


def asking_plan(compressor: Compressor, segments: Segments) -> str:
    """Kinds and shapes of all that is asked for, in words.

    The compressor is asked in a graph that never runs, with its own values for answers.
    """
    said: list[str] = []

    def ask() -> None:
        state = compressor.init(segments)
        corrected = [tf.zeros([segment.size]) for segment in segments]
        step = tf.constant(0, tf.int64)
        shared = compressor.share(state, corrected, step, segments)
        said.append(f"shared {tf.convert_to_tensor(shared).shape}")
        heard: tuple[Heard, ...] = ()
        while True:
            asked = compressor.compress(state, corrected, step, segments, heard)
            check_asked(asked, len(heard))
            if isinstance(asked, Done):
                return
            if isinstance(asked, Gather):
                total = unpack(asked.message.to_dense(), segments)
                said.append(f"Gather of {type(asked.message).__name__}")
            else:
                total = asked.values
                shapes = [f"{value.dtype.name} {value.shape}" for value in total]
                said.append(f"{type(asked).__name__} of [{', '.join(shapes)}]")
            entries = tf.constant(0, tf.int64)
            heard = (*heard, Heard(total, entries, 1, shared, asked.carry))

    tf.function(ask, autograph=False).get_concrete_function()
    return ", ".join(said)
