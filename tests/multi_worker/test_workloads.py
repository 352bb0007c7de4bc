"""Workloads on two real worker processes against one replica in this process."""

import numpy as np
import pytest
import tensorflow as tf

from tests.multi_worker import workload_laws


def test_moving_statistics_are_averaged_in_a_collective(two_workers):
    first, second = two_workers.run(workload_laws.normed_images)
    assert (first["before"] != second["before"]).any()
    mean = (first["before"] + second["before"]) / 2
    for result in (first, second):
        np.testing.assert_allclose(result["after"], mean, rtol=1e-6)
        # Evaluating the running mean of the weights leaves the last ones in place.
        np.testing.assert_array_equal(result["restored"], result["after"])
    for key in ("after", "weights", "scores"):
        np.testing.assert_array_equal(first[key], second[key])


def test_all_workers_end_if_the_chief_must_not_start(two_workers):
    chief, other = two_workers.run(workload_laws.refused, True)
    assert chief == "not here"
    assert other == "The chief refuses to start: not here"
    assert two_workers.run(workload_laws.refused, False) == ["", ""]


@pytest.mark.parametrize(
    "train",
    [workload_laws.language, workload_laws.recommender],
    ids=lambda f: f.__name__,
)
def test_two_workers_train_as_one_replica_does(two_workers, train):
    first, second = two_workers.run(train)
    for key in ("weights", "scores", "loss"):
        np.testing.assert_array_equal(first[key], second[key])
    alone = train(tf.distribute.get_strategy())
    # Sums of float32 in another order.
    np.testing.assert_allclose(first["weights"], alone["weights"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(first["scores"], alone["scores"], rtol=1e-4)
    assert first["loss"] == pytest.approx(alone["loss"], rel=1e-4)
