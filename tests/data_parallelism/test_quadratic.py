"""A quadratic with known smoothness L and gradient noise: the theory the study tests.

f(x) = ½ xᵀAx, and a stochastic gradient is Ax plus noise of variance σ² / B in every
coordinate. In A's eigenbasis the second moments m of SGD follow an exact recursion,

    m_i ← (1 - ηλ_i)² m_i + η² σ² / B,

so that K* needs no sampling: the first step at which E‖∇f‖² = Σ λ_i² m_i is at most ε.
"""

import math

import numpy as np
import pytest

from tem_studies.data_parallelism.fit import CellResult, fit_trend
from tem_studies.data_parallelism.lipschitz import smoothness

BATCHES = (1, 8, 64, 512, 4096, 32_768)
SLOW, GOAL, VARIANCE = 0.005, 1e-2, 1.0  # E‖∇f‖² is 1 at the start.
LIMIT = 10_000_000
RATES = np.geomspace(1e-4, 3.0, 41)  # The last ones diverge.


def steps_to_goal(largest, batch_size, limit=LIMIT):
    """First step at which the goal is reached, for each learning rate."""
    values = np.array([largest] * 5 + [SLOW])
    moments = np.broadcast_to([0.0] * 5 + [SLOW**-2], (len(RATES), 6)).copy()
    shrink = (1 - RATES[:, None] * values) ** 2
    noise = RATES[:, None] ** 2 * VARIANCE / batch_size
    # m_k = fixed + shrink^k (m_0 - fixed), so powers replace the loop.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        fixed = noise / (1 - shrink)
        found = np.full(len(RATES), math.inf)
        for k in np.unique(np.geomspace(1, limit, 6000).astype(int)):
            now = fixed + shrink**k * (moments - fixed)
            reached = (now * values**2).sum(axis=1) <= GOAL
            found[reached & np.isinf(found) & (shrink < 1).all(axis=1)] = k
    return found


def cells(largest):
    """A cell for each batch size."""
    points = tuple({"learning_rate": float(rate)} for rate in RATES)
    made = []
    for batch in BATCHES:
        steps = tuple(steps_to_goal(largest, batch))
        statuses = tuple("complete" if s < math.inf else "infeasible" for s in steps)
        limits = (LIMIT,) * len(RATES)
        made.append(CellResult(batch, steps, points, statuses, limits))
    return made


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """The intervals play no part here."""
    monkeypatch.setattr("tem_studies.data_parallelism.fit.DRAWS", 10)


def test_steps_to_result_follow_the_trend_and_c1_grows_with_smoothness():
    fits = []
    for largest in (1.0, 2.0, 4.0):
        measured = cells(largest)
        assert not any(cell.censored for cell in measured)
        fit = fit_trend(measured)
        # Of what varies by three orders of magnitude the trend leaves a hundredth.
        assert fit.r_squared > 0.99
        bests = [cell.best for cell in measured]
        assert bests == sorted(bests, reverse=True)
        # From linear scaling to the plateau.
        assert bests[0] / bests[1] > 3
        assert bests[-2] / bests[-1] < 2
        fits.append(fit)
    # η is bounded by ε B / L, and the slow direction needs 1 / (η · SLOW) steps: c₁ is
    # proportional to L, and so is c₂, by η < 2 / L.
    for one, twice in zip(fits, fits[1:], strict=False):
        assert twice.c1 / one.c1 == pytest.approx(2, rel=0.15)
        assert twice.c2 > one.c2


@pytest.mark.parametrize("largest", [0.5, 4.0, 90.0])
def test_lipschitz_measurement_returns_the_largest_eigenvalue(largest):
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    values = largest * np.array([1.0, 0.6, 0.5, 0.3, 0.1, 0.01])
    matrix = basis @ np.diag(values) @ basis.T

    def gradient(weights):
        flat = matrix @ np.concatenate([w.ravel() for w in weights])
        return [flat[:4].reshape(2, 2), flat[4:]]

    def step(weights, rate):
        pairs = zip(weights, gradient(weights), strict=True)
        return [(w - rate * g).astype(np.float32) for w, g in pairs]

    weights = [np.float32(generator.normal(size=s)) for s in ((2, 2), (2,))]
    # At 1.99 / L the steepest direction shrinks by 0.99 a step, the others much faster
    # or, as the flattest, hardly move.
    for _ in range(150):
        weights = step(weights, 1.99 / largest)
    before, after = weights, step(weights, 1.99 / largest)
    measured = smoothness(gradient, before, after)
    assert measured == pytest.approx(largest, rel=0.01)


def test_smoothness_is_never_above_the_largest_eigenvalue():
    generator = np.random.default_rng(1)
    for _ in range(20):
        values = generator.uniform(0, 3, size=5)
        before, after = generator.normal(size=(2, 5))
        measured = smoothness(lambda w, v=values: [v * w[0]], [before], [after])
        assert measured <= values.max() * (1 + 1e-9)


def test_step_that_does_not_move_has_no_quotient():
    still = [np.ones(3, np.float32)]
    assert smoothness(lambda w: w, still, still) is None
