"""Parity with the TEM study: its algorithm written once more, in numpy, step by step.

Each worker: p = g + m; the entries that the compressor selects are sent; m = p with
these zeroed; all receive the sum over workers (given gradients are already divided by
their number where that is said). Float32 throughout and sums in worker order, so that
equality is of bits. Three workers, fifty steps; the optimizer is the real one, over
virtual devices.
"""

import numpy as np
import pytest

import tem_tf
from tests.steps import apply_gradients, residuals
from tests.training import make_strategy

WORKERS, STEPS = 3, 50
LAYERS = [slice(0, 20), slice(20, 60)]  # As tests.steps cuts 60 entries.


def given_gradients():
    """float32 (steps, workers, 60); the layers' norms change in different ways."""
    rng = np.random.default_rng(7)
    gradients = rng.normal(size=(STEPS, WORKERS, 60))
    time = np.arange(STEPS)[:, np.newaxis, np.newaxis]
    gradients[..., LAYERS[0]] *= np.exp(-time / 12)
    gradients[..., LAYERS[1]] *= 1 + (time // 20)
    return gradients.astype(np.float32)


def largest(p, k):
    """Positions of the k entries of greatest magnitude, the lower index first."""
    return np.argsort(-np.abs(p), kind="stable")[:k]


def selects_all(p, step, state):
    return np.ones(p.shape, bool)


def selects_above(threshold):
    return lambda p, step, state: np.abs(p) >= np.float32(threshold)


def selects_of_each_layer(density):
    def select(p, step, state):
        mask = np.zeros(p.shape, bool)
        for layer in LAYERS:
            size = layer.stop - layer.start
            k = max(1, int(density * size))
            mask[layer.start + largest(p[layer], k)] = True
        return mask

    return select


def selects_of_all(density):
    def select(p, step, state):
        mask = np.zeros(p.shape, bool)
        mask[largest(p, max(1, int(density * p.size)))] = True
        return mask

    return select


class Accordion:
    """Two densities; decided by the aggregate of steps 0, I, 2I, … for later steps."""

    def __init__(self, low, high, interval, decays):
        self.low, self.high, self.interval, self.decays = low, high, interval, decays
        self.is_high, self.norms = [True, True], [None, None]
        self.decisions = []

    def __call__(self, p, step, state):
        mask = np.zeros(p.shape, bool)
        for layer, is_high in zip(LAYERS, self.is_high, strict=True):
            density = self.high if is_high else self.low
            k = max(1, int(density * (layer.stop - layer.start)))
            mask[layer.start + largest(p[layer], k)] = True
        return mask

    def after(self, aggregate, step):
        if step % self.interval:
            return
        norms = [np.linalg.norm(aggregate[layer].astype(float)) for layer in LAYERS]
        lowered = any(step - self.interval < decay <= step for decay in self.decays)
        self.is_high = [
            step == 0 or lowered or abs(now - before) > 0.5 * before
            for now, before in zip(norms, self.norms, strict=True)
            if step == 0 or before is not None
        ]
        self.norms = norms
        self.decisions.append(tuple(self.is_high))


def oracle(gradients, select, with_memory):
    """Weights after each step at rate 1, from zeros, and the last residuals."""
    m = np.zeros(gradients.shape[1:], np.float32)
    weights, position = [], np.zeros(gradients.shape[2], np.float32)
    for step, row in enumerate(gradients):
        aggregate = np.zeros_like(position)
        for worker in range(len(row)):
            p = row[worker] + m[worker] if with_memory else row[worker]
            sent = np.where(select(p, step, None), p, np.float32(0))
            m[worker] = p - sent if with_memory else 0
            aggregate = aggregate + sent
        if hasattr(select, "after"):
            select.after(aggregate, step)
        position = position - aggregate
        weights.append(position)
    return np.array(weights), m


CASES = {
    "hard_threshold": (tem_tf.HardThreshold(1.7), lambda: selects_above(1.7)),
    "topk_layer": (tem_tf.TopK(0.11), lambda: selects_of_each_layer(0.11)),
    "topk_model": (tem_tf.TopK(0.11, scope="model"), lambda: selects_of_all(0.11)),
    "accordion": (
        tem_tf.Accordion(0.05, 0.3, interval_steps=5, learning_rate_decays=(31,)),
        lambda: Accordion(0.05, 0.3, 5, (31,)),
    ),
}


@pytest.mark.parametrize("with_memory", [True, False], ids=["memory", "no_memory"])
@pytest.mark.parametrize("case", CASES)
def test_aggregate_and_residuals_are_the_studys(case, with_memory):
    compressor, select = CASES[case]
    gradients, select = given_gradients(), select()
    expected, held = oracle(gradients, select, with_memory)
    weights, optimizer = apply_gradients(
        make_strategy(WORKERS),
        gradients,
        compressor,
        memory="auto" if with_memory else None,
        gradients_divided_by_replicas=False,
    )
    for replica in range(WORKERS):
        np.testing.assert_array_equal(weights[:, replica], expected)
    np.testing.assert_array_equal(residuals(make_strategy(WORKERS), optimizer), held)
    assert held.any() == with_memory
    if case == "accordion":  # Both densities were used, and not alike in both layers.
        assert {(True, False), (False, False), (True, True)} <= set(select.decisions)


@pytest.mark.parametrize("with_memory", [True, False], ids=["memory", "no_memory"])
def test_exact_is_the_sum(with_memory):
    gradients = given_gradients()
    expected, _ = oracle(gradients, selects_all, with_memory)
    weights, _ = apply_gradients(
        make_strategy(WORKERS),
        gradients,
        tem_tf.Identity(),
        memory=tem_tf.ErrorFeedback() if with_memory else None,
    )
    # Keras's own all-reduce adds in an order of its own.
    np.testing.assert_allclose(weights[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_hard_threshold_on_gradients_that_keras_divided():
    """λ is in undivided units: the same entries, and the mean for the sum."""
    gradients = given_gradients()
    expected, held = oracle(gradients, selects_above(1.7), with_memory=True)
    weights, optimizer = apply_gradients(
        make_strategy(WORKERS), gradients / 3, tem_tf.HardThreshold(1.7)
    )
    np.testing.assert_allclose(weights[:, 0], expected / 3, rtol=1e-4, atol=1e-4)
    actual = residuals(make_strategy(WORKERS), optimizer)
    np.testing.assert_allclose(actual, held / 3, rtol=1e-4, atol=1e-4)
