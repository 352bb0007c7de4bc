"""The harness keeps its word: results in order, failures told apart, nobody left."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.multi_worker import harness_laws as laws
from tests.multi_worker.harness import ROOT, WorkerError, WorkerGroup
from tests.processes import still_running


def test_sum_over_workers_is_the_same_on_all(workers):
    total = 3.0 * workers.size
    assert workers.run(laws.sum_over_workers, 3.0) == [total] * workers.size


def test_results_come_in_worker_order_as_arrays(workers):
    own = [np.float32(10.0**index) for index in range(workers.size)]
    results = workers.run(laws.add_own, np.float32(1), per_worker=own)
    assert [result["index"] for result in results] == list(range(workers.size))
    assert [result["sum"] for result in results] == [1 + value for value in own]
    assert isinstance(results[0]["sum"], np.float32)


def test_workers_stay_alive_from_call_to_call(two_workers):
    two_workers.start()
    before = two_workers.pids
    two_workers.run(laws.sum_over_workers, 1.0)
    two_workers.run(laws.sum_over_workers, 2.0)
    assert two_workers.pids == before


def test_names_of_layers_start_anew_at_each_call(two_workers):
    names = [two_workers.run(laws.layer_name) for _ in range(2)]
    assert names == [["dense", "dense"]] * 2


def test_one_thread_suffices_for_two_collectives_in_one_graph(two_workers):
    assert two_workers.run(laws.two_collectives_in_one_graph) == [2020.0, 2020.0]


def test_wrong_number_of_own_values_is_refused(two_workers):
    with pytest.raises(
        ValueError, match="one value for each of 2 workers. Received: 3"
    ):
        two_workers.run(laws.add_own, 1.0, per_worker=[1.0, 2.0, 3.0])


def test_an_exception_on_one_worker_is_raised_with_its_traceback(two_workers):
    two_workers.start()
    before = two_workers.pids
    with pytest.raises(WorkerError, match="worker 1 could not") as caught:
        two_workers.run(laws.raise_on, 1)
    assert "raise_on" in caught.value.failures[1]
    # Worker 0, which waited in vain, is gone with it; the next call has new ones.
    assert still_running(before) == []
    assert two_workers.run(laws.sum_over_workers, 1.0) == [2.0, 2.0]


def test_a_worker_that_exits_is_named_with_its_code(two_workers):
    with pytest.raises(WorkerError) as caught:
        two_workers.run(laws.exit_on, 0)
    assert caught.value.failures[0] == "exited with code 3"


def test_a_hanging_worker_ends_at_the_timeout_and_says_where(two_workers):
    two_workers.start()
    before = two_workers.pids
    started = time.monotonic()
    with pytest.raises(WorkerError, match="in hang_on") as caught:
        two_workers.run(laws.hang_on, 1, timeout=1)
    # One second, half a second for the stacks, and the time to bury two processes.
    assert time.monotonic() - started < 5
    assert set(caught.value.failures) == {0, 1}
    assert still_running(before) == []


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (laws.return_distributed, "must return this worker's own values"),
        (laws.return_not_picklable, "cannot be sent"),
    ],
)
def test_a_result_that_cannot_travel_is_an_error(two_workers, law, message):
    with pytest.raises(WorkerError, match=message):
        two_workers.run(law)


def test_leaving_a_group_leaves_no_process():
    with WorkerGroup(1) as group:
        assert group.run(laws.sum_over_workers, 5.0) == [5.0]
        pids = group.pids
    assert still_running(pids) == []
    assert group.pids == []


def test_killed_tests_leave_no_worker():
    program = (
        "import time; from tests.multi_worker.harness import WorkerGroup\n"
        "group = WorkerGroup(1); group.start()\n"
        "print(*group.pids, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        assert still_running([pid]) == [pid]
        tests.send_signal(signal.SIGKILL)
    assert still_running([pid], seconds=5) == []
