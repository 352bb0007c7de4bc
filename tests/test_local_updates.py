"""Local updates: what an exchange makes of steps that workers took by themselves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.replica_state import values_here
from tests.training import (
    dyadic_gradients,
    make_model,
    make_strategy,
    train_each_alone,
    values,
)

RNG = np.random.default_rng(5)
SGD = keras.optimizers.SGD


def trained(optimizer, rows, graph=True):
    """As `train_each_alone`, of one variable that has all entries."""
    optimizer, (weights,), history = train_each_alone(
        optimizer, rows, rows.shape[2:], graph
    )
    return optimizer, weights, history


def by_hand(rows, local_steps, rate, momentum, outer):
    """The same in numpy, everything sent. `outer`: rate, momentum, nesterov."""
    replicas, size = rows.shape[1:]
    common, velocity = np.zeros(size, np.float32), np.zeros(size, np.float32)
    own = np.tile(common, (replicas, 1))
    slots = np.zeros_like(own)
    history = []
    for step, row in enumerate(rows):
        slots = momentum * slots - rate * row
        own = own + slots
        if (step + 1) % local_steps == 0:
            mean = (common - own).sum(axis=0) / np.float32(replicas)
            velocity = outer[1] * velocity - outer[0] * mean
            common = common + (
                outer[1] * velocity - outer[0] * mean if outer[2] else velocity
            )
            own = np.tile(common, (replicas, 1))
        history.append(own)
    return np.array(history, np.float32)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("local_steps", [1, 2, 3])
def test_it_is_what_one_would_write_by_hand(replicas, local_steps):
    rows = dyadic_gradients(6, replicas)
    _, _, found = trained(
        lambda: tem_tf.LocalUpdates(
            SGD(0.5, momentum=0.5),
            SGD(0.5, momentum=0.5, nesterov=True),
            local_steps=local_steps,
        ),
        rows,
    )
    expected = by_hand(rows, local_steps, 0.5, 0.5, (0.5, 0.5, True))
    # A third of a sum is rounded, in no other place than by hand but for N = 3, whose
    # gradients Keras has divided.
    tolerance = 0 if replicas < 3 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_every_step_of_all_is_the_mean_of_their_own_updates(graph):
    """H = 1, everything sent, an outer rate of 1: exactly, slots being their own."""
    rows = dyadic_gradients(4, 2)
    _, _, found = trained(
        lambda: tem_tf.LocalUpdates(
            SGD(0.5, momentum=0.5), SGD(1.0), local_steps=1, memory=None
        ),
        rows,
        graph,
    )
    slots, weights = np.zeros((2, 6), np.float32), np.zeros(6, np.float32)
    for row, now in zip(rows, found, strict=True):
        slots = 0.5 * slots - 0.5 * row
        weights = weights + slots.mean(axis=0)
        np.testing.assert_array_equal(now, [weights, weights])


COMPRESSION = [
    ("threshold", tem_tf.HardThreshold(1.0), "float32"),
    ("topk", tem_tf.TopK(k=3), "float32"),
    ("powersgd", tem_tf.PowerSGD(1), "float32"),
    ("sign", tem_tf.Sign(), "float32"),
    *((name, tem_tf.TopK(k=3), name) for name in ("float16", "bfloat16")),
    *(
        (f"all-{name}", tem_tf.AllEntries(), name)
        for name in ("int8", "int4", "int2", "sign")
    ),
]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    ("compressor", "value_dtype"),
    [case[1:] for case in COMPRESSION],
    ids=[case[0] for case in COMPRESSION],
)
def test_what_moved_was_sent_or_is_kept_and_all_are_equal(
    compressor, value_dtype, replicas
):
    rows = dyadic_gradients(6, replicas, 96)

    def make(**compression):
        return lambda: tem_tf.LocalUpdates(
            SGD(0.5), SGD(1.0), local_steps=2, **compression
        )

    optimizer, _, found = trained(
        make(compressor=compressor, value_dtype=value_dtype), rows
    )
    _, _, whole = trained(make(), rows)
    for step in (1, 3, 5):
        for other in found[step][1:]:
            np.testing.assert_array_equal(found[step][0], other)
    kept = [
        state["memory/residual/weights_0"]
        for state in optimizer.aggregator.state.values()
    ]
    # All that has moved was moved, but for what is kept of it.
    pending = np.mean(kept, axis=0)
    np.testing.assert_allclose(found[-1][0] - pending, whole[-1][0], atol=1e-5)
    assert optimizer.communication_summary()["steps"] == 3


def test_an_early_exchange_is_one_and_no_step_makes_none():
    rows = dyadic_gradients(5, 2)
    optimizer, weights, _ = trained(
        lambda: tem_tf.LocalUpdates(SGD(0.5), SGD(0.5, momentum=0.5), local_steps=3),
        rows,
    )
    assert optimizer.pending == 2
    optimizer.synchronise()
    after = [here.numpy() for here in values_here(weights)]
    np.testing.assert_array_equal(*after)
    assert optimizer.pending == 0
    assert int(optimizer.outer_optimizer.iterations.numpy()) == 2
    optimizer.synchronise()  # With its momentum it would go on.
    np.testing.assert_array_equal(weights.numpy(), after[0])
    assert int(optimizer.outer_optimizer.iterations.numpy()) == 2


def test_weights_that_are_set_between_exchanges_are_where_the_next_begins():
    optimizer, weights, _ = trained(
        lambda: tem_tf.LocalUpdates(SGD(0.5), SGD(1.0), local_steps=2),
        dyadic_gradients(2, 2),
    )
    weights.assign(np.full(6, 7.0, np.float32))
    make_strategy(2).run(lambda: optimizer.apply([tf.zeros(6)], [weights]))
    optimizer.synchronise()
    np.testing.assert_array_equal(weights.numpy(), np.full(6, 7.0))


def test_a_worker_whose_weights_are_not_finite_ends_all():
    rows = dyadic_gradients(2, 2)
    rows[0, 1, 3] = np.inf
    with pytest.raises(tf.errors.InvalidArgumentError, match="has NaN or Inf"):
        trained(lambda: tem_tf.LocalUpdates(SGD(0.5), local_steps=2), rows)


def test_a_gradient_that_is_not_finite_counts_as_zero():
    rows = dyadic_gradients(4, 2)
    rows[1, 1, 3] = np.nan
    make = lambda: tem_tf.LocalUpdates(  # noqa: E731
        SGD(0.5, momentum=0.5), SGD(1.0), local_steps=2, nonfinite="zero"
    )
    _, _, found = trained(make, rows)
    rows[1, 1] = 0
    _, _, expected = trained(make, rows)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("reset_slots", [True, False])
def test_weights_that_overflow_count_as_no_movement(reset_slots):
    rows = dyadic_gradients(4, 2)
    rows[0, 1, 3] = 3e38  # Finite; the weights after it are not.
    optimizer, _, found = trained(
        lambda: tem_tf.LocalUpdates(
            SGD(2.0, momentum=0.5),
            SGD(1.0),
            local_steps=2,
            nonfinite="zero",
            reset_slots=reset_slots,
        ),
        rows,
    )
    alone = rows[:2, 0] * -2.0
    mean = (alone[0] + (0.5 * alone[0] + alone[1])) / 2
    np.testing.assert_array_equal(found[1], [mean, mean])
    assert np.isfinite(found[-1]).all()
    slots = values_here(optimizer.inner_optimizer.momentums[0])[1].numpy()
    assert np.isfinite(slots).all() == reset_slots


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"local_steps": 0}, "`local_steps` must be an integer >= 1.*=0"),
        ({"local_steps": 2.5}, "`local_steps` must be an integer >= 1.*=2.5"),
        ({"local_steps": True}, "`local_steps` must be an integer >= 1"),
        ({"nonfinite": "skip"}, '`nonfinite` must be "raise" or "zero"'),
        ({"reset_slots": None}, "`reset_slots` must be True or False"),
        ({"value_dtype": "int3"}, "`value_dtype` must be one of"),
        ({"compressor": "topk"}, "`compressor` must be a tem_tf compressor"),
        ({"outer_optimizer": 0.7}, "Could not interpret optimizer|outer_optimizer"),
        (
            {"outer_optimizer": tem_tf.SparsifiedOptimizer(SGD(), tem_tf.Identity())},
            "`outer_optimizer` must not be in another wrapper, nor be one",
        ),
        (
            {"inner_optimizer": tem_tf.LocalUpdates(SGD())},
            "`inner_optimizer` must not be in another wrapper, nor be one",
        ),
        (
            {"outer_optimizer": keras.optimizers.LossScaleOptimizer(SGD())},
            "LossScaleOptimizer",
        ),
        ({"inner_optimizer": SGD(use_ema=True)}, "`use_ema` of `inner_optimizer`"),
        (
            {"inner_optimizer": SGD(gradient_accumulation_steps=2)},
            "`gradient_accumulation_steps` of `inner_optimizer`",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tem_tf.LocalUpdates(**{"inner_optimizer": SGD(), **arguments})


def test_one_optimizer_cannot_be_both():
    one = SGD()
    with pytest.raises(ValueError, match="another object than `inner_optimizer`"):
        tem_tf.LocalUpdates(one, one)


def test_keras_cannot_scale_its_losses():
    model = keras.Sequential(
        [keras.Input([2]), keras.layers.Dense(1, dtype="mixed_float16")]
    )
    with pytest.raises(ValueError, match="LocalUpdates cannot scale losses"):
        model.compile(
            keras.optimizers.LossScaleOptimizer(tem_tf.LocalUpdates(SGD())), "mse"
        )


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_it_is_saved_only_when_workers_agree(tmp_path):
    model = make_model(
        tem_tf.LocalUpdates(
            keras.optimizers.AdamW(0.01),
            SGD(0.5, momentum=0.5),
            local_steps=3,
            compressor=tem_tf.TopK(0.5),
            value_dtype="int4",
        )
    )
    x, y = np.ones((2, 3), "float32"), np.ones((2, 2), "float32")
    model.train_on_batch(x, y)
    with pytest.raises(ValueError, match="1 local steps since the last one. Call"):
        model.save(tmp_path / "model.keras")
    model.optimizer.synchronise()
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="holds no residuals"):
        again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for one, other in (
        (again.optimizer.inner_optimizer, model.optimizer.inner_optimizer),
        (again.optimizer.outer_optimizer, model.optimizer.outer_optimizer),
    ):
        for mine, its in zip(
            values(one.variables), values(other.variables), strict=True
        ):
            np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_ends_with_an_exchange(jit_compile):
    model = make_model(
        tem_tf.LocalUpdates(SGD(0.1), local_steps=3, compressor=tem_tf.TopK(0.5)),
        jit_compile=jit_compile,
    )
    x, y = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 2))
    model.fit(x, y, batch_size=2, verbose=0)
    assert model.optimizer.pending == 0
    assert int(model.optimizer.iterations.numpy()) == 4
    assert int(model.optimizer.outer_optimizer.iterations.numpy()) == 2


def test_attributes_are_the_inner_optimizers():
    optimizer = tem_tf.LocalUpdates(SGD(0.25), name="local")
    assert optimizer.name == "local"
    assert float(optimizer.learning_rate) == 0.25
    optimizer.learning_rate = 0.5
    assert float(optimizer.inner_optimizer.learning_rate) == 0.5
    with pytest.raises(AttributeError, match="`compressor` must be given when"):
        optimizer.compressor = tem_tf.Identity()


def test_forgetting_makes_weights_common_before():
    optimizer, weights, _ = trained(
        lambda: tem_tf.LocalUpdates(SGD(0.5), SGD(1.0), local_steps=4),
        dyadic_gradients(2, 2),
    )
    optimizer.forget()
    assert optimizer.pending == 0
    one, other = values_here(weights)
    np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_layer_that_was_frozen_stays():
    x, y = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 2))
    optimizer = tem_tf.LocalUpdates(SGD(0.1), local_steps=2)
    model = keras.Sequential(
        [keras.Input([3]), keras.layers.Dense(3), keras.layers.Dense(2)]
    )
    model.compile(optimizer, "mse")
    model.fit(x, y, batch_size=2, verbose=0)
    model.layers[0].trainable = False
    model.compile(optimizer, "mse")
    frozen, *_, other = [np.array(each.numpy()) for each in model.weights]
    model.fit(x, y, batch_size=2, verbose=0)
    np.testing.assert_array_equal(model.weights[0].numpy(), frozen)
    assert np.abs(model.weights[-1].numpy() - other).max() > 0


def test_statistics_that_are_not_finite_count_for_nothing():
    strategy = make_strategy(2)
    with strategy.scope():
        optimizer = tem_tf.LocalUpdates(SGD(0.5), SGD(1.0), local_steps=1)
        weights = keras.Variable(tf.zeros([2]), name="weights")
        statistic = tf.Variable(
            tf.zeros([2]),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.MEAN,
        )
        optimizer.build([weights])
    optimizer.average([statistic])

    @tf.function
    def step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        statistic.assign(tf.constant([[3.0, 4.0], [np.nan, 1.0]])[replica])
        optimizer.apply([tf.zeros([2])], [weights])

    strategy.run(step)
    for here in values_here(statistic):
        np.testing.assert_array_equal(here.numpy(), [3.0, 4.0])
