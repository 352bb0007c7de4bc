"""What tracing a step costs: AutoGraph converts the user's functions, none of ours."""

import threading
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf


class Witness(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that notes by which converted functions it is asked for."""

    def __init__(self):
        super().__init__()
        self.seen: list[list[str]] = []
        self._lock = threading.Lock()

    def __call__(self, step):
        converted = [
            frame.name
            for frame in traceback.extract_stack()
            if "__autograph_generated_file" in frame.filename
        ]
        with self._lock:
            self.seen.append(converted)
        return 0.1

    def get_config(self):
        return {}


def sparsified(rate):
    return tem_tf.SparsifiedOptimizer(keras.optimizers.Adam(rate), tem_tf.TopK(0.5))


def skipping(rate):
    inner = keras.optimizers.SGD(rate)
    return tem_tf.SparsifiedOptimizer(inner, tem_tf.TopK(0.5), nonfinite="skip")


def local(rate):
    return tem_tf.LocalUpdates(keras.optimizers.SGD(rate), local_steps=2)


def momentum(rate):
    return tem_tf.CompressedAdamW(rate, freeze_step=2)


@pytest.mark.parametrize("make", [sparsified, skipping, local, momentum])
@pytest.mark.parametrize("method", ["apply", "apply_gradients"])
def test_no_function_of_ours_is_converted(make, method):
    rate = Witness()
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        weights = tf.Variable(np.ones(8, np.float32))
        optimizer = make(rate)
        optimizer.build([weights])

    # No branch within: AutoGraph makes a function of each.
    if method == "apply":

        def update(gradient):
            optimizer.apply([gradient], [weights])

    else:

        def update(gradient):
            optimizer.apply_gradients([(gradient, weights)])

    @tf.function
    def step():
        def of_replica():
            gradient = tf.ones(8)
            update(gradient)

        strategy.run(of_replica)

    rate.seen.clear()
    step()
    assert rate.seen
    names = {name.removeprefix("tf__") for seen in rate.seen for name in seen}
    assert names <= {"step", "of_replica", "update"}
