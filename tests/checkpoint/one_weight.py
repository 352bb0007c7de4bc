"""A training that is over in a blink, in a loop of its own."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import tem_tf


class OneWeight:
    """A training of one weight, whose step needs no graph."""

    def __init__(self, directory):
        keras.utils.clear_session()  # The same names in each.
        self.weight = keras.Variable(np.zeros(3, np.float32))
        self.optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.5), tem_tf.HardThreshold(1.5)
        )
        self.optimizer.build([self.weight])
        self.checkpoint = tem_tf.Checkpoint(directory, every=1)
        self.start = self.checkpoint.begin(None, self.optimizer)

    def run(self, steps):
        """Trains up to a step; returns the weight and all residuals."""
        for step in range(self.start, steps):
            gradient = tf.constant([1.0, 2.0, 3.0]) / (step + 1)
            self.optimizer.apply([gradient], [self.weight])
            self.checkpoint.after(step + 1)
        self.checkpoint.wait()
        kept = self.optimizer.aggregator.state.values()
        residuals = [{k: v.tobytes() for k, v in each.items()} for each in kept]
        return self.weight.numpy().tobytes(), residuals
