"""The trainings that are disturbed: what each of them keeps between two steps."""

from __future__ import annotations

import keras

import tem_tf


def _wrapped(compressor, **options) -> keras.optimizers.Optimizer:
    inner = keras.optimizers.Adam(0.01)
    return tem_tf.SparsifiedOptimizer(inner, compressor, **options)


ROWS = {
    "dense": lambda: keras.optimizers.Adam(0.01),
    "identity": lambda: _wrapped(tem_tf.Identity()),
    "threshold": lambda: _wrapped(tem_tf.HardThreshold(0.01)),
    "topk_16_bits": lambda: _wrapped(tem_tf.TopK(0.1), value_dtype="bfloat16"),
    "momentum_correction": lambda: _wrapped(
        tem_tf.TopK(0.1), memory=tem_tf.MomentumCorrection(0.5)
    ),
    "adaptive_threshold": lambda: _wrapped(tem_tf.AdaptiveThreshold(0.1, steps=40)),
    "accumulated": lambda: _wrapped(tem_tf.TopK(0.1), accumulate_steps=3),
}
