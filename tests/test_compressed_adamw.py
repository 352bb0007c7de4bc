"""CompressedAdamW: Keras's AdamW, and then its momentum under a frozen variance."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.replica_state import values_here
from tests.training import make_model, make_strategy, values

SIZES = (3, 4), (5,)


def trained(optimizer, rows, graph=True):
    """Applies rows of replicas' own gradients to a matrix and a vector.

    Args:
        optimizer: Makes it.
        rows: (steps, replicas, 17).
        graph: Whether in a `tf.function`.

    Returns:
        The optimizer, and both variables of each replica in the end.
    """
    rows = tf.constant(rows)
    strategy = make_strategy(rows.shape[1])
    with strategy.scope():
        optimizer = optimizer()
        weights = [
            keras.Variable(tf.ones(shape), name=name)
            for shape, name in zip(SIZES, ("kernel", "bias"), strict=True)
        ]
        optimizer.build(weights)

    def step(row):
        own = row[tf.distribute.get_replica_context().replica_id_in_sync_group]
        own /= row.shape[0]
        gradients = tf.reshape(own[:12], SIZES[0]), own[12:]
        optimizer.apply(list(gradients), weights)

    def run(row):
        strategy.run(step, args=(row,))

    run = tf.function(run, autograph=False) if graph else run
    for row in rows:
        run(row)
    return optimizer, [[each.numpy() for each in values_here(v)] for v in weights]


def rows(steps, replicas, size=17):
    generator = np.random.default_rng(7)  # The same whatever tests came before.
    return generator.normal(size=(steps, replicas, size)).astype(np.float32)


def schedule():
    return keras.optimizers.schedules.CosineDecay(0.05, 20, warmup_target=0.1)


OPTIONS = {
    "default": dict,
    "clipped": lambda: {"global_clipnorm": 0.5, "weight_decay": 0.1, "beta_2": 0.99},
    "scheduled": lambda: {"learning_rate": schedule(), "epsilon": 1e-3},
    "averaged": lambda: {"use_ema": True, "clipvalue": 0.3},
}


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_before_the_freeze_it_is_keras_adamw_bit_for_bit(options, graph, replicas):
    given = rows(6, replicas)
    mine, found = trained(
        lambda: tem_tf.CompressedAdamW(**options(), freeze_step=100), given, graph
    )
    its, expected = trained(lambda: keras.optimizers.AdamW(**options()), given, graph)
    for here, there in zip(found, expected, strict=True):
        np.testing.assert_array_equal(here, there)
    for here, there in zip(values(mine.variables), values(its.variables), strict=True):
        np.testing.assert_array_equal(here, there)


def by_hand(given, freeze_step, sent, rate=0.01, b1=0.9, b2=0.99, epsilon=1e-7):
    """The same in float64; `sent` takes what each replica would send and its residual.

    Weight decay is left out.
    """
    replicas, size = given.shape[1:]
    m, v, w = np.zeros(size), np.zeros(size), np.ones(size)
    residuals = np.zeros((replicas, size))
    for step, row in enumerate(given.astype(np.float64)):
        bias = np.sqrt(1 - b2 ** min(step + 1, freeze_step)) / (1 - b1 ** (step + 1))
        if step < freeze_step:
            mean = row.mean(axis=0)
            m, v = b1 * m + (1 - b1) * mean, b2 * v + (1 - b2) * mean**2
        else:
            corrected = b1 * m + (1 - b1) * row + residuals
            messages = np.stack([sent(each) for each in corrected])
            residuals = corrected - messages
            m = messages.mean(axis=0)
        w = w - rate * bias * m / (np.sqrt(v) + epsilon)
    return w


def largest(vector, k=5):
    """Top-k of all entries together."""
    kept = np.argsort(-np.abs(vector), kind="stable")[:k]
    return np.where(np.isin(np.arange(vector.size), kept), vector, 0)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize(
    ("compressor", "sent"),
    [
        (tem_tf.TopK(k=5, scope="model"), largest),
        (tem_tf.AllEntries(), lambda vector: vector),
        (tem_tf.Identity(), lambda vector: vector),
    ],
    ids=["topk", "all", "identity"],
)
def test_after_the_freeze_momenta_are_sent_with_feedback(compressor, sent, replicas):
    given = rows(8, replicas)
    _, found = trained(
        lambda: tem_tf.CompressedAdamW(
            0.01,
            beta_2=0.99,
            weight_decay=0.0,
            freeze_step=4,
            compressor=compressor,
            value_dtype="float32",
        ),
        given,
    )
    expected = by_hand(given, 4, sent)
    for replica in range(replicas):
        weights = np.concatenate([each[replica].ravel() for each in found])
        np.testing.assert_allclose(weights, expected, rtol=2e-5, atol=2e-6)


COMPRESSION = [
    (tem_tf.HardThreshold(0.1), "float32"),
    (tem_tf.TopK(0.25), "int4"),
    (tem_tf.PowerSGD(1), "float32"),
    (tem_tf.Sign(), "float32"),
    *((tem_tf.AllEntries(), name) for name in ("int8", "int4", "int2", "sign")),
    *((tem_tf.AllEntries(), name) for name in ("float16", "bfloat16")),
]


@pytest.mark.parametrize(
    ("compressor", "value_dtype"),
    COMPRESSION,
    ids=[f"{type(c).__name__}-{name}" for c, name in COMPRESSION],
)
def test_what_is_not_sent_is_kept_and_replicas_are_equal(compressor, value_dtype):
    """The momentum and residuals of one step hold what came into it."""
    make = lambda: tem_tf.CompressedAdamW(  # noqa: E731
        0.01,
        freeze_step=3,
        compressor=compressor,
        value_dtype=value_dtype,
    )
    given = rows(6, 2)
    before, _ = trained(make, given[:5])
    after, weights = trained(make, given)
    for each in weights:
        np.testing.assert_array_equal(*each)
    for index, (part, name) in enumerate(
        ((slice(0, 12), "kernel"), (slice(12, 17), "bias"))
    ):
        moments = [o.inner_optimizer._momentums[index].numpy() for o in (before, after)]
        kept = [
            np.sum(
                [
                    state[f"memory/residual/{name}"]
                    for state in o.aggregator.state.values()
                ],
                axis=0,
            )
            for o in (before, after)
        ]
        came = 0.9 * moments[0].ravel() + 0.1 * given[5, :, part].mean(axis=0)
        np.testing.assert_allclose(
            moments[1].ravel() + kept[1], came + kept[0], atol=1e-6
        )


def test_what_had_no_gradient_before_the_freeze_stays():
    given = rows(6, 2)
    given[:3, :, 4] = 0
    optimizer, found = trained(
        lambda: tem_tf.CompressedAdamW(0.01, weight_decay=0.0, freeze_step=3), given
    )
    assert found[0][0].ravel()[4] == 1
    assert np.all(found[0][0].ravel()[:4] != 1)
    assert optimizer.communication_summary()["density"] > 0.9


def test_variance_is_left_alone_and_iterations_go_on():
    given = rows(6, 1)
    early, _ = trained(lambda: tem_tf.CompressedAdamW(0.01, freeze_step=3), given[:3])
    late, _ = trained(lambda: tem_tf.CompressedAdamW(0.01, freeze_step=3), given)
    for one, other in zip(
        early.inner_optimizer._velocities,
        late.inner_optimizer._velocities,
        strict=True,
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert int(late.iterations.numpy()) == 6


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_step_that_is_skipped_after_the_freeze_leaves_all_as_it_was(replicas):
    given = rows(6, replicas)
    make = lambda: tem_tf.CompressedAdamW(  # noqa: E731
        0.01, freeze_step=3, nonfinite="skip"
    )
    _, expected = trained(make, given)
    overflown = np.insert(given, 4, given[4], axis=0)
    overflown[4, -1, 2] = np.inf
    optimizer, found = trained(make, overflown)
    for here, there in zip(found, expected, strict=True):
        np.testing.assert_array_equal(here, there)
    assert optimizer.communication_summary()["skipped_steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freeze_step": 0}, "`freeze_step` must be an integer >= 1.*=0"),
        ({"freeze_step": 2.5}, "`freeze_step` must be an integer >= 1.*=2.5"),
        ({"freeze_step": True}, "`freeze_step` must be an integer >= 1"),
        ({"amsgrad": True}, "`amsgrad` keeps the greatest variance"),
        ({"value_dtype": "int3"}, "`value_dtype` must be one of"),
        ({"compressor": tem_tf.Identity(), "value_dtype": "sign"}, "would make it"),
        ({"gradient_accumulation_steps": 2}, "Pass `accumulate_steps` instead"),
        ({"loss_scale_factor": 2.0}, "Pass `loss_scale` instead"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tem_tf.CompressedAdamW(**{"freeze_step": 3, **arguments})


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_it_is_saved_and_loaded(tmp_path):
    model = make_model(
        tem_tf.CompressedAdamW(
            schedule(), freeze_step=2, compressor=tem_tf.TopK(0.5), value_dtype="int4"
        )
    )
    x, y = np.ones((2, 3), "float32"), np.ones((2, 2), "float32")
    for _ in range(4):
        model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="holds no residuals"):
        again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for mine, its in zip(
        values(again.optimizer.variables),
        values(model.optimizer.variables),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, its)


def test_xla_compiles_it_with_one_replica():
    losses = {}
    for jit_compile in (False, True):
        model = make_model(
            tem_tf.CompressedAdamW(0.01, freeze_step=3), jit_compile=jit_compile
        )
        generator = np.random.default_rng(1)
        x, y = generator.normal(size=(16, 3)), generator.normal(size=(16, 2))
        history = model.fit(x, y, batch_size=2, shuffle=False, verbose=0, epochs=2)
        losses[jit_compile] = history.history["loss"]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-5)
