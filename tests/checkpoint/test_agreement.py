"""Replicas that have drifted apart are told of at the next checkpoint."""

import keras
import numpy as np
import pytest

import tem_tf
from tem_tf.checkpoint.agreement import Diverged
from tem_tf.replica_state import values_here
from tests.training import make_strategy


def trained(directory, strategy):
    with strategy.scope():
        weights = keras.Variable(np.zeros(3, np.float32), name="weights")
        optimizer = tem_tf.SparsifiedOptimizer(
            keras.optimizers.SGD(1.0, momentum=0.5), tem_tf.TopK(0.5)
        )
        optimizer.build([weights])
    checkpoint = tem_tf.Checkpoint(directory, every=2)
    checkpoint.begin(None, optimizer)
    return checkpoint, weights, optimizer


def test_equal_replicas_are_saved(tmp_path):
    checkpoint, _, _ = trained(tmp_path, make_strategy(2))
    checkpoint.after(2)
    checkpoint.wait()
    assert (tmp_path / "step-00000002" / "manifest.json").exists()


@pytest.mark.parametrize("what", ["weights", "momentum"])
def test_a_replica_that_differs_is_named_by_variable_and_nothing_is_saved(
    what, tmp_path
):
    checkpoint, weights, optimizer = trained(tmp_path, make_strategy(2))
    variable = weights if what == "weights" else optimizer.variables[-1]
    values_here(variable)[1].assign([0.0, 0.0, 1e-30])
    with pytest.raises(Diverged, match=rf"by step 2: they differ in \S*{what}\."):
        checkpoint.after(2)
    assert not list(tmp_path.glob("step-*"))
