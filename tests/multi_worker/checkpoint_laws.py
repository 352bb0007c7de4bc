"""What each of several real workers does in test_checkpoint.py."""

import os

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_tf.checkpoint.agreement import Diverged
from tests.checkpoint.training import fit


def wrapped():
    return tem_tf.SparsifiedOptimizer(
        keras.optimizers.Adam(0.01),
        tem_tf.TopK(0.1),
        memory=tem_tf.MomentumCorrection(0.5),
        value_dtype="bfloat16",
    )


def frozen():
    """Of 24 steps eleven are dense."""
    return tem_tf.CompressedAdamW(
        0.01, freeze_step=11, compressor=tem_tf.TopK(0.25), value_dtype="int4"
    )


def trained_across_freezing(strategy, directory, kill_at=None):
    """See `trained`."""
    return fit(strategy, frozen, directory, kill_at=kill_at)


def trained(strategy, directory, kill_at=None):
    """See `fit`; None where it was killed."""
    return fit(strategy, wrapped, directory, kill_at=kill_at)


def began(strategy, directory, rate=1.0, on_one=None):
    """How a training begins, with another rate or directory on one worker."""
    keras.utils.clear_session()
    task = strategy.cluster_resolver.task_id
    with strategy.scope():
        weights = keras.Variable(np.zeros(3, np.float32), name="weights")
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(rate), tem_tf.TopK(0.5)
        )
        optimizer.build([weights])
    if on_one == "directory" and task == 1:
        directory = os.path.join(directory, "elsewhere")
    checkpoint = tem_tf.Checkpoint(directory, every=2)
    try:
        checkpoint.begin(None, optimizer)
    except ValueError as error:
        return str(error)
    try:
        checkpoint.after(2)
        if on_one == "weights" and task == 1:
            weights.assign([0.0, 0.0, 1.0])
        checkpoint.after(4)
        checkpoint.end(4)
    except Diverged as error:
        return str(error)
    return checkpoint.step


def stopped(strategy, directory, worker):
    """Steps until all stop, if one worker is asked to at step 3."""
    keras.utils.clear_session()
    with strategy.scope():
        weights = keras.Variable(np.zeros(3, np.float32), name="weights")
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(0.1), tem_tf.TopK(0.5)
        )
        optimizer.build([weights])

    @tf.function
    def train():
        strategy.run(lambda: optimizer.apply([tf.ones(3)], [weights]))

    checkpoint = tem_tf.Checkpoint(directory, every=1000)
    for step in range(checkpoint.begin(None, optimizer), 100):
        train()
        if step == 3 and strategy.cluster_resolver.task_id == worker:
            os.kill(os.getpid(), 10)  # SIGUSR1
        try:
            checkpoint.after(step + 1)
        except tem_tf.Stopped as end:
            return end.step, end.code
    return None
