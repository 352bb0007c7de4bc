"""Exchanges in fragments: what they make of steps that workers took by themselves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.replica_state import values_here
from tem_tf.streaming import pieces_of
from tests.training import dyadic_gradients, train_each_alone

SGD = keras.optimizers.SGD
SIZES = (6, 2, 4)


def by_hand(rows, local_steps, due, rate, momentum, outer, living=None):
    """The same in numpy, everything sent.

    `due` says of each piece after how many steps, and which entries; `outer`: rate and
    momentum; `living`, of entries, whether they live.
    """
    replicas, size = rows.shape[1:]
    living = np.ones(size, np.float32) if living is None else living
    common, velocity = np.zeros(size, np.float32), np.zeros(size, np.float32)
    own = np.tile(common, (replicas, 1))
    slots = np.zeros_like(own)
    history = []
    for step, row in enumerate(rows):
        start = own
        slots = momentum * slots - rate * row
        own = own + slots
        for after, at in due:
            if step > 0 and step % local_steps == after:
                mean = ((common - start) * living).mean(axis=0)[at]
                velocity[at] = outer[1] * velocity[at] - outer[0] * mean
                common[at] = common[at] + velocity[at]
                own = own.copy()
                own[:, at] = common[at] + (slots * living)[:, at]
        history.append(own)
    return np.array(history, np.float32)


def test_pieces_are_whole_variables_of_sizes_much_alike():
    sizes = {"a": 5, "b": 1, "c": 1, "d": 3, "e": 0}
    assert pieces_of(sizes, 1) == [["a", "b", "c", "d", "e"]]
    pieces = pieces_of(sizes, 2)
    assert sorted(sum(pieces, [])) == list("abcde")
    assert {sum(sizes[name] for name in piece) for piece in pieces} == {5}
    assert pieces_of(sizes, 9) == [["a"], ["b"], ["c"], ["d"], ["e"]]


@pytest.mark.parametrize(
    ("graph", "replicas", "fragments"),
    [(True, 1, 1), (True, 2, 1), (True, 2, 2), (True, 3, 3), (False, 2, 3)],
)
def test_it_is_what_one_would_write_by_hand(graph, replicas, fragments):
    rows = dyadic_gradients(11, replicas, sum(SIZES))
    optimizer, _, found = train_each_alone(
        lambda: tem_tf.LocalUpdates(
            SGD(0.5, momentum=0.5),
            SGD(0.5, momentum=0.5),
            local_steps=3,
            fragments=fragments,
        ),
        rows,
        SIZES,
        graph,
    )
    first, second, third = slice(0, 6), slice(6, 8), slice(8, 12)
    due = {
        1: [(0, slice(0, 12))],
        2: [(0, first), (1, slice(6, 12))],
        3: [(0, first), (1, second), (2, third)],
    }[fragments]
    expected = by_hand(rows, 3, due, 0.5, 0.5, (0.5, 0.5))
    tolerance = 0 if replicas < 3 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    exchanges = sum(step % 3 == after for step in range(1, 11) for after, _ in due)
    assert optimizer.communication_summary()["steps"] == exchanges


def test_of_a_mask_only_what_lives_goes_on():
    rows = dyadic_gradients(9, 2, sum(SIZES))
    living = np.array([1, 0, 1, 1, 0, 1] + [1] * 6, np.float32)
    masks = {"weights_0": living[:6]}
    _, _, found = train_each_alone(
        lambda: tem_tf.LocalUpdates(
            SGD(0.5, momentum=0.5),
            SGD(0.5, momentum=0.5),
            local_steps=2,
            fragments=2,
            masks=masks,
        ),
        rows,
        SIZES,
    )
    due = [(0, slice(0, 6)), (1, slice(6, 12))]
    expected = by_hand(rows, 2, due, 0.5, 0.5, (0.5, 0.5), living)
    np.testing.assert_array_equal(found, expected)


COMPRESSION = [
    (tem_tf.HardThreshold(1.0), "float32"),
    (tem_tf.TopK(0.25), "bfloat16"),
    (tem_tf.PowerSGD(1), "float32"),
    (tem_tf.AllEntries(), "int2"),
]


@pytest.mark.parametrize(
    ("compressor", "value_dtype"), COMPRESSION, ids=["threshold", "topk", "psgd", "all"]
)
def test_what_moved_was_sent_or_is_kept_and_all_are_equal(compressor, value_dtype):
    rows = dyadic_gradients(9, 2, 96)

    def run(**compression):
        optimizer, weights, _ = train_each_alone(
            lambda: tem_tf.LocalUpdates(
                SGD(0.5), SGD(1.0), local_steps=3, fragments=3, **compression
            ),
            rows,
            sizes=(48, 16, 32),
        )
        with pytest.raises(ValueError, match="between two exchanges"):
            optimizer.save_own_variables({})
        assert optimizer.pending == 9
        optimizer.synchronise()
        assert optimizer.pending == 0
        each = [[one.numpy() for one in values_here(w)] for w in weights]
        mine, its = (np.concatenate(own) for own in zip(*each, strict=True))
        np.testing.assert_array_equal(mine, its)
        return optimizer, mine

    optimizer, found = run(compressor=compressor, value_dtype=value_dtype)
    _, whole = run()
    kept = [
        np.concatenate([state[f"memory/residual/weights_{i}"] for i in range(3)])
        for state in optimizer.aggregator.state.values()
    ]
    np.testing.assert_allclose(found - np.mean(kept, axis=0), whole, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, 3e38], ids=["gradient", "weights"])
def test_what_is_not_finite_counts_for_nothing(bad):
    rows = dyadic_gradients(7, 2, sum(SIZES))
    rows[1, 1, 3] = bad  # Of 3e38 the gradient is finite, and the weights are not.
    optimizer, weights, found = train_each_alone(
        lambda: tem_tf.LocalUpdates(
            SGD(2.0, momentum=0.5),
            SGD(1.0),
            local_steps=2,
            fragments=2,
            nonfinite="zero",
        ),
        rows,
        SIZES,
    )
    assert np.isfinite(found[-1]).all()
    optimizer.synchronise()
    for one in weights:
        np.testing.assert_array_equal(*(each.numpy() for each in values_here(one)))


def test_a_worker_whose_weights_are_not_finite_ends_all():
    rows = dyadic_gradients(4, 2, sum(SIZES))
    rows[0, 1, 3] = np.inf
    with pytest.raises(tf.errors.InvalidArgumentError, match="has NaN or Inf"):
        train_each_alone(
            lambda: tem_tf.LocalUpdates(SGD(0.5), None, 2, fragments=1), rows, SIZES
        )


@pytest.mark.parametrize("fragments", [0, 4, 1.5, True, "all"])
def test_wrong_numbers_are_refused(fragments):
    with pytest.raises(ValueError, match=r"`fragments` must be None or an integer in"):
        tem_tf.LocalUpdates(SGD(), local_steps=3, fragments=fragments)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_ends_with_common_weights_and_frozen_layers_stay(jit_compile):
    x = np.random.default_rng(0).normal(size=(8, 3))
    optimizer = tem_tf.LocalUpdates(
        SGD(0.1), local_steps=3, fragments=2, compressor=tem_tf.TopK(0.5)
    )
    model = keras.Sequential(
        [
            keras.Input([3]),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    model.fit(x, x[:, :2], batch_size=1, verbose=0)
    assert optimizer.pending == 0
    # Pieces after 1, 3, 4, 6 and 7 steps, and all at the end.
    assert int(optimizer.outer_optimizer.iterations.numpy()) == 6
    model.layers[0].trainable = False
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    frozen, *_, other = [np.array(each.numpy()) for each in model.weights]
    model.fit(x, x[:, :2], batch_size=1, verbose=0)
    np.testing.assert_array_equal(model.weights[0].numpy(), frozen)
    assert np.abs(model.weights[-1].numpy() - other).max() > 0


def test_the_number_is_saved():
    optimizer = tem_tf.LocalUpdates(SGD(), fragments=5)
    again = tem_tf.LocalUpdates.from_config(optimizer.get_config())
    assert again.fragments == 5
