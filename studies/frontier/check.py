"""Laws of the simulation, on a tiny model: seconds on a CPU.

python studies/frontier/check.py TEXT
"""

from __future__ import annotations

import pathlib
import sys

import jax
import jax.numpy as jnp
import methods
import model
import numpy as np
from configurations import Configuration
from messages import compress, settings_of

TABLE = pathlib.Path(__file__).parent / "wire_bits.csv"
JOB = model.Job(layers=1, heads=2, width=32, context=16, batch=2, workers=1)
STEPS = 20


def trained(one: Configuration, text: jax.Array, workers: int) -> np.ndarray:
    """The model after 20 steps at a constant rate, and the corrected sums' law."""
    job = JOB._replace(workers=workers)
    size, matrices = model.size(job), model.matrices(job)
    rates, settings = methods.rates_of([one]), settings_of([one], size, TABLE)
    seeds = jnp.array([0])
    weights = model.initial(seeds, job)
    local = one.method == "local"
    start = methods.start_local if local else methods.start_shared
    state = start(weights, workers)
    for step in range(STEPS):
        own = state.weights if local else methods.spread(state.weights, workers)
        gradients = model.gradients(own, seeds, jnp.int32(step), text, job)
        now, factor = jnp.int32(step), jnp.float32(1)
        if not local:
            state = methods.step_shared(
                *(state, gradients, now, factor, rates, settings, matrices),
                size=size,
                compressing=one.method != "dense" and step >= one.freeze,
            )
            continue
        state = methods.step_local(state, gradients, now, factor, rates, matrices)
        if (step + 1) % one.period == 0:
            state = methods.exchange(
                state, jnp.array([True]), rates, settings, size=size
            )
    return np.asarray(getattr(state, "snapshot", state.weights))[0]


def check_methods(text: jax.Array) -> None:
    """What sends everything, exactly and at every step, is dense AdamW."""
    rate = 1e-3
    for workers in (1, 2):
        dense = trained(Configuration("dense", rate), text, workers)
        before = trained(Configuration("before", rate), text, workers)
        local = trained(Configuration("local", rate), text, workers)
        moved = np.abs(dense - trained(Configuration("dense", 0.0), text, workers))
        print(
            f"{workers} workers, moved by {moved.max():.1e}; beside dense: before"
            f" {np.abs(dense - before).max():.1e},"
            f" local {np.abs(dense - local).max():.1e}"
        )
        if workers == 1:
            # Sums in another order alone; local adds what it has subtracted.
            np.testing.assert_allclose(before, dense, atol=1e-6)
            np.testing.assert_allclose(local, dense, atol=1e-5)
    # Until it is frozen, momentum is dense.
    never = trained(Configuration("momentum", rate, freeze=STEPS), text, 2)
    np.testing.assert_array_equal(never, trained(Configuration("dense", rate), text, 2))


def check_compression() -> None:
    """Nothing is lost, k are sent, and they are the largest."""
    size = 3 * model.BLOCK + 100
    random = np.random.default_rng(0)
    values = np.zeros((1, 2, 4 * model.BLOCK), np.float32)
    values[:, :, :size] = random.standard_t(3, size=(1, 2, size)) * 1e-4
    compressed = jax.jit(compress, static_argnames="size")
    for density, rule, bits in (
        *((1.0, "model", bits) for bits in (32, 4, 2, 1)),
        *((1 / 16, rule, bits) for rule in ("model", "block") for bits in (32, 2, 1)),
        (1 / 256, "threshold", 2),
    ):
        one = Configuration("local", 1e-3, density, rule, cut=4e-4, value_bits=bits)
        found = compressed(jnp.asarray(values), settings_of([one], size, TABLE), size)
        message = np.asarray(found.message)
        sent = message != 0
        magnitudes = np.abs(values[:, :, :size])
        if rule == "model":
            k = max(1, int(density * size + 1e-9))
            least = np.sort(magnitudes, -1)[..., -k]
            assert (sent[..., :size] == (magnitudes >= least[..., None])).all()
            assert (sent.sum(-1) == k).all()
        elif rule == "threshold":
            assert (sent[..., :size] == (magnitudes >= np.float32(one.cut))).all()
        else:
            blocks = sent.reshape(2, 4, model.BLOCK).sum(-1)
            assert (blocks == [*[int(model.BLOCK * density)] * 3, 6]).all(), blocks
        assert not sent[..., size:].any()
        residual = values - message
        # Floats near one another are subtracted exactly, others are rounded once.
        np.testing.assert_allclose(message + residual, values, rtol=1e-6, atol=1e-9)
        if bits == 32:
            assert (message[sent] == values[sent]).all()
        lost = np.square(values[sent] - message[sent]).sum() / np.square(values).sum()
        print(
            f"{density:.4g} by {rule}, {bits} bits: {float(found.bits[0]):.4f} bits per"
            f" parameter, {float(found.entries[0]):.4%} sent, {lost:.4f} of the square"
            f" norm lost by rounding, cut {float(found.cut[0]):.2e}"
        )


def main() -> None:
    """Runs both."""
    text = model.read_text(pathlib.Path(sys.argv[1]), JOB.context)
    check_compression()
    check_methods(text.train)


if __name__ == "__main__":
    main()
