"""K* of a cell, its censoring, and the trend over batch sizes."""

import math

import numpy as np
import pytest

from tem_studies.data_parallelism.fit import CellResult, best_interval, fit_trend

RATES = (0.01, 0.1, 0.001, 0.03, 0.3)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """A fit takes milliseconds, and the bootstrap a thousand of them."""
    monkeypatch.setattr("tem_studies.data_parallelism.fit.DRAWS", 100)


def cell(batch_size, steps, limit=10_000, rates=RATES, limits=None, **more):
    """A cell whose trials needed these steps; inf: incomplete."""
    statuses = tuple("complete" if s < math.inf else "incomplete" for s in steps)
    points = tuple({"learning_rate": rate} for rate in rates[: len(steps)])
    limits = limits or (limit,) * len(steps)
    return CellResult(batch_size, tuple(steps), points, statuses, limits, **more)


def trend(batch_size, c1=4000.0, c2=50.0):
    """Four complete trials of which the second is the winner."""
    best = c1 / batch_size + c2
    return cell(batch_size, [2 * best, best, math.inf, 1.5 * best, 1.2 * best])


def test_fit_finds_the_constants_of_exact_data():
    fit = fit_trend([trend(b) for b in (8, 32, 128, 512)])
    assert fit.c1 == pytest.approx(4000, rel=1e-4)
    assert fit.c2 == pytest.approx(50, rel=1e-4)
    assert fit.r_squared == pytest.approx(1)
    assert fit.c1_interval[0] <= fit.c1 <= fit.c1_interval[1]
    assert fit.steps(100) == pytest.approx(90, rel=1e-4)


def test_interval_is_the_bootstrap_of_the_minimum():
    low, high = best_interval(trend(8))
    assert low == 550  # no trial is better than the best,
    # and with 5 trials the best is missed in a third of the draws, the best two in 8 %:
    assert high == 1.5 * 550


def test_same_data_give_the_same_intervals():
    cells = [trend(b) for b in (8, 32, 128)]
    assert fit_trend(cells) == fit_trend(cells)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([300, 200, 900, 250, 400], ""),
        ([math.inf] * 5, "no complete trial"),
        ([300, 200, math.inf, math.inf, math.inf], "2 complete"),
        ([300, 290, 900, 250, 200], "learning_rate on the edge"),
        ([300, 290, 200, 250, 400], "learning_rate on the edge"),
    ],
)
def test_censoring(steps, reason):
    assert cell(8, steps).censored == reason


def test_censored_cells_bound_the_trend_on_one_side():
    points = [trend(b) for b in (8, 32, 128)]
    plain = fit_trend(points)
    # K* on the edge is an upper bound: above the trend it says nothing, below it does.
    above = cell(512, [900, 900, 900, 900, 800])
    below = cell(512, [40, 40, 40, 40, 20])
    assert fit_trend([*points, above]).c2 == pytest.approx(plain.c2, rel=1e-3)
    assert fit_trend([*points, below]).c2 < 0.9 * plain.c2
    # No complete trial: K* is more than the steps that were tried.
    few = cell(512, [math.inf] * 5, limit=20)
    many = cell(512, [math.inf] * 5, limit=200)
    assert fit_trend([*points, few]).c2 == pytest.approx(plain.c2, rel=1e-3)
    assert fit_trend([*points, many]).c2 > 1.1 * plain.c2


def test_trial_that_was_stopped_early_is_not_taken_for_one_that_failed():
    """What is drawn without a complete trial is above what its trials were given."""

    def cells(limit):
        # The winner and the next, and fifteen that ended when they were beyond it.
        made = []
        for batch in (8, 32, 128, 512):
            best = 4000 / batch + 50
            steps = (best, 1.1 * best, 1.2 * best, *[math.inf] * 15)
            rates = tuple(0.01 + 0.01 * i for i in (9, *range(9), *range(10, 18)))
            limits = (limit or 10_000,) * 3 + (limit or int(best),) * 15
            made.append(cell(batch, steps, rates=rates, limits=limits))
        return made

    stopped, failed = fit_trend(cells(None)), fit_trend(cells(10_000))
    assert (stopped.c1, stopped.c2) == (failed.c1, failed.c2)
    # The three that are complete differ by a fifth.
    assert stopped.c2_interval[1] < 1.5 * stopped.c2
    assert failed.c2_interval[1] > 3 * failed.c2
    # K* itself is not bounded: in 4 % of the draws none is complete.
    assert math.isinf(best_interval(cells(None)[0])[1])


def test_intervals_do_not_depend_on_where_the_search_starts():
    """Steeper than linear, the trend has no plateau; that of other draws has one."""
    cells = [
        cell(8, [math.inf, 1100, math.inf, 1000, 1050]),
        cell(32, [math.inf, 250, math.inf, 220, 300]),
        cell(128, [math.inf, 200, math.inf, 50, 120]),
    ]
    fit = fit_trend(cells)
    assert fit.c2 < 1
    assert fit.c2_interval[1] > 20


def test_there_is_no_fit_of_one_point():
    assert fit_trend([trend(8)]) is None
    assert fit_trend([trend(8), cell(32, [math.inf] * 5)]) is None


def test_median_of_reruns_counts_failures_as_latest():
    assert trend(8).rerun_median is None
    steps = (10.0, math.inf, 30.0)
    assert cell(8, [20.0], rerun_steps=steps).rerun_median == 30
    assert np.isinf(cell(8, [20.0], rerun_steps=(10.0, *[math.inf] * 2)).rerun_median)
