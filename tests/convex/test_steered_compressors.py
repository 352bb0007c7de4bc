"""Compressors that are steered by what all workers sent, in the laboratory."""

import numpy as np
import pytest

import tem_tf
from tem_studies.convex import simulation
from tem_studies.convex.configuration import ConvexConfiguration
from tem_studies.convex.methods import METHODS
from tem_studies.refusal import Refusal
from tests.convex.problems import tiny

ITERATIONS = 200


def run(compressor):
    """int (iterations, workers): what each worker sent."""
    problem = tiny(workers=3, local=6, d=40)
    trace = simulation.run(
        problem,
        METHODS["ec-sgd"],
        compressor,
        start=np.zeros(problem.dimension),
        iterations=ITERATIONS,
        interval=10,
    )
    return trace.schedule


def test_adaptive_threshold_meets_its_budget():
    sent = run(tem_tf.AdaptiveThreshold(0.1, ITERATIONS))
    assert sent.sum() / 3 == pytest.approx(0.1 * 40 * ITERATIONS, rel=0.05)
    assert len(set(sent.sum(axis=1))) > 5  # Not the same at each step, as Top-k's.


def test_accordion_decides_for_all_workers():
    sent = run(tem_tf.Accordion(0.05, 0.25, interval_steps=20))
    assert (sent == sent[:, :1]).all()
    assert set(sent[:21].ravel()) == {10}
    assert set(sent[21:].ravel()) <= {2, 10}


def test_replayed_counts_and_ramps_are_followed():
    counts = [40, 7, 0] + [3] * (ITERATIONS - 3)
    np.testing.assert_array_equal(run(tem_tf.TopKSchedule(counts))[:, 0], counts)
    sent = run(tem_tf.TopK(tem_tf.Piecewise((5,), (0.5, 0.1))))
    assert sent[:, 1].tolist() == [20] * 5 + [4] * (ITERATIONS - 5)


@pytest.mark.parametrize(
    ("compressor", "says"),
    [("adaptive_threshold", "a number of steps of its own"), ("dgc", "its memory")],
)
def test_what_has_no_place_in_the_study_is_refused(compressor, says):
    with pytest.raises(Refusal, match=f"cannot be set up here.*{says}"):
        ConvexConfiguration(
            datasource="madelon", compressors=(compressor,), density=0.1
        )
