"""Which of a step's outputs are reduced, and by what, in one process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tem_tf.batch_logs import BatchLogs, ReadyLog
from tests.training import make_strategy

ALONE = tf.distribute.OneDeviceStrategy("CPU:0")


class Model:
    """What is asked of a model: its metrics' names."""

    def get_metrics_result(self):
        return {"loss": tf.constant(0.0), "accuracy": tf.constant(0.0)}


def reduced(outputs, mode="global", strategy=ALONE):
    return BatchLogs(mode).reduced(strategy, strategy.run, Model(), outputs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_mean_has_the_dtype_of_its_values(dtype):
    log = reduced(tf.constant([1, 2, 6], dtype))
    assert (log.mean.dtype.name, float(log.mean)) == (dtype, 3.0)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_the_mean_of_integers_is_a_float(dtype):
    log = reduced([tf.constant([1, 2], dtype)])[0]
    assert (log.mean.dtype, float(log.mean)) == (tf.float64, 1.5)


def test_numbers_of_python_and_variables_are_reduced_too():
    outputs = {
        "number": 2.5,
        "count": 3,
        "keras": keras.Variable(0.25),
        "tf": [tf.Variable([1.0, 2.0])],
    }
    logs = reduced(outputs)
    means = keras.tree.map_structure(lambda log: float(log.mean), logs)
    assert means == {"number": 2.5, "count": 3.0, "keras": 0.25, "tf": [1.5]}


@pytest.mark.parametrize(
    "value",
    [
        tf.ones([2, 2]),
        tf.constant("text"),
        tf.constant(1j),
        tf.constant(True),
        True,
        None,
        tf.ragged.constant([[1.0], [2.0, 3.0]]),
        tf.sparse.from_dense([1.0, 0.0]),
    ],
    ids=["matrix", "text", "complex", "truth", "bool", "none", "ragged", "sparse"],
)
def test_other_outputs_are_left_to_keras(value):
    logs = reduced({"loss": tf.constant(1.0), "other": value})
    assert isinstance(logs["loss"], ReadyLog)
    assert logs["other"] is value
    outputs = {"other": value}
    assert reduced(outputs) is outputs


def test_several_devices_of_a_process_are_left_to_keras_unless_logs_are_local():
    strategy = make_strategy(2)

    def step():
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        rank = tf.cast(rank, tf.float32)
        return {"loss": rank, "accuracy": tf.range(1.0 + rank)}

    outputs = strategy.run(step)
    assert reduced(outputs, "global", strategy) is outputs
    own = reduced(outputs, "local", strategy)
    # (0 + 1) / 2, and (0 + 0 + 1) / 3.
    np.testing.assert_allclose(own["loss"].mean, 1 / 2)
    np.testing.assert_allclose(own["accuracy"].mean, 1 / 3)
    del outputs["loss"]  # Keras does not take the metrics' results then.
    assert reduced(outputs, "local", strategy) is outputs


def test_what_xla_compiles_is_left_to_keras_unless_logs_are_local():
    kinds = []

    @tf.function(jit_compile=True)
    def step(mode):
        outputs = {"loss": tf.constant(1.0), "accuracy": tf.constant(2.0)}
        logs = reduced(outputs, mode)
        kinds.append(type(logs["loss"]) is ReadyLog)

    step("global")
    step("local")
    assert kinds == [False, True]
