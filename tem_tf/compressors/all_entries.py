"""The compressor that selects nothing: what is saved is saved by few bits."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from tem_tf.compressors.contract import Sparsifier
from tem_tf.compressors.rules import AtLeast


@keras.saving.register_keras_serializable(package="tem_tf")
@dataclasses.dataclass(frozen=True)
class AllEntries(Sparsifier):
    """Sends every entry, without indices, in the bits that `value_dtype` gives it.

    `SparsifiedOptimizer(inner, AllEntries(), value_dtype="int4")` sends 4.25 bits for
    each entry, and what rounding takes away stays in the residual. In float32 it is
    `Identity` by a gather: slower.

    Example:

    >>> from tem_tf.layout import make_segments
    >>> segments = make_segments(["v"], [(3,)])
    >>> asked = AllEntries().compress((), [tf.constant([0.5, 0.0, -2.0])], 0, segments)
    >>> asked.message.entries().numpy()
    np.int32(3)
    """

    in_kernels = False  # They would list what is simply all.

    def rule(self, state, corrected, step, segments):
        return AtLeast(tf.zeros([]))
