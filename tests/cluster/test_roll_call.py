"""Workers that know only the first one's address learn the others'."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tem_tf import roll_call
from tem_tf.cluster import Rank


@pytest.fixture
def first():
    """A free port of this machine, where worker 0 may listen."""
    with socket.create_server(("", 0)) as held:
        port = held.getsockname()[1]
    return f"127.0.0.1:{port}"


def rank(first, index, size=3, port=None):
    return Rank(index, size, first, port or 7000 + index, "the test")


def answers(ranks, seconds=20.0):
    """What all get, or the error of each."""

    def one(of):
        try:
            return roll_call.answer(of, seconds, say=lambda _: None)
        except (ValueError, OSError) as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(one, ranks))


def call(first, line):
    """One that calls as no worker does."""
    host, port = first.rsplit(":", 1)
    for _ in range(100):
        try:
            caller = socket.create_connection((host, int(port)), 10)
        except ConnectionRefusedError:
            threading.Event().wait(0.1)
        else:
            caller.sendall(line)
            return caller
    raise TimeoutError("worker 0 does not listen")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_learn_the_same_addresses(first, order):
    """Callers by loopback are on worker 0's host."""
    tasks = answers([rank(first, index) for index in order])
    addresses = (first, "127.0.0.1:7001", "127.0.0.1:7002")
    assert [task.cluster for task in tasks] == [{"worker": addresses}] * 3
    assert [task.index for task in tasks] == list(order)
    assert {task.source for task in tasks} == {"the test"}


class Caller:
    """A socket, of which only the other end's number counts."""

    def __init__(self, number):
        self.number = number

    def getpeername(self):
        return self.number, 40000, 0, 0


@pytest.mark.parametrize(
    ("number", "address"),
    [
        ("10.0.0.7", "10.0.0.7:22"),
        ("::ffff:10.0.0.7", "10.0.0.7:22"),
        ("fd00::7", "[fd00::7]:22"),
        ("127.0.0.1", "head:22"),
        ("127.0.1.1", "head:22"),
        ("::ffff:127.0.0.1", "head:22"),
        ("::1", "head:22"),
    ],
)
def test_an_address_is_where_a_worker_calls_from(number, address):
    assert roll_call._address(Caller(number), 22, "head") == address


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[" * 100_000 + b"\n",
        b'{"tem_tf_roll": 1, "index": "1", "size": 2, "port": 3}\n',
        b'{"tem_tf_roll": 2, "index": 1, "size": 2, "port": 3}\n',
        b"\xff\xfe\n",
        b"",
    ],
)
def test_what_is_no_call_is_hung_up_on_or_waited_for(first, line):
    """It neither ends the start nor counts as a worker."""
    with ThreadPoolExecutor(1) as pool:
        tasks = pool.submit(answers, [rank(first, 0, 2)])
        stranger = call(first, line)
        own = answers([rank(first, 1, 2)])
        assert own[0].cluster == tasks.result()[0].cluster
        stranger.close()


def test_a_line_without_an_end_is_hung_up_on(first):
    with ThreadPoolExecutor(1) as pool:
        tasks = pool.submit(answers, [rank(first, 0, 2)])
        with call(first, b"{") as stranger, pytest.raises(ConnectionError):
            stranger.settimeout(30)  # Or it would wait for a reader that there is not.
            while True:  # Until the connection is reset, or a broken pipe.
                stranger.sendall(b" " * 2**16)
        answers([rank(first, 1, 2)])
        assert tasks.result()[0].size == 2


def test_a_worker_that_ends_and_comes_again_is_counted_once(first):
    line = {"tem_tf_roll": 1, "index": 1, "size": 3, "port": 7777}
    with ThreadPoolExecutor(1) as pool:
        tasks = pool.submit(answers, [rank(first, 0)])
        call(first, json.dumps(line).encode() + b"\n").close()
        others = answers([rank(first, 1), rank(first, 2)])
        found = [*tasks.result(), *others]
    addresses = (first, "127.0.0.1:7001", "127.0.0.1:7002")
    assert [task.cluster["worker"] for task in found] == [addresses] * 3


def test_a_rank_given_twice_ends_all(first):
    errors = answers([rank(first, 0), rank(first, 1), rank(first, 1)], seconds=5)
    assert "Every worker must have a rank of its own. Received: rank 1" in str(
        errors[0]
    )
    assert {str(error) for error in errors} == {str(errors[0])}


def test_workers_of_another_job_end_all(first):
    errors = answers([rank(first, 0, 2), rank(first, 1, 3)], seconds=5)
    assert "All workers must belong to one job. Worker 0 is one of 2" in str(errors[0])
    assert "1 of 3" in str(errors[1])


def test_who_is_missing_is_said_and_then_an_error(first, monkeypatch):
    monkeypatch.setattr(roll_call, "SECONDS_BETWEEN_LINES", 0.2)
    lines = []
    with pytest.raises(TimeoutError, match=r"Missing: worker 1, worker 2\. See that"):
        roll_call.answer(rank(first, 0), 1.0, lines.append)
    said = r"tem_tf: worker 0 has waited [01] of at most 1 s for worker 1, worker 2"
    assert all(re.fullmatch(said, line) for line in lines)
    assert len(lines) >= 2
    with pytest.raises(TimeoutError, match=r"worker 0 at 127.* \(Connection refused\)"):
        roll_call.answer(rank(first, 1), 1.0, lines.append)


def test_a_port_in_use_is_told_with_its_origin(first):
    with (
        socket.create_server(("", int(first.rsplit(":")[1]))),
        pytest.raises(OSError, match="This worker's port in the test must be free"),
    ):
        roll_call.answer(rank(first, 0), 1.0)


WORKER = """
import time
import tensorflow as tf, tem_tf
from tem_studies.workloads.environment import AS_USUAL, role
before = role(AS_USUAL)
strategy = tem_tf.MultiWorkerMirroredStrategy(start_seconds=120)
if tem_tf.is_chief():
    time.sleep(2)  # The other one is in its first collective by then.
again = tem_tf.MultiWorkerMirroredStrategy(start_seconds=120)
assert again.num_replicas_in_sync == strategy.num_replicas_in_sync == 2
assert before.is_chief == tem_tf.is_chief() == tem_tf.is_chief(strategy)
assert not before.is_alone
replica = lambda: tf.distribute.get_replica_context().replica_id_in_sync_group
total = strategy.reduce("SUM", strategy.run(replica), axis=None)
print("chief" if tem_tf.is_chief() else "other", int(total))
"""


@pytest.mark.multi_worker
def test_two_processes_with_ranks_alone_train_as_one_cluster():
    clean = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    with socket.create_server(("", 0)) as held:
        port = str(held.getsockname()[1])
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**clean, **ranks, "RANK": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        outputs = [worker.communicate(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()  # Closes our ends of its pipes.
    assert [out for out, _ in outputs] == ["chief 1\n", "other 1\n"], outputs
