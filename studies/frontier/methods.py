"""The methods' steps, for C configurations of W workers each.

    AdamW       m = b1*m + (1-b1)*g    v = b2*v + (1-b2)*g^2
                w = w - rate*(m_hat/(sqrt(v_hat)+eps) + decay*w)
    message     c = C(p)    e = p - c    h = mean of c

"before" has p = e + g, and AdamW gets g = h. "momentum", once v is frozen, has
p = e + b1*m + (1-b1)*g and m = h. "local" has p = e + snapshot - w after some steps of
AdamW by each worker, then velocity = mu*velocity - outer*h and
w = snapshot + mu*velocity - outer*h.

Weights, moments and residuals are float32 vectors as long as the padded model, n.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from configurations import NEVER, Configuration
from messages import Compressed, Settings, compress

BETA_1, BETA_2, EPSILON, WEIGHT_DECAY, MOST_NORM = 0.9, 0.99, 1e-8, 0.1, 1.0


class Rates(NamedTuple):
    """Numbers of C configurations, each (C,)."""

    rate: jax.Array
    before: jax.Array  # bool
    frozen_from: jax.Array  # int32: the step from which momentum is compressed.
    dense_until: jax.Array  # int32: the step from which messages are compressed.
    period: jax.Array  # int32
    outer_rate: jax.Array
    outer_momentum: jax.Array
    decay: jax.Array
    clip: jax.Array  # bool


class Volume(NamedTuple):
    """Sums over messages, each (C,)."""

    bits: jax.Array  # Per parameter, of one worker.
    messages: jax.Array  # Compressed ones; sums of the next two are over them.
    entries: jax.Array  # Shares of the parameters.
    cut: jax.Array


class Shared(NamedTuple):
    """State of methods under which workers have the same weights."""

    weights: jax.Array  # (C, n)
    m: jax.Array  # (C, n)
    v: jax.Array  # (C, n)
    residual: jax.Array  # (C, W, n)
    volume: Volume


class Local(NamedTuple):
    """State of local updates."""

    weights: jax.Array  # (C, W, n)
    m: jax.Array  # (C, W, n)
    v: jax.Array  # (C, W, n)
    residual: jax.Array  # (C, W, n)
    snapshot: jax.Array  # (C, n): the model after the last round.
    velocity: jax.Array  # (C, n)
    volume: Volume


def rates_of(configurations: Sequence[Configuration]) -> Rates:
    """Their numbers, in arrays."""

    def numbers(name: str, kind: type = float) -> jax.Array:
        return jnp.array([kind(getattr(one, name)) for one in configurations])

    frozen = [
        one.freeze if one.method == "momentum" else NEVER for one in configurations
    ]
    dense = [NEVER if one.method == "dense" else one.freeze for one in configurations]
    return Rates(
        rate=numbers("rate"),
        before=jnp.array([one.method == "before" for one in configurations]),
        frozen_from=jnp.array(frozen, jnp.int32),
        dense_until=jnp.array(dense, jnp.int32),
        period=numbers("period", int),
        outer_rate=numbers("outer_rate"),
        outer_momentum=numbers("outer_momentum"),
        decay=numbers("decay"),
        clip=numbers("clip", bool),
    )


def _volume(configurations: int) -> Volume:
    return Volume(*(jnp.zeros(configurations) for _ in Volume._fields))


def start_shared(weights: jax.Array, workers: int) -> Shared:
    """State before the first step of models (C, n)."""
    configurations, length = weights.shape
    return Shared(
        weights,
        jnp.zeros_like(weights),
        jnp.zeros_like(weights),
        jnp.zeros((configurations, workers, length)),
        _volume(configurations),
    )


def start_local(weights: jax.Array, workers: int) -> Local:
    """State before the first step of models (C, n)."""
    own = spread(weights, workers)
    return Local(
        own,
        *(jnp.zeros_like(own) for _ in range(3)),
        snapshot=weights.copy(),
        velocity=jnp.zeros_like(weights),
        volume=_volume(len(weights)),
    )


@functools.partial(jax.jit, static_argnames="workers")
def spread(weights: jax.Array, workers: int) -> jax.Array:
    """Weights (C, n) for each worker: (C, W, n)."""
    configurations, length = weights.shape
    return jnp.broadcast_to(weights[:, None], (configurations, workers, length))


def _clipped(gradients: jax.Array) -> jax.Array:
    norm = jnp.sqrt(jnp.square(gradients).sum(-1, keepdims=True))
    return gradients * jnp.minimum(1.0, MOST_NORM / (norm + 1e-6))


def _stepped(weights, m, v, corrections, rate, matrices):
    """Weights after AdamW's step; rates and corrections fit beside the weights."""
    first, second = corrections
    direction = (m / first) / (jnp.sqrt(v / second) + EPSILON)
    return weights - rate * (direction + WEIGHT_DECAY * matrices * weights)


def _with(volume: Volume, compressed: Compressed, now: jax.Array) -> Volume:
    """Volume after messages of those configurations for which `now` (C,) is true."""
    return Volume(
        volume.bits + jnp.where(now, compressed.bits, 0.0),
        volume.messages + now,
        volume.entries + jnp.where(now, compressed.entries, 0.0),
        volume.cut + jnp.where(now, compressed.cut, 0.0),
    )


@functools.partial(
    jax.jit, static_argnames=("size", "compressing"), donate_argnames="state"
)
def step_shared(
    state: Shared,
    gradients: jax.Array,
    step: jax.Array,
    factor: jax.Array,
    rates: Rates,
    settings: Settings,
    matrices: jax.Array,
    size: int,
    compressing: bool,
) -> Shared:
    """One step of "dense", "before" and "momentum".

    Args:
        state: What has been so far.
        gradients: float32 (C, W, n).
        step: int32 scalar, from 0.
        factor: float32 scalar. The schedule's, at the most 1.
        rates: Of the configurations.
        settings: Of the configurations.
        matrices: float32 (n,). 1 for what decays.
        size: Parameters, padding apart.
        compressing: Whether any configuration does so in this step.
    """
    weights, m, v, residual, volume = state
    grown = step + 1
    dense = step < rates.dense_until
    frozen = step >= rates.frozen_from
    heard = _clipped(gradients.mean(1))
    if compressing:
        clip = rates.clip[:, None, None]
        own = jnp.where(clip, _clipped(gradients), gradients)
        momentum = BETA_1 * m[:, None] + (1 - BETA_1) * own
        corrected = rates.decay[:, None, None] * residual
        corrected += jnp.where(rates.before[:, None, None], own, momentum)
        compressed = compress(corrected, settings, size)
        left = corrected - compressed.message
        residual = jnp.where(dense[:, None, None], residual, left)
        heard = jnp.where(dense[:, None], heard, compressed.message.mean(1))
        volume = _with(volume, compressed, ~dense)
    volume = volume._replace(bits=volume.bits + jnp.where(dense, 32.0, 0.0))
    next_m = BETA_1 * m + (1 - BETA_1) * heard
    next_v = BETA_2 * v + (1 - BETA_2) * jnp.square(heard)
    if compressing:
        next_m = jnp.where(frozen[:, None], heard, next_m)
        next_v = jnp.where(frozen[:, None], v, next_v)
    # The frozen moment stays as it was corrected when it was frozen.
    second = 1 - BETA_2 ** jnp.minimum(grown, rates.frozen_from)[:, None]
    corrections = (1 - BETA_1**grown, second)
    rate = (rates.rate * factor)[:, None]
    weights = _stepped(weights, next_m, next_v, corrections, rate, matrices)
    return Shared(weights, next_m, next_v, residual, volume)


@functools.partial(jax.jit, donate_argnames="state")
def step_local(
    state: Local,
    gradients: jax.Array,
    step: jax.Array,
    factor: jax.Array,
    rates: Rates,
    matrices: jax.Array,
) -> Local:
    """One step of AdamW by every worker; arguments as of `step_shared`."""
    own = _clipped(gradients)
    m = BETA_1 * state.m + (1 - BETA_1) * own
    v = BETA_2 * state.v + (1 - BETA_2) * jnp.square(own)
    corrections = (1 - BETA_1 ** (step + 1), 1 - BETA_2 ** (step + 1))
    rate = (rates.rate * factor)[:, None, None]
    weights = _stepped(state.weights, m, v, corrections, rate, matrices)
    return state._replace(weights=weights, m=m, v=v)


@functools.partial(jax.jit, static_argnames="size", donate_argnames="state")
def exchange(
    state: Local, now: jax.Array, rates: Rates, settings: Settings, size: int
) -> Local:
    """A round of those configurations for which `now` (C,) is true."""
    decay, mu = rates.decay[:, None, None], rates.outer_momentum[:, None]
    corrected = decay * state.residual + state.snapshot[:, None] - state.weights
    compressed = compress(corrected, settings, size)
    moved = rates.outer_rate[:, None] * compressed.message.mean(1)
    velocity = mu * state.velocity - moved
    # Keras's SGD: Nesterov's step where there is momentum.
    snapshot = state.snapshot + mu * velocity - moved
    one, own = now[:, None], now[:, None, None]
    return state._replace(
        weights=jnp.where(own, snapshot[:, None], state.weights),
        residual=jnp.where(own, corrected - compressed.message, state.residual),
        snapshot=jnp.where(one, snapshot, state.snapshot),
        velocity=jnp.where(one, velocity, state.velocity),
        volume=_with(state.volume, compressed, now),
    )
