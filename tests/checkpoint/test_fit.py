"""`fit` with a Checkpoint: killed at any step and started again, it ends the same."""

import functools

import keras
import pytest

import tem_tf
from tests.checkpoint.training import STEPS, fit
from tests.training import make_strategy

# Compression, memory and options: what each keeps between steps.
WAYS = {
    "dense": lambda: keras.optimizers.Adam(0.01),
    "identity": lambda: wrapped(tem_tf.Identity()),
    "threshold": lambda: wrapped(tem_tf.HardThreshold(0.01)),
    "topk_16_bits": lambda: wrapped(tem_tf.TopK(0.1), value_dtype="bfloat16"),
    "momentum_correction": lambda: wrapped(
        tem_tf.TopK(0.1), memory=tem_tf.MomentumCorrection(0.5)
    ),
    "ef21_sgdm": lambda: wrapped(tem_tf.TopK(0.1), memory=tem_tf.EF21SGDM(0.2)),
    "adaptive_threshold": lambda: wrapped(tem_tf.AdaptiveThreshold(0.1, steps=24)),
    "accordion": lambda: wrapped(tem_tf.Accordion(0.1, 0.5, interval_steps=4)),
    "random_k": lambda: wrapped(tem_tf.RandomK(0.1, seed=1)),
    "powersgd": lambda: wrapped(tem_tf.PowerSGD(1)),
    "sign": lambda: wrapped(tem_tf.Sign()),
    "accumulated": lambda: wrapped(tem_tf.TopK(0.1), accumulate_steps=3),
    "scaled": lambda: wrapped(tem_tf.TopK(0.1), loss_scale="dynamic"),
    "local_updates": lambda: tem_tf.LocalUpdates(
        keras.optimizers.Adam(0.01),
        local_steps=4,
        compressor=tem_tf.TopK(0.25),
        value_dtype="int4",
    ),
    # Killed before it is frozen, and after.
    "compressed_adamw": lambda: tem_tf.CompressedAdamW(0.01, freeze_step=8),
}


def wrapped(compressor, **options):
    return tem_tf.SparsifiedOptimizer(
        keras.optimizers.Adam(0.01), compressor, **options
    )


@functools.cache
def undisturbed(way, replicas, directory):
    return fit(make_strategy(replicas), WAYS[way], directory / f"{way}-{replicas}")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed")


def rows():
    """A few ways; all of them, also on two replicas, only if asked for."""
    few = {
        "dense": (1,),
        "topk_16_bits": (1, 2),
        "momentum_correction": (1,),
        "adaptive_threshold": (1, 2),
        "accumulated": (1,),
        "scaled": (1,),
        "local_updates": (2,),
        "compressed_adamw": (2,),
    }
    for way in WAYS:
        for replicas in (1, 2):
            asked = replicas not in few.get(way, ())
            yield pytest.param(
                way, replicas, marks=pytest.mark.exhaustive if asked else ()
            )


@pytest.mark.slow
@pytest.mark.parametrize(("way", "replicas"), list(rows()))
def test_killed_twice_it_ends_the_same(way, replicas, directory, tmp_path):
    strategy = make_strategy(replicas)
    for kill_at in (5, 7):  # At steps 5 and, from 3 on, 10.
        assert fit(strategy, WAYS[way], tmp_path, kill_at=kill_at) is None
    ended = fit(strategy, WAYS[way], tmp_path)
    assert ended == undisturbed(way, replicas, directory)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kill_at", range(1, 3 * STEPS + 1))
def test_killed_at_any_step_it_ends_the_same(kill_at, directory, tmp_path):
    strategy, way = make_strategy(1), "topk_16_bits"
    assert fit(strategy, WAYS[way], tmp_path, kill_at=kill_at) is None
    assert fit(strategy, WAYS[way], tmp_path) == undisturbed(way, 1, directory)
