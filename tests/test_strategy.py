"""What the strategy refuses before it waits for anybody, and what it adds up."""

import importlib
import inspect
import json
import socket
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import _collective_internals, _internals, strategy
from tem_tf.cluster import Task
from tem_tf.instance_keys import Use, new_owner


@pytest.mark.skipif(sys.platform == "win32", reason="binds a POSIX socket")
def test_a_port_in_use_is_refused(monkeypatch):
    with socket.socket() as held:
        held.bind(("", 0))
        held.listen()
        port = held.getsockname()[1]
        cluster = {"worker": [f"127.0.0.1:{port}", "127.0.0.1:1"]}
        task = {"type": "worker", "index": 0}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        with pytest.raises(OSError, match=f"port {port} cannot be opened"):
            tem_tf.MultiWorkerMirroredStrategy()


def test_one_process_agrees_with_itself():
    tem_tf.require_same_on_all_workers(tf.distribute.get_strategy(), {"seed": 1})


def test_dense_reductions_and_gathers_are_left_to_the_dense_ops():
    ops = tem_tf.SparsifiedCrossDeviceOps()
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=ops)

    def values():
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.cast(rank, tf.float32) + tf.constant([1.0, 2.0])

    per_replica = mirrored.run(values)
    summed = mirrored.reduce("SUM", per_replica, axis=None)
    np.testing.assert_array_equal(summed, [3.0, 5.0])
    gathered = mirrored.gather(per_replica, axis=0)
    np.testing.assert_array_equal(gathered, [1.0, 2.0, 2.0, 3.0])


def test_the_exchange_needs_a_replica_context():
    ops = tem_tf.SparsifiedCrossDeviceOps()
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with mirrored.scope(), pytest.raises(RuntimeError, match="in replica context"):
        ops.gather_payloads(tf.constant([1]), Use(new_owner()))


def test_payloads_of_unequal_length_are_padded_and_kept_in_replica_order():
    ops, use = tem_tf.SparsifiedCrossDeviceOps(), Use(new_owner())
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1", "CPU:2"])

    @tf.function
    def gather():
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        return ops.gather_payloads(tf.range(1, 2 + rank), use)

    gathered = mirrored.run(gather)
    for rows in mirrored.experimental_local_results(gathered.rows):
        np.testing.assert_array_equal(rows, [[1, 0, 0], [1, 2, 0], [1, 2, 3]])
    # Within a process nothing travels, so nothing is padded and no size is needed.
    for count in (gathered.traffic.padding, gathered.traffic.overflows):
        assert set(map(int, mirrored.experimental_local_results(count))) == {0}


def test_keras_asks_for_reductions_in_the_functions_that_we_know():
    """`_internals.asked_by_keras` goes by their names; held under every Keras."""
    trainer = importlib.import_module("keras.src.backend.tensorflow.trainer")
    assert keras.Model._maybe_symbolic_build.__module__ == trainer.__name__
    batch = inspect.getsource(keras.Model._maybe_symbolic_build)
    log = inspect.getsource(trainer.reduce_per_replica)
    assert batch.count("distribute_strategy.reduce(") == 1
    assert "def _reduce(v)" in log
    assert log.count("strategy.reduce(") == 2  # one of them with axis=0
    assert inspect.getsource(trainer).count("strategy.reduce(") == 3


def test_keras_runs_and_logs_a_step_in_the_function_that_we_know():
    """`_internals.model_of_step` goes by its name; held under every Keras.

    What it makes of the outputs goes to nobody but `reduce_per_replica`, and an epoch's
    logs come from the metrics if names are theirs.
    """
    trainer = importlib.import_module("keras.src.backend.tensorflow.trainer")
    make = inspect.getsource(trainer.TensorFlowTrainer._make_function)
    _, step = make.split("def one_step_on_data(data):")
    body = [line.strip() for line in step.splitlines()][2:8]
    assert body[:3] == [
        "outputs = self.distribute_strategy.run(step_function, args=(data,))",
        "outputs = reduce_per_replica(",
        "outputs,",
    ]
    assert step.count("distribute_strategy.run(") == 1
    for end in (trainer.TensorFlowTrainer.fit, trainer.TensorFlowTrainer.evaluate):
        assert "self._get_metrics_result_or_logs(logs)" in inspect.getsource(end)
    ends = inspect.getsource(keras.Model._get_metrics_result_or_logs)
    assert "metric_logs = self.get_metrics_result()" in ends
    assert "set(logs.keys()) == set(" in ends


def test_nobody_else_is_taken_for_keras():
    asked = []

    class Asked:
        def reduce(self):
            asked.append(_internals.asked_by_keras())

        def run(self):
            asked.append(_internals.model_of_step())

    def _reduce(v):
        v.reduce()

    def _maybe_symbolic_build(v):
        v.reduce()

    def one_step_on_data(self):
        self.run()

    _reduce(Asked())
    _maybe_symbolic_build(Asked())
    one_step_on_data(Asked())
    Asked().reduce()
    Asked().run()
    assert asked == [None] * 5


def test_batch_logs_of_an_unknown_kind_are_refused():
    with pytest.raises(ValueError) as error:
        tem_tf.MultiWorkerMirroredStrategy(batch_logs="none")
    assert str(error.value) == (
        '`batch_logs` must be "global", "local" or None. '
        "Received: batch_logs='none'. "
        'Callbacks see means over all workers with "global".'
    )


def test_a_process_whose_tensorflow_failed_to_join_is_told_to_start_anew(monkeypatch):
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    monkeypatch.setattr(strategy, "_START", {})
    monkeypatch.setattr(strategy.rendezvous, "meet", lambda *_: None)
    runs = iter([False, True])
    monkeypatch.setattr(_collective_internals, "server_runs", lambda: next(runs))

    def fail(*_):
        raise tf.errors.UnknownError(None, None, "no server")

    monkeypatch.setattr(tf.distribute.MultiWorkerMirroredStrategy, "__init__", fail)
    with pytest.raises(tf.errors.UnknownError, match="no server"):
        tem_tf.MultiWorkerMirroredStrategy()
    with pytest.raises(RuntimeError, match="no server. Start the process anew"):
        tem_tf.MultiWorkerMirroredStrategy()


def test_a_process_that_is_in_a_cluster_cannot_join_another(monkeypatch):
    known = Task({"worker": ("127.0.0.1:1", "127.0.0.1:2")}, "worker", 0, "the test")
    monkeypatch.setattr(strategy, "_START", {"task": known})
    monkeypatch.setattr(_collective_internals, "server_runs", lambda: True)
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:3"]}
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    with pytest.raises(ValueError, match="belongs to one cluster for life"):
        tem_tf.MultiWorkerMirroredStrategy()
