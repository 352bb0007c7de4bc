"""The cluster's description is checked before anybody waits for anybody."""

import json
import socket
import sys

import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf import strategy

CLUSTER = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}


def tf_config(monkeypatch, cluster=CLUSTER, kind="worker", index=0):
    config = {"cluster": cluster, "task": {"type": kind, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))


def test_without_tf_config_this_process_is_alone_and_chief(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert strategy.read_tf_config() is None
    assert strategy.is_chief()
    monkeypatch.setenv("TF_CONFIG", " ")
    assert strategy.read_tf_config() is None
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert strategy.read_tf_config() is None


@pytest.mark.parametrize(("index", "chief"), [(0, True), (1, False), ("1", False)])
def test_tf_config_names_this_task(monkeypatch, index, chief):
    tf_config(monkeypatch, index=index)
    task = strategy.read_tf_config()
    assert task["index"] == int(index)
    assert task["address"] == f"127.0.0.1:{int(index) + 1}"
    assert strategy.is_chief() is chief


def test_a_chief_task_is_chief_and_worker_0_then_is_not(monkeypatch):
    cluster = {"chief": ["127.0.0.1:3"], **CLUSTER}
    tf_config(monkeypatch, cluster, "chief", 0)
    assert strategy.is_chief()
    tf_config(monkeypatch, cluster, "worker", 0)
    assert not strategy.is_chief()


@pytest.mark.parametrize("text", ["{", "worker:0", "{'cluster': {}}"])
def test_tf_config_that_is_not_json_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="`TF_CONFIG` must be JSON"):
        strategy.read_tf_config()


@pytest.mark.parametrize("text", ["[1]", '"worker"', "3"])
def test_tf_config_that_is_no_object_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="`TF_CONFIG` must hold an object"):
        strategy.read_tf_config()


@pytest.mark.parametrize("index", [2, -1, None, 0.5, "x", True])
def test_an_index_out_of_range_is_refused(monkeypatch, index):
    tf_config(monkeypatch, index=index)
    with pytest.raises(
        ValueError, match=r"`task.index` in TF_CONFIG must be in \[0, 2"
    ):
        strategy.read_tf_config()


@pytest.mark.parametrize("kind", ["evaluator", "ps", None, "chief"])
def test_a_task_that_is_not_in_the_cluster_is_refused(monkeypatch, kind):
    tf_config(monkeypatch, kind=kind)
    with pytest.raises(ValueError, match="`task.type` in TF_CONFIG must be"):
        strategy.read_tf_config()


def test_cluster_that_is_a_list_is_refused(monkeypatch):
    tf_config(monkeypatch, cluster=["127.0.0.1:1"])
    with pytest.raises(ValueError, match="`cluster` and `task` in TF_CONFIG"):
        strategy.read_tf_config()


@pytest.mark.parametrize("address", ["localhost", "localhost:99999", "localhost:0"])
def test_an_address_without_port_is_refused(monkeypatch, address):
    tf_config(monkeypatch, cluster={"worker": [address, "other:1"]})
    with pytest.raises(ValueError, match='must be "host:port"'):
        tem_tf.MultiWorkerMirroredStrategy()


@pytest.mark.skipif(sys.platform == "win32", reason="binds a POSIX socket")
def test_a_port_in_use_is_refused(monkeypatch):
    with socket.socket() as held:
        held.bind(("", 0))
        held.listen()
        port = held.getsockname()[1]
        tf_config(monkeypatch, {"worker": [f"127.0.0.1:{port}", "127.0.0.1:1"]})
        with pytest.raises(OSError, match=f"port {port} cannot be opened"):
            tem_tf.MultiWorkerMirroredStrategy()


def test_one_process_agrees_with_itself():
    strategy.require_same_on_all_workers(tf.distribute.get_strategy(), {"seed": 1})


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
        ops.gather_payloads(tf.constant([1]))


def test_payloads_of_unequal_length_are_padded_and_kept_in_replica_order():
    ops = tem_tf.SparsifiedCrossDeviceOps()
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1", "CPU:2"])

    @tf.function
    def gather():
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        return ops.gather_payloads(tf.range(1, 2 + rank))

    gathered = mirrored.run(gather)
    for rows in mirrored.experimental_local_results(gathered.rows):
        np.testing.assert_array_equal(rows, [[1, 0, 0], [1, 2, 0], [1, 2, 3]])
    # Within a process nothing travels, so nothing is padded and no size is needed.
    for count in (gathered.traffic.padding, gathered.traffic.overflows):
        assert set(map(int, mirrored.experimental_local_results(count))) == {0}
