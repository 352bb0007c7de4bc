"""Which worker has which examples: shuffled, Dirichlet or sorted by label."""

from __future__ import annotations

import numpy as np

from tem_studies.refusal import Refusal

SPLITS = ("shuffled", "dirichlet", "sorted")


def share(
    labels: np.ndarray, workers: int, split: str, seed: int, alpha: float = 1.0
) -> np.ndarray:
    """Gives every worker the same number of examples.

    Args:
        labels: (m,), -1 or 1.
        workers: Int >= 1, at most m.
        split: "shuffled", the study's; "sorted", by label, so that most workers have
            one class only; "dirichlet", each worker's share of the second class drawn
            from Beta(α, α), the Dirichlet distribution of two classes, as far as there
            are examples left.
        seed: Of the permutation and the shares.
        alpha: Of dirichlet, > 0. Lower => more unequal.

    Returns:
        int (workers, m // workers), rows of the kept examples. Those over m // workers
        times workers are dropped, the same whatever the seed and split, so that all
        share one f and one x*.

    Raises:
        Refusal: there are fewer examples than workers.
    """
    local = len(labels) // workers
    if local < 1:
        raise Refusal(
            "`workers` must be at most the number of examples. "
            f"Received: workers={workers} with {len(labels)} examples."
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(kept(len(labels), workers))
    if split == "sorted":
        order = order[np.argsort(labels[order], kind="stable")]
    elif split == "dirichlet":
        order = _dirichlet(order, labels, workers, alpha, generator)
    return order.reshape(workers, local)


def kept(examples: int, workers: int) -> np.ndarray:
    """The sorted rows that stay when each worker has the same number."""
    chosen = np.random.default_rng(0).permutation(examples)
    return np.sort(chosen[: examples // workers * workers])


def _dirichlet(
    order: np.ndarray,
    labels: np.ndarray,
    workers: int,
    alpha: float,
    generator: np.random.Generator,
) -> np.ndarray:
    local = len(order) // workers
    first = list(order[labels[order] < 0])
    second = list(order[labels[order] > 0])
    shares = []
    for part in generator.beta(alpha, alpha, size=workers):
        # As many as wanted, but no more than there are, and no fewer than the other
        # class leaves to be filled.
        count = max(min(round(part * local), len(second)), local - len(first))
        shares.append(second[:count] + first[: local - count])
        del second[:count], first[: local - count]
    return np.array(shares)
