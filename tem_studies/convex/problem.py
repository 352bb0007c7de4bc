"""l2-regularised logistic regression, shared out over workers, and its minimum.

    f(x) = (1/m) Σ_j log(1 + exp(-y_j a_jᵀx)) + (l2/2)‖x‖²,    y_j in {-1, 1}

with L = σ_max(A)²/(4m) and l2 = L/1e4, the settings of the TEM study's authors (Sahu
et al., NeurIPS 2021, arXiv 2108.00951, their code). Everything is float64.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse.linalg
import tensorflow as tf
from scipy.special import expit

from tem_studies.refusal import Refusal
from tem_studies.workloads.bounded_files import read_npz
from tem_studies.written_files import make_directory, opened

L2_FACTOR = 1e-4  # l2 / L, the authors'.

# Below this |δ| the series is the more exact, above it the closed form: both have a
# relative error of about 1e-12 here. Our choice.
_SMALL = 1e-3
_FAR = 700.0  # From 709 on, exp is beyond float64.
_DENSE_SVD = 200  # Smaller matrices than this have their σ_max from a dense SVD.
_NEWTON_STEPS = 20
# Points whose suboptimality is computed at a time: bounds the memory.
_POINTS_AT_ONCE = 100


class Minimum(NamedTuple):
    """The minimiser and what depends on the examples alone.

    Attributes:
        point: x*, float64 (d,).
        value: f*.
        gradient_norm: ‖∇f(x*)‖, as computed: how exact `point` is.
        smoothness: L, without l2.
        l2: The regulariser's weight.
    """

    point: np.ndarray
    value: float
    gradient_norm: float
    smoothness: float
    l2: float


@dataclasses.dataclass(frozen=True)
class Problem:
    """Examples shared out over workers, with the minimum of their mean loss.

    Attributes:
        signed: float64 (workers, local examples, d). Rows y_j a_j.
        minimum: Of the mean over all of them.
    """

    signed: tf.Tensor
    minimum: Minimum

    @property
    def workers(self) -> int:
        """n."""
        return self.signed.shape[0]

    @property
    def local(self) -> int:
        """Examples per worker."""
        return self.signed.shape[1]

    @property
    def dimension(self) -> int:
        """d."""
        return self.signed.shape[2]

    @property
    def step_size(self) -> float:
        """γ = 1/(L + l2), the authors' step size."""
        return 1 / (self.minimum.smoothness + self.minimum.l2)

    def suboptimality(self, points: np.ndarray) -> np.ndarray:
        """f(x) - f* for points (r, d): float64 (r,), to about 1e-10 of itself.

        One matrix product for all points. Subtracting two values of f would leave
        1e-16 of rounding; since ∇f(x*) = 0, the difference is that of Bregman,
        mean φ(δ_j) + (l2/2)‖x - x*‖² with δ = y aᵀ(x - x*), q the weight of the
        example at x* and φ(δ) = log(1 - q + q exp(-δ)) + qδ >= 0, and each term is
        computed without cancellation.
        """
        parts = np.array_split(points, -(-len(points) // _POINTS_AT_ONCE) or 1)
        return np.concatenate([self._bregman(part) for part in parts])

    @functools.cached_property
    def _flat(self) -> np.ndarray:
        # A memoryview shares the memory; `numpy()` would copy all examples.
        return np.asarray(memoryview(self.signed)).reshape(-1, self.dimension)

    @functools.cached_property
    def _margin(self) -> np.ndarray:
        """y aᵀx* of every example: (m, 1)."""
        return (self._flat @ self.minimum.point)[:, np.newaxis]

    def _bregman(self, points: np.ndarray) -> np.ndarray:
        return _bregman(self._flat, self._margin, points, self.minimum)


@np.errstate(over="ignore", invalid="ignore")  # of points that diverge
def _bregman(
    signed: np.ndarray, margin: np.ndarray, points: np.ndarray, minimum: Minimum
) -> np.ndarray:
    """In numpy, whose product of float64 matrices uses more of the processor."""
    difference = points - minimum.point
    # φ is the same of 1 - q and -δ, so q <= 1/2, where 1 - q is not rounded away.
    weight = expit(-np.abs(margin))
    delta = np.where(margin < 0, -1.0, 1.0) * (signed @ difference.T)
    loss = np.log1p(weight * np.expm1(-delta)) + weight * delta
    far = delta < -_FAR
    if far.any():
        exponent = -np.logaddexp(0, np.abs(margin)) - delta  # log(q exp(-δ))
        exact = np.logaddexp(np.log1p(-weight), exponent) + weight * delta
        loss[far] = exact[far]
    small = np.abs(delta) < _SMALL
    if small.any():
        weight, delta = weight[np.nonzero(small)[0], 0], delta[small]
        # The cumulants of a Bernoulli variable of probability q.
        second = weight * (1 - weight)
        third = second * (1 - 2 * weight)
        fourth = second * (1 - 6 * second)
        series = second / 2 - delta * (third / 6 - delta * fourth / 24)
        loss[small] = delta**2 * series
    squared = (difference**2).sum(axis=1)
    return loss.mean(axis=0) + minimum.l2 / 2 * squared


def share_out(signed: np.ndarray, shares: np.ndarray, minimum: Minimum) -> Problem:
    """Gives each worker its examples.

    Args:
        signed: float64 (m, d). Rows y_j a_j.
        shares: int (workers, local examples). Their rows in `signed`.
        minimum: Of the mean loss over the rows in `shares`.
    """
    return Problem(tf.constant(signed[shares]), minimum)


def minimise(
    signed: np.ndarray, cache: Path | None = None, l2_factor: float = L2_FACTOR
) -> Minimum:
    """Finds x* to machine precision, or reads it from a cache.

    L-BFGS (scipy) goes as far as its line search can tell two values of f apart; a few
    Newton steps, solved by conjugate gradients, take ‖∇f‖ down to rounding.

    Args:
        signed: float64 (m, d). Rows y_j a_j.
        cache: Directory for the result, under a name made from the data. None: none.
        l2_factor: l2 / L.
    """
    file = None
    if cache is not None:
        digest = hashlib.sha256(np.ascontiguousarray(signed)).hexdigest()[:16]
        shape = f"{signed.shape[0]}x{signed.shape[1]}"
        file = cache / f"minimum-{shape}-{l2_factor:g}-{digest}.npz"
        if (found := _cached(file)) is not None:
            return found
    minimum = _minimise(signed, l2_factor)
    if file is not None:
        make_directory(file.parent)
        with opened(file, "wb") as kept:
            np.savez(kept, **minimum._asdict())
    return minimum


def _cached(file: Path) -> Minimum | None:
    """Reads a minimum; None if it is not there or damaged, and has to be found."""
    try:
        kept = read_npz(file)
        scalars = (float(kept[name]) for name in Minimum._fields[1:])
        return Minimum(kept["point"], *scalars)
    except (ValueError, LookupError, TypeError):
        return None


def _minimise(signed: np.ndarray, l2_factor: float) -> Minimum:
    m, d = signed.shape
    sigma = largest_singular_value(signed)
    smoothness = sigma * sigma / (4 * m)  # inf, where sigma**2 would raise
    if not 0 < smoothness < math.inf:
        raise Refusal(
            "The examples must not all be zero vectors, and their squares must be "
            "within float64. Scale the features. "
            f"Received: L = σ_max²/(4m) = {smoothness:.3g}."
        )
    l2 = l2_factor * smoothness

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signed @ x
        value = np.logaddexp(0, -margins).mean() + l2 / 2 * (x @ x)
        return value, l2 * x - signed.T @ expit(-margins) / m

    options = {"maxiter": 20_000, "maxfun": 40_000, "maxcor": 50, "ftol": 0, "gtol": 0}
    x = scipy.optimize.minimize(
        value_and_gradient, np.zeros(d), jac=True, method="L-BFGS-B", options=options
    ).x
    gradient = value_and_gradient(x)[1]
    for _ in range(_NEWTON_STEPS):
        curvature = expit(signed @ x)
        curvature *= (1 - curvature) / m
        hessian = scipy.sparse.linalg.LinearOperator(
            (d, d),
            matvec=lambda v, c=curvature: l2 * v + signed.T @ (c * (signed @ v)),
            dtype=np.float64,
        )
        # A better direction than to 1e-6 gains nothing: the next step corrects it.
        step, _ = scipy.sparse.linalg.cg(hessian, gradient, rtol=1e-6, maxiter=10 * d)
        closer = value_and_gradient(x - step)[1]
        before, after = np.linalg.norm(gradient), np.linalg.norm(closer)
        if after < before:
            x, gradient = x - step, closer
        if not after < before / 2:  # rounding is all that is left
            break
    value = value_and_gradient(x)[0]
    return Minimum(x, float(value), float(np.linalg.norm(gradient)), smoothness, l2)


def largest_singular_value(matrix: np.ndarray) -> float:
    """σ_max of a matrix (m, d)."""
    if min(matrix.shape) < _DENSE_SVD:
        return float(np.linalg.norm(matrix, 2))
    start = np.ones(min(matrix.shape))  # scipy draws one otherwise, a new one each time
    values = scipy.sparse.linalg.svds(
        matrix, k=1, v0=start, return_singular_vectors=False
    )
    return float(values[0])
