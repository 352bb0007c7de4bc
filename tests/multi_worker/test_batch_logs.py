"""What Keras logs on several workers: the same values, in one collective."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.multi_worker import batch_log_laws as laws

STEP = 2  # Collectives of a step beside its logs': the gradient's, the end of data's.


@functools.cache
def logs(workers, kind, mode, execution=1):
    """Each worker's; several tests look at the same training."""
    return workers.run(laws.logs, kind, mode, execution)


def assert_same(ours, theirs):
    """Nests of one structure, with the same dtypes, shapes and bits."""
    tf.nest.assert_same_structure(ours, theirs)
    for one, other in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def assert_near(ours, theirs, tolerance):
    """Nests of one structure; `tolerance` is relative."""
    tf.nest.map_structure(
        functools.partial(np.testing.assert_allclose, rtol=tolerance), ours, theirs
    )


def test_means_are_those_of_the_strategys_reduce(workers):
    """Bit for bit on two workers, since the addition of two numbers commutes."""
    results = workers.run(laws.forms)
    for result in results:
        for way in ("eager", "graph"):
            assert_same(result[way], results[0]["graph"])
            if workers.size == 2:
                assert_same(result[way], result["one by one"])
            else:  # Half precision has ten bits, and two roundings may differ.
                assert_near(result[way], result["one by one"], 2**-9)


def test_logs_are_what_keras_makes_of_each(two_workers):
    packed, each = (logs(two_workers, "metrics", mode) for mode in ("global", "each"))
    for ours, theirs in zip(packed, each, strict=True):
        for key in ("batches", "history", "evaluate", "weights", "step"):
            assert_same(ours[key], theirs[key])
        assert_same(ours["step"], packed[0]["step"])


def test_logs_within_an_execution_of_several_steps_are_those_of_single_ones(
    two_workers,
):
    single = logs(two_workers, "metrics", "global")
    several = logs(two_workers, "metrics", "global", 2)
    for ours, theirs in zip(several, single, strict=True):
        for key in ("history", "evaluate", "weights"):
            assert_same(ours[key], theirs[key])
        assert_same(ours["batches"][0], theirs["batches"][1])


def test_numbers_that_are_no_tensors_of_a_replica_are_logged(two_workers):
    """A learning rate, which is a variable, and a number of Python's."""
    for ours in logs(two_workers, "own", "global"):
        assert ours["history"]["rate"] == ours["history"]["number"] == [0.5]


def test_local_logs_are_each_workers_own_until_an_epochs_end(two_workers):
    everybodys = logs(two_workers, "metrics", "global")
    own = logs(two_workers, "metrics", "local")
    for ours, theirs in zip(own, everybodys, strict=True):
        for key in ("history", "evaluate", "weights"):
            assert_same(ours[key], theirs[key])
    assert own[0]["batches"][0]["loss"] != own[1]["batches"][0]["loss"]
    batches = [worker["batches"] for worker in (everybodys[0], *own)]
    for mean, *values in zip(*batches, strict=True):
        # Of two workers, whose values count alike.
        expected = {name: np.mean([one[name] for one in values]) for name in mean}
        assert_near(mean, expected, 1e-6)


def test_local_logs_of_a_step_of_ones_own_under_a_metrics_name(two_workers):
    one, other = logs(two_workers, "own named as metrics", "local")
    assert one["batches"][0]["loss"] != other["batches"][0]["loss"]
    for key in ("history", "evaluate", "weights"):
        assert_same(one[key], other[key])


def test_logs_that_are_no_metrics_are_global_always(two_workers):
    everybodys = logs(two_workers, "own", "global")
    for ours, theirs in zip(logs(two_workers, "own", "local"), everybodys, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("kind", "mode", "expected"),
    [
        ("metrics", "each", 5),  # Loss, accuracy and error; two for a vector.
        ("metrics", "global", 1),
        ("metrics", "local", 0),
        ("own", "global", 1 + 2),  # Two for a matrix.
        ("own named as metrics", "local", 0),
    ],
)
def test_a_step_has_one_collective_for_its_logs(two_workers, kind, mode, expected):
    for ours in logs(two_workers, kind, mode):
        assert len(ours["collectives"]) == STEP + expected


def test_workers_with_other_logs_are_told_before_the_first_step(two_workers):
    """They would wait for one another: one of them has a collective too few."""
    said = two_workers.run(laws.refusal, per_worker=["global", "local"])
    assert said[0] == said[1]
    for part in ("`batch_logs`", "worker 0: 'global'", "worker 1: 'local'"):
        assert part in said[0]
    assert two_workers.run(laws.refusal, per_worker=["local"] * 2) == [None, None]
