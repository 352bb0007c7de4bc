"""Paired intervals and rank correlation against what is known."""

import math

import numpy as np
import pytest
from scipy import stats

from tem_studies.comparison.statistics import Difference, paired, rank_correlation


def test_paired_difference_takes_out_what_seeds_share():
    shared = np.array([0.1, 0.5, 0.9, 0.3, 0.7])
    found = paired(shared + 0.02, shared)
    assert found.seeds == 5
    for value in (found.mean, found.low, found.high, found.student_low):
        assert value == pytest.approx(0.02)


def test_intervals_hold_the_mean_and_student_is_scipys():
    x, y = np.random.default_rng(0).normal(size=(2, 6))
    found = paired(x, y)
    assert found.low < found.mean < found.high
    reference = stats.ttest_rel(x, y).confidence_interval()
    assert (found.student_low, found.student_high) == pytest.approx(tuple(reference))
    assert found == paired(x, y)  # The draws are seeded.
    assert paired(y, x).mean == pytest.approx(-found.mean)


def test_few_seeds_have_no_interval():
    found = paired([0.3, 0.5, 0.4, 0.6], [0.1, 0.2, 0.3, 0.4])
    assert found.mean == pytest.approx(0.2)
    intervals = (found.low, found.high, found.student_low, found.student_high)
    assert all(map(math.isnan, intervals))
    assert found.verdict(0.003, True) == "open"


def test_bootstrap_interval_has_the_width_of_the_mean():
    differences = np.random.default_rng(1).normal(size=400)
    found = paired(differences, np.zeros(400))
    error = differences.std() / 20
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.03)


@pytest.mark.parametrize(
    ("mean", "low", "high", "seeds", "verdict"),
    [
        (0.02, 0.01, 0.03, 5, "better"),
        (-0.02, -0.03, -0.01, 5, "worse"),
        (0.001, -0.002, 0.0025, 5, "equal"),
        (0.002, 0.001, 0.0029, 5, "equal"),
        (0.0035, 0.001, 0.006, 5, "better"),
        (0.002, 0.001, 0.004, 5, "open"),  # Above 0, but the mean is in the margin.
        (0.01, -0.01, 0.03, 5, "open"),
        (0.02, 0.01, 0.03, 4, "open"),  # Too few seeds for a claim.
        (math.nan, math.nan, math.nan, 0, "open"),
    ],
)
def test_verdict(mean, low, high, seeds, verdict):
    found = Difference(seeds, mean, low, high, low, high)
    assert found.verdict(0.003, True) == verdict
    flipped = {"better": "worse", "worse": "better"}.get(verdict, verdict)
    assert found.verdict(0.003, False) == flipped


def test_rank_correlation_is_spearmans():
    x, y = np.random.default_rng(2).normal(size=(2, 25))
    y = y.round(1) + 0.5 * x  # Ties among them.
    runs = range(25)
    found = rank_correlation(x, y.round(1), runs)
    assert found.value == pytest.approx(stats.spearmanr(x, y.round(1)).statistic)
    assert found.low < found.value < found.high
    assert found.runs == 25
    # Groups of one run are runs.
    assert (found.group_low, found.group_high) == (found.low, found.high)
    assert rank_correlation(x, np.exp(x), runs).value == pytest.approx(1)
    assert rank_correlation(x, -x, runs).low == pytest.approx(-1)


def test_runs_that_are_alike_are_not_independent_evidence():
    """Five runs of each of seven methods that say nothing of one another."""
    x, y = np.random.default_rng(0).normal(size=(2, 7))
    methods = range(7)
    seven = rank_correlation(x, y, methods)
    found = rank_correlation(*(np.repeat(z, 5) for z in (x, y, methods)))
    assert found.value == pytest.approx(seven.value)
    drawn_by_methods = (found.group_low, found.group_high)
    assert drawn_by_methods == pytest.approx((seven.low, seven.high))
    few = rank_correlation(x, y, [0, 1, 0, 1, 0, 1, 0])
    assert (few.low, few.high) == (seven.low, seven.high)
    assert math.isnan(few.group_low) and math.isnan(few.group_high)
    assert found.high - found.low < 0.7 * (seven.high - seven.low)


@pytest.mark.parametrize("values", [([], []), ([1, 2], [1, 2]), ([1, 2, 3], [5] * 3)])
def test_rank_correlation_of_too_little_is_not_a_number(values):
    assert math.isnan(rank_correlation(*values, range(len(values[0]))).value)
