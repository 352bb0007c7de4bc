"""The character-level GPT, its text, and its gradients for many replicas at once.

karpathy/nanoGPT's configuration for a CPU: 4 layers, 4 heads, 128 features, 64
characters of context, batches of 12, no biases, no dropout, learned positions, layer
norm before, GELU, one matrix for embedding and head: 804,096 parameters.

All parameters of a model are one float32 vector, padded with zeros to whole blocks.
"""

from __future__ import annotations

import functools
import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 4096  # Entries of which Top-k by blocks takes the same share each.
# Rows of the embedding in a product, and so of the logits: more than there are symbols,
# for units that multiply 8 at a time.
ROWS = 72
DEVIATION = 0.02  # Of GPT-2's initial weights.


class Job(NamedTuple):
    """What is trained. It is static: another one is compiled again."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 64
    batch: int = 12  # Of a worker.
    workers: int = 4
    symbols: int = 65
    activations: str = "float32"  # What activations are kept in; weights are float32.


class Text(NamedTuple):
    """Characters as numbers.

    Attributes:
        train: int32 (characters,).
        windows: int32 (W, context + 1). All of the validation split, end to end.
    """

    train: jax.Array
    windows: np.ndarray


def read_text(path: pathlib.Path, context: int) -> Text:
    """Nine tenths to train on, one to validate, as nanoGPT's prepare.py."""
    characters = np.frombuffer(path.read_bytes(), np.uint8)
    numbers = np.unique(characters, return_inverse=True)[1].astype(np.int32)
    end = int(len(numbers) * 0.9)
    train, validation = numbers[:end], numbers[end:]
    windows = np.lib.stride_tricks.sliding_window_view(validation, context + 1)
    return Text(jnp.asarray(train), windows[::context].copy())


def shapes(job: Job) -> list[tuple[int, ...]]:
    """Of all parameters, in the order in which they stand in the vector."""
    width = job.width
    layer = [
        (width,),
        (width, 3 * width),
        (width, width),
        (width,),
        (width, 4 * width),
        (4 * width, width),
    ]
    return [(job.symbols, width), (job.context, width), *layer * job.layers, (width,)]


def size(job: Job) -> int:
    """How many parameters there are."""
    return sum(math.prod(shape) for shape in shapes(job))


def padded_size(job: Job) -> int:
    """The length of the vector: whole blocks."""
    return -(-size(job) // BLOCK) * BLOCK


def flat(parts: list) -> jax.Array:
    """One vector of all parameters, or of their gradients."""
    vector = jnp.concatenate([jnp.ravel(part) for part in parts])
    return jnp.pad(vector, (0, -vector.size % BLOCK))


def parts_of(vector: jax.Array, job: Job) -> list[jax.Array]:
    """Parameters in their shapes."""
    parts, begin = [], 0
    for shape in shapes(job):
        end = begin + math.prod(shape)
        parts.append(vector[begin:end].reshape(shape))
        begin = end
    return parts


def matrices(job: Job) -> jax.Array:
    """1 for what decays, 0 for layer norm and padding: float32 (padded size,)."""
    return flat([jnp.full(shape, float(len(shape) == 2)) for shape in shapes(job)])


@functools.partial(jax.jit, static_argnames="job")
def initial(seeds: jax.Array, job: Job) -> jax.Array:
    """Weights of models (C, padded size) by seeds (C,), as GPT-2's."""
    last = DEVIATION / math.sqrt(2 * job.layers)  # Of what is added to the residual.

    def one(seed: jax.Array) -> jax.Array:
        key, parts = jax.random.key(seed), []
        for number, shape in enumerate(shapes(job)):
            if len(shape) == 1:
                parts.append(jnp.ones(shape))
                continue
            adds = number >= 2 and (number - 2) % 6 in (2, 5)
            normal = jax.random.normal(jax.random.fold_in(key, number), shape)
            parts.append(normal * (last if adds else DEVIATION))
        return flat(parts)

    return jax.vmap(one)(seeds)


def _norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    exact = x.astype(jnp.float32)
    exact = exact - exact.mean(-1, keepdims=True)
    variance = jnp.square(exact).mean(-1, keepdims=True)
    return (exact * jax.lax.rsqrt(variance + 1e-5) * gain).astype(x.dtype)


def _loss(parts: list[jax.Array], windows: jax.Array, job: Job) -> jax.Array:
    """Mean cross-entropy of every next character in windows (B, context + 1)."""
    kind = jnp.dtype(job.activations)
    embedding, positions, *layers, gain = parts
    embedding = jnp.pad(embedding, ((0, ROWS - job.symbols), (0, 0))).astype(kind)
    # A product with one-hot rows: its gradient is a product too, and no scatter.
    x = jax.nn.one_hot(windows[:, :-1], ROWS, dtype=kind) @ embedding
    x = x + positions.astype(kind)
    batch, time, width = x.shape
    heads = (batch, time, job.heads, width // job.heads)
    past = jnp.tril(jnp.ones((time, time), bool))
    for number in range(job.layers):
        before, queries, out, after, up, down = layers[6 * number : 6 * number + 6]
        three = jnp.split(_norm(x, before) @ queries.astype(kind), 3, axis=-1)
        q, k, v = (one.reshape(heads) for one in three)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) * heads[-1] ** -0.5
        scores = jnp.where(past, scores.astype(jnp.float32), -1e30)
        weights = jax.nn.softmax(scores).astype(kind)
        heard = jnp.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape)
        x = x + heard @ out.astype(kind)
        hidden = jax.nn.gelu(_norm(x, after) @ up.astype(kind), approximate=False)
        x = x + hidden @ down.astype(kind)
    logits = (_norm(x, gain) @ embedding.T).astype(jnp.float32)
    logits = jnp.where(jnp.arange(ROWS) < job.symbols, logits, -1e30)
    right = jax.nn.one_hot(windows[:, 1:], ROWS) > 0
    chosen = jnp.where(right, logits, 0.0).sum(-1)
    return (jax.nn.logsumexp(logits, axis=-1) - chosen).mean()


def _batch(seed, worker, step, text: jax.Array, job: Job) -> jax.Array:
    """Windows that hang on seed, worker and step alone: int32 (batch, context + 1)."""
    key = jax.random.key(jnp.uint32(0x7E37))
    for number in (seed, worker, step):
        key = jax.random.fold_in(key, number)
    starts = jax.random.randint(key, (job.batch,), 0, text.size - job.context)
    return text[starts[:, None] + jnp.arange(job.context + 1)]


@functools.partial(jax.jit, static_argnames="job")
def gradients(
    weights: jax.Array, seeds: jax.Array, step: jax.Array, text: jax.Array, job: Job
) -> jax.Array:
    """Gradients (C, W, n) of workers with weights (C, W, n), each of its own batch.

    Args:
        weights: float32 (C, W, padded size).
        seeds: int32 (C,).
        step: int32 scalar.
        text: int32 (characters,).
        job: What is trained.
    """
    configurations, workers, _ = weights.shape

    def one(vector: jax.Array, number: jax.Array) -> jax.Array:
        seed, worker = seeds[number // workers], number % workers
        windows = _batch(seed, worker, step, text, job)
        return flat(jax.grad(_loss)(parts_of(vector, job), windows, job))

    replicas = configurations * workers
    found = jax.vmap(one)(weights.reshape(replicas, -1), jnp.arange(replicas))
    return found.reshape(weights.shape)


@functools.partial(jax.jit, static_argnames="job")
def losses(weights: jax.Array, windows: jax.Array, job: Job) -> jax.Array:
    """Of models (C, padded size), on windows (B, context + 1): float32 (C,)."""
    return jax.vmap(lambda vector: _loss(parts_of(vector, job), windows, job))(weights)
