"""Tiny problems that the tests of the laboratory share."""

import functools

import numpy as np

from tem_studies.convex import problem


def signed_rows(m, d, seed=0):
    """Rows y_j a_j of a made-up problem that no plane separates."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(m, d)) * np.linspace(1, 0.3, d)
    plane = generator.normal(size=d)
    labels = np.sign(rows @ plane + generator.normal(size=m))
    return labels[:, np.newaxis] * rows


@functools.cache
def tiny(workers=3, local=6, d=7, seed=0, l2_factor=problem.L2_FACTOR):
    """A problem shared out in order."""
    signed = signed_rows(workers * local, d, seed)
    shares = np.arange(len(signed)).reshape(workers, local)
    return problem.share_out(signed, shares, problem.minimise(signed, None, l2_factor))
