"""Workers meet before TensorFlow starts: tasks in threads, on real loopback ports."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tem_tf import rendezvous, start_limit
from tem_tf.cluster import Task
from tem_tf.launch.worker_processes import reserve_ports

LONG, SHORT = 60.0, 1.0  # Seconds: never reached, and waited for.


def addresses(count):
    return tuple(f"127.0.0.1:{port}" for port in reserve_ports(count))


class Meetings:
    """Tasks that meet, each in a thread; what each has raised, by index."""

    def __init__(self):
        self.raised, self.lines, self._threads = {}, [], []

    def start(self, cluster, index, seconds=LONG, kind="worker"):
        task = Task(
            {kind: cluster} if isinstance(cluster, tuple) else cluster, kind, index
        )

        def meet():
            try:
                rendezvous.meet(task, seconds, self.lines.append)
                self.raised[index] = None
            except Exception as error:
                self.raised[index] = error

        self._threads.append(threading.Thread(target=meet, daemon=True))
        self._threads[-1].start()

    def finish(self):
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        return self.raised


def is_open(address):
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_that_are_there_go_on_and_leave_their_ports(count):
    cluster, meetings = addresses(count), Meetings()
    for index in range(count):
        meetings.start(cluster, index)
    assert meetings.finish() == dict.fromkeys(range(count))
    assert not any(map(is_open, cluster))


def test_nobody_goes_on_before_the_last_one_has_come(monkeypatch):
    monkeypatch.setattr(rendezvous, "SECONDS_BETWEEN_LINES", 0.3)
    cluster, meetings = addresses(3), Meetings()
    for index in (2, 0):
        meetings.start(cluster, index)
    time.sleep(SHORT)
    assert meetings.raised == {}
    assert all(f"worker 1 at {cluster[1]}" in line for line in meetings.lines[-2:])
    assert "connection refused" in meetings.lines[-1]
    meetings.start(cluster, 1)
    assert meetings.finish() == dict.fromkeys(range(3))


def test_a_chief_task_meets_its_workers():
    chief, *workers = addresses(3)
    jobs, meetings = {"chief": (chief,), "worker": tuple(workers)}, Meetings()
    meetings.start(jobs, 0, kind="chief")
    time.sleep(0.2)
    meetings.start(jobs, 1)
    other = Meetings()
    other.start(jobs, 0)
    assert meetings.finish() == {0: None, 1: None}
    assert other.finish() == {0: None}


def test_the_missing_are_named_with_the_reason_when_the_time_is_over():
    here, nowhere, silent = *addresses(2), socket.create_server(("127.0.0.1", 0))
    with silent:
        stranger = f"127.0.0.1:{silent.getsockname()[1]}"
        meetings = Meetings()
        meetings.start((here, nowhere, "no-such-host.invalid:1", stranger), 0, SHORT)
        error = meetings.finish()[0]
    assert isinstance(error, TimeoutError)
    for part in (
        "After 1 s (`start_seconds`)",
        f"worker 1 at {nowhere} (connection refused",
        "worker 2 at no-such-host.invalid:1 (the host's name is not known",
        f"worker 3 at {stranger} (what listens there does not answer as",
    ):
        assert part in str(error)


def test_what_says_something_else_is_no_worker():
    here, there = addresses(2)
    port = int(there.rsplit(":", 1)[1])
    meetings = Meetings()
    with socket.create_server(("127.0.0.1", port)) as server:
        meetings.start((here, there), 0, 2 * SHORT)
        with server.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        error = meetings.finish()[0]
    assert isinstance(error, TimeoutError)
    assert f"worker 1 at {there}" in str(error)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\xff" * 600_000,
        b'{"tem_tf": 1}\n',
        b"[]\n",
        b"",
    ],
)
def test_whoever_else_calls_is_hung_up_on_and_harms_nobody(words):
    cluster, meetings = addresses(2), Meetings()
    meetings.start(cluster, 0)
    host, port = cluster[0].rsplit(":", 1)
    for _ in range(50):
        if is_open(cluster[0]):
            break
        time.sleep(0.05)
    with socket.create_connection((host, int(port))) as stranger:
        with contextlib.suppress(ConnectionError):
            stranger.sendall(words)
        meetings.start(cluster, 1)
        assert meetings.finish() == {0: None, 1: None}


def test_workers_of_different_clusters_all_end_at_once():
    one, two, three = addresses(3)
    meetings = Meetings()
    meetings.start((one, two), 0)
    meetings.start((one, three), 1)
    for error in meetings.finish().values():
        assert isinstance(error, ValueError)
        assert "must be given the same cluster" in str(error)
        assert two in str(error) and three in str(error)


def test_a_worker_at_the_address_of_another_ends_all():
    cluster, meetings = addresses(2), Meetings()
    host, port = cluster[1].rsplit(":", 1)
    hello = {"tem_tf": 1, "name": "worker 0", "addresses": None}
    hello["addresses"] = Task({"worker": cluster}, "worker", 0).addresses
    with socket.create_server((host, int(port))) as server:
        meetings.start(cluster, 0)
        with server.accept()[0] as connection:
            connection.sendall(json.dumps(hello).encode() + b"\n")
            error = meetings.finish()[0]
    assert isinstance(error, ValueError)
    assert "is answered by worker 0" in str(error)


def test_a_worker_that_dies_while_others_wait_is_missed_again():
    cluster, meetings = addresses(3), Meetings()
    program = (
        "import sys\n"
        "from tem_tf.cluster import Task\n"
        "from tem_tf.rendezvous import meet\n"
        "meet(Task({'worker': tuple(sys.argv[1:])}, 'worker', 1), 60)\n"
    )
    meetings.start(cluster, 0)
    other = subprocess.Popen([sys.executable, "-c", program, *cluster])
    try:
        deadline = time.monotonic() + 20
        while not is_open(cluster[1]) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(SHORT)
    finally:
        other.kill()
        other.wait()
    time.sleep(2 * SHORT)
    meetings.start(cluster, 2, 2 * SHORT)
    # Worker 2 has never seen worker 1, and worker 0 no longer does.
    meetings._threads[1].join(30)
    assert f"worker 1 at {cluster[1]} (connection refused" in str(meetings.raised[2])
    assert meetings.raised.keys() == {2}
    for index in (1, 2):
        meetings.start(cluster, index)
    assert meetings.finish() == dict.fromkeys(range(3))


class Played:
    """A worker that is played line by line, to have things come in any order."""

    def __init__(self, cluster, index):
        self._hello = {"tem_tf": 1, "name": f"worker {index}"}
        self._hello["addresses"] = Task({"worker": cluster}, "worker", index).addresses
        host, port = cluster[index].rsplit(":", 1)
        self.server = socket.create_server((host, int(port)))

    def answer(self):
        """Takes the next call, and says hello; returns the connection."""
        connection, _ = self.server.accept()
        connection.recv(2**16)
        self.say(connection, self._hello)
        return connection

    def call(self, address):
        """Calls a worker that starts, and says hello; returns the connection."""
        host, port = address.rsplit(":", 1)
        for _ in range(100):
            if is_open(address):
                break
            time.sleep(0.05)
        connection = socket.create_connection((host, int(port)))
        self.say(connection, self._hello)
        return connection

    @staticmethod
    def say(connection, line):
        connection.sendall(json.dumps(line).encode() + b"\n")


def test_a_leave_that_comes_late_strands_nobody():
    """One connection of a worker that goes ends long before the other's `go` comes."""
    cluster, meetings = addresses(3), Meetings()
    meetings.start(cluster, 0, 20.0)
    first, second = Played(cluster, 1), Played(cluster, 2)
    with first.server, second.server:
        calls = [player.call(cluster[0]) for player in (first, second)]
        answers = [player.answer() for player in (first, second)]
        Played.say(calls[0], {"ready": True})
        time.sleep(0.2)
        answers[0].close()
        first.server.close()
        time.sleep(3 * rendezvous._SECONDS_BETWEEN_CALLS)  # It is called in vain.
        Played.say(calls[0], {"go": True})
        calls[0].close()
        Played.say(calls[1], {"ready": True})
        assert meetings.finish() == {0: None}
        answers[1].close()
        calls[1].close()


def test_a_late_leave_lets_a_worker_that_came_again_be_told():
    """Between a worker's end and its `go` another one is met anew."""
    cluster, meetings = addresses(3), Meetings()
    meetings.start(cluster, 0, 20.0)
    first, second = Played(cluster, 1), Played(cluster, 2)
    with first.server, second.server:
        calls = [player.call(cluster[0]) for player in (first, second)]
        answers = [player.answer() for player in (first, second)]
        Played.say(calls[0], {"ready": True})
        time.sleep(0.2)
        for connection in (*answers, calls[1]):
            connection.close()
        first.server.close()
        again, answer = second.call(cluster[0]), second.answer()
        time.sleep(0.2)
        Played.say(calls[0], {"go": True})
        calls[0].close()
        answer.settimeout(10)
        assert "ready" in json.loads(answer.recv(2**16))
        Played.say(again, {"ready": True})
        assert meetings.finish() == {0: None}
        again.close()
        answer.close()


def test_a_worker_that_left_and_comes_again_is_met_again():
    cluster, meetings = addresses(3), Meetings()
    meetings.start(cluster, 0, 30.0)
    gone = Played(cluster, 1)
    with gone.server:
        call, answer = gone.call(cluster[0]), gone.answer()
        for line in ({"ready": True}, {"go": True}):
            Played.say(call, line)
        call.close()
        answer.close()
    time.sleep(0.3)
    meetings.start(cluster, 1)
    meetings.start(cluster, 2)
    assert meetings.finish() == dict.fromkeys(range(3))


@pytest.mark.parametrize("seed", range(6))
def test_workers_that_give_up_and_come_again_all_meet(seed):
    """At any moments: of each trial some have gone before the others come."""
    chance = random.Random(seed)
    cluster, final, first = addresses(3), Meetings(), Meetings()
    impatient = chance.sample(range(3), chance.choice([1, 2]))
    for index in impatient:
        first.start(cluster, index, chance.uniform(0.05, 1.0))
    for index in set(range(3)) - set(impatient):
        time.sleep(chance.uniform(0, 0.3))
        final.start(cluster, index, 20.0)
    for index, error in first.finish().items():
        if error is None:  # The others came in time for it.
            final.raised[index] = None
            continue
        assert isinstance(error, TimeoutError)
        time.sleep(chance.uniform(0, 0.5))
        final.start(cluster, index, 20.0)
    assert final.finish() == dict.fromkeys(range(3))


def test_an_answer_of_nested_lists_is_none():
    here, there = addresses(2)
    port = int(there.rsplit(":", 1)[1])
    meetings = Meetings()
    with socket.create_server(("127.0.0.1", port)) as server:
        meetings.start((here, there), 0, LONG)
        for _ in range(2):  # It calls again.
            with server.accept()[0] as connection:
                connection.sendall(b"[" * 200_000 + b"\n")
                with contextlib.suppress(ConnectionError):
                    while connection.recv(2**16):
                        pass
    meetings.start((here, there), 1)
    assert meetings.finish() == {0: None, 1: None}


def test_a_host_name_that_is_none_is_a_reason():
    meetings = Meetings()
    meetings.start((*addresses(1), "a..b:1"), 0, SHORT)
    assert "worker 1 at a..b:1 (the host's name is none)" in str(meetings.finish()[0])


def test_workers_meet_by_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
            ports = [probe.getsockname()[1], *reserve_ports(1)]
    except OSError:
        pytest.skip("this machine has no IPv6")
    cluster, meetings = tuple(f"[::1]:{port}" for port in ports), Meetings()
    for index in range(2):
        meetings.start(cluster, index)
    assert meetings.finish() == {0: None, 1: None}


def test_two_workers_of_one_index_are_told():
    cluster, meetings = addresses(2), Meetings()
    meetings.start(cluster, 0)
    other = Played.__new__(Played)
    other._hello = {"tem_tf": 1, "name": "worker 0"}
    other._hello["addresses"] = Task({"worker": cluster}, "worker", 0).addresses
    with other.call(cluster[0]):
        error = meetings.finish()[0]
    assert isinstance(error, ValueError)
    assert "that of worker 0 twice, here and of one who calls from" in str(error)


def test_an_interrupted_wait_closes_its_port(monkeypatch):
    (address, other) = addresses(2)
    task = Task({"worker": (address, other)}, "worker", 0)

    def interrupt(line):
        raise KeyboardInterrupt

    monkeypatch.setattr(rendezvous, "SECONDS_BETWEEN_LINES", 0.3)
    with pytest.raises(KeyboardInterrupt):
        rendezvous.meet(task, LONG, interrupt)
    assert not is_open(address)


# ------------------------------------------------------------- TensorFlow's own start


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )


# Without TensorFlow: the file alone.
LOAD = (
    "import os, runpy, signal, sys, time\n"
    f"limit = runpy.run_path({start_limit.__file__!r})\n"
)


def test_a_start_that_takes_too_long_is_ended_with_a_line():
    # Python's lock is held: a regular expression that never ends.
    program = LOAD + (
        "import re\n"
        "with limit['limited'](0.5, 'too long'):\n"
        "    re.match(r'(a+)+$', 'a' * 60 + 'b')\n"
    )
    result = run(program)
    assert result.returncode == -signal.SIGKILL
    assert result.stderr == "too long\n"


def test_a_start_in_time_leaves_no_guard_behind():
    program = LOAD + (
        "with limit['limited'](0.2, 'too long'):\n"
        "    pass\n"
        "time.sleep(0.6)\n"
        "print(open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read())\n"
    )
    result = run(program)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


HANDLERS = {"SIG_DFL": -signal.SIGTERM, "SIG_IGN": 0, "lambda *_: os._exit(5)": 5}


@pytest.mark.parametrize("handler", HANDLERS)
def test_sigterm_does_after_the_start_what_it_did_before(handler):
    name = f"signal.{handler}" if handler.startswith("SIG") else handler
    # TensorFlow's notifier is a handler that C sets, past Python's own table.
    program = LOAD + (
        "import ctypes\n"
        f"signal.signal(signal.SIGTERM, {name})\n"
        "with limit['termination_kept']():\n"
        "    ctypes.CDLL(None).signal(int(signal.SIGTERM), ctypes.c_void_p(1))\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('still here', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2)\n"
    )
    result = run(program)
    assert result.stdout == "still here\n"
    assert result.returncode == HANDLERS[handler]


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with start_limit.termination_kept():
            seen.append(os.getpid())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen and signal.getsignal(signal.SIGTERM) is before
