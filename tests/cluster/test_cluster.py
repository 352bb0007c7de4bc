"""Which process of which cluster this is; every wrong description is refused."""

import json

import pytest
import tensorflow as tf

import tem_tf
from tem_tf import cluster

CLUSTER = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}


def tf_config(monkeypatch, cluster=CLUSTER, kind="worker", index=0):
    config = {"cluster": cluster, "task": {"type": kind, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))


def test_without_tf_config_this_process_is_alone_and_chief(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert cluster.find_task() is None
    assert tem_tf.is_chief()
    monkeypatch.setenv("TF_CONFIG", " ")
    assert cluster.find_task() is None
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert cluster.find_task() is None


@pytest.mark.parametrize(("index", "chief"), [(0, True), (1, False), ("1", False)])
def test_tf_config_names_this_task(monkeypatch, index, chief):
    tf_config(monkeypatch, index=index)
    task = cluster.find_task()
    assert task.index == int(index)
    assert task.address == f"127.0.0.1:{int(index) + 1}"
    assert tem_tf.is_chief() is chief


def test_a_chief_task_is_chief_and_worker_0_then_is_not(monkeypatch):
    with_chief = {"chief": ["127.0.0.1:3"], **CLUSTER}
    tf_config(monkeypatch, with_chief, "chief", 0)
    assert tem_tf.is_chief()
    tf_config(monkeypatch, with_chief, "worker", 0)
    assert not tem_tf.is_chief()


@pytest.mark.parametrize("text", ["{", "worker:0", "{'cluster': {}}"])
def test_tf_config_that_is_not_json_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="`TF_CONFIG` must be JSON"):
        cluster.find_task()


@pytest.mark.parametrize("text", ["[1]", '"worker"', "3"])
def test_tf_config_that_is_no_object_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="`TF_CONFIG` must hold an object"):
        cluster.find_task()


@pytest.mark.parametrize(
    "config", [{"worker": ["a:1"]}, {"task": {"type": "worker", "index": 0}}]
)
def test_a_tf_config_without_a_cluster_is_refused(monkeypatch, config):
    """Each worker would train alone, and be chief."""
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ValueError, match="must have a `cluster` beside its `task`"):
        cluster.find_task()


@pytest.mark.parametrize("index", [2, -1, None, 0.5, "x", True])
def test_an_index_out_of_range_is_refused(monkeypatch, index):
    tf_config(monkeypatch, index=index)
    with pytest.raises(
        ValueError, match=r"`task.index` in TF_CONFIG must be in \[0, 2"
    ):
        cluster.find_task()


@pytest.mark.parametrize("kind", ["ps", None, "chief", 3])
def test_a_task_that_is_not_in_the_cluster_is_refused(monkeypatch, kind):
    tf_config(monkeypatch, kind=kind)
    with pytest.raises(ValueError, match="`task.type` in TF_CONFIG must be"):
        cluster.find_task()


@pytest.mark.parametrize(
    ("jobs", "kind"),
    [
        (CLUSTER, "evaluator"),
        ({**CLUSTER, "evaluator": ["127.0.0.1:3"]}, "evaluator"),
        ({**CLUSTER, "evaluator": ["127.0.0.1:3"]}, "worker"),
        ({**CLUSTER, "ps": ["127.0.0.1:3"]}, "worker"),
    ],
)
def test_an_evaluator_and_a_parameter_server_are_refused(monkeypatch, jobs, kind):
    tf_config(monkeypatch, jobs, kind)
    with pytest.raises(ValueError, match="has jobs 'chief' and 'worker' only"):
        tem_tf.MultiWorkerMirroredStrategy()


@pytest.mark.parametrize(
    "jobs",
    [
        {"worker": ["a:1", "b:1", "a:1"]},
        {"worker": ["a:1", "A:1"]},
        {"chief": ["a:1"], "worker": ["a:1"]},
    ],
)
def test_an_address_given_twice_is_refused(monkeypatch, jobs):
    tf_config(monkeypatch, jobs)
    with pytest.raises(ValueError, match="must have an address of its own.*worker"):
        tem_tf.MultiWorkerMirroredStrategy()


def test_two_chiefs_are_refused(monkeypatch):
    tf_config(monkeypatch, {**CLUSTER, "chief": ["a:1", "b:1"]})
    with pytest.raises(ValueError, match="one chief at most"):
        tem_tf.MultiWorkerMirroredStrategy()


@pytest.mark.parametrize("addresses", [[], "a:1", None])
def test_a_job_without_a_list_of_addresses_is_refused(monkeypatch, addresses):
    tf_config(monkeypatch, {"worker": addresses})
    with pytest.raises(ValueError, match="must have a list of addresses"):
        tem_tf.MultiWorkerMirroredStrategy()


def test_cluster_that_is_a_list_is_refused(monkeypatch):
    tf_config(monkeypatch, cluster=["127.0.0.1:1"])
    with pytest.raises(ValueError, match="`cluster` and `task` in TF_CONFIG"):
        cluster.find_task()


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "localhost:99999",
        "localhost:0",
        ":2222",
        "",
        "http://h:80",
        "a b:1",
    ],
)
def test_an_address_without_host_or_port_is_refused(monkeypatch, address):
    tf_config(monkeypatch, cluster={"worker": [address, "other:1"]})
    with pytest.raises(ValueError, match='must be "host:port"'):
        cluster.find_task()


@pytest.mark.parametrize(
    ("address", "parts"), [("a.b:1", ("a.b", 1)), ("[::1]:22", ("::1", 22))]
)
def test_an_address_is_taken_apart(address, parts):
    assert cluster.split_address(address) == parts


# -------------------------------------------------------------------------- resolvers


def resolver(index, jobs=CLUSTER):
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs), task_type="worker", task_id=index, rpc_layer="grpc"
    )


def test_a_resolver_gives_the_task_whatever_tf_config_says(monkeypatch):
    tf_config(monkeypatch, index=0)
    task = cluster.task_of_resolver(resolver(1))
    assert (task.name, task.address, task.is_chief) == (
        "worker 1",
        "127.0.0.1:2",
        False,
    )
    assert cluster.task_of_resolver(resolver(0, {})) is None


def test_a_resolver_is_checked_as_tf_config_is():
    for wrong, message in [
        (resolver(2), r"`task.index` in the cluster resolver must be in \[0, 2"),
        (resolver(0, {"worker": ["a:1", "a:1"]}), "an address of its own"),
        (resolver(0, {"worker": ["a:1"], "ps": ["b:1"]}), "has jobs"),
    ]:
        with pytest.raises(ValueError, match=message):
            tem_tf.MultiWorkerMirroredStrategy(wrong)


# -------------------------------------------------------------------- public addresses


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("127.0.0.1:1", False),
        ("10.1.2.3:1", False),
        ("192.168.0.9:1", False),
        ("172.20.0.1:1", False),
        ("[::1]:1", False),
        ("[fd00::1]:1", False),
        ("localhost:1", False),
        ("no-such-host.invalid:1", False),
        ("8.8.8.8:1", True),
        ("[2001:4860:4860::8888]:1", True),
    ],
)
def test_which_addresses_are_public(address, public):
    task = cluster.Task({"worker": ("127.0.0.1:9", address)}, "worker", 0)
    assert cluster.public_addresses(task) == ({"worker 1": address} if public else {})


def test_a_public_address_can_be_refused_before_any_waiting(monkeypatch):
    tf_config(monkeypatch, {"worker": ["127.0.0.1:1", "8.8.8.8:2222"]})
    with pytest.raises(ValueError, match="no address may be public.*worker 1 at 8"):
        tem_tf.MultiWorkerMirroredStrategy(refuse_public=True)


def test_a_public_address_is_told_by_the_chief(monkeypatch, capsys):
    tf_config(monkeypatch, {"worker": ["127.0.0.1:1", "8.8.8.8:2222"]})
    monkeypatch.setattr("tem_tf.rendezvous.meet", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tem_tf.MultiWorkerMirroredStrategy()
    assert "tem_tf: public addresses: worker 1 at 8.8.8.8" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "10", True])
def test_a_start_limit_that_is_none_is_refused(monkeypatch, seconds):
    tf_config(monkeypatch)
    with pytest.raises(ValueError, match="`start_seconds` must be"):
        tem_tf.MultiWorkerMirroredStrategy(start_seconds=seconds)
