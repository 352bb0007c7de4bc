"""Steps that are skipped or held back, on one replica and on two of one process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_tf.loss_scale import LossScale
from tem_tf.nonfinite import is_nonfinite_error
from tem_tf.replica_state import ReplicaState
from tests.conditional import train
from tests.conditional_cases import SKIPPING, WAYS, overflowing
from tests.native_cases import needs_native
from tests.steps import dyadic
from tests.training import X, Y, make_model, make_strategy

STEPS = 14
ADAM = {
    "class_name": "AdamW",
    "config": {"learning_rate": 0.1, "weight_decay": 0.1, "use_ema": True},
}
CLIPPED = {"class_name": "SGD", "config": {"learning_rate": 0.5, "clipvalue": 1.0}}


def assert_equal(found, expected):
    assert found["iterations"] == expected["iterations"]
    for one, other in zip(found["ends"], expected["ends"], strict=True):
        np.testing.assert_array_equal(one, other)


# ----------------------------------------------------------------------------- skipping


@pytest.mark.parametrize(
    ("way", "options"),
    [
        *((way, "dynamic") for way in WAYS),
        *((way, "skip") for way in ("topk", "powersgd", "identity")),
        ("topk", "number"),
        ("topk", "dynamic_and_skip"),
    ],
)
def test_a_skipped_step_is_as_if_it_had_not_been(way, options):
    gradients, without = overflowing(2)
    strategy = make_strategy(2)
    found = train(strategy, gradients, *WAYS[way], **SKIPPING[options])
    expected = train(strategy, without, *WAYS[way], **SKIPPING[options])
    assert_equal(found, expected)
    assert found["iterations"] == 11
    assert found["summary"]["skipped_steps"] == 1
    assert found["summary"]["nonfinite_gradients"] == 1
    assert found["summary"]["steps"] == 12


@pytest.mark.parametrize("inner", [ADAM, CLIPPED], ids=["adamw", "clipped"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_whatever_the_inner_optimizer_does(inner, replicas):
    """Inf that clipping by value would have hidden, too."""
    gradients, without = overflowing(replicas)
    strategy = make_strategy(replicas)
    way = (tem_tf.TopK(0.25), "auto", inner)
    found = train(strategy, gradients, *way, nonfinite="skip")
    assert_equal(found, train(strategy, without, *way, nonfinite="skip"))


@needs_native
@pytest.mark.parametrize(
    ("compressor", "memory", "options"),
    [
        *((WAYS[way][0], "auto", {}) for way in ("threshold", "topk", "random_k")),
        (tem_tf.TopK(0.25), "auto", {"warmup_steps": 8, "value_dtype": "bfloat16"}),
        (tem_tf.TopK(0.25), tem_tf.MomentumCorrection(0.5), {"value_dtype": "int4"}),
        (tem_tf.HardThreshold(1.0), tem_tf.EF21(), {"local_clipnorm": 2.0}),
        (tem_tf.RandomK(0.5), tem_tf.EF21(), {"warmup_steps": 2}),
    ],
)
def test_kernels_skip_the_same(compressor, memory, options, monkeypatch):
    gradients, _ = overflowing(1)
    strategy, options = make_strategy(1), options | {"nonfinite": "skip"}
    native = train(strategy, gradients, compressor, memory, **options)
    assert native["path"] == "native kernels"
    monkeypatch.setenv("TEM_TF_NATIVE", "0")
    composed = train(strategy, gradients, compressor, memory, **options)
    assert composed["path"] != "native kernels"
    assert_equal(native, composed)
    for name in ("payload_bytes", "entries_sent", "skipped_steps"):
        assert native["summary"][name] == composed["summary"][name]


@pytest.mark.parametrize("scale", [None, 4.0, "dynamic"])
@pytest.mark.parametrize("way", ["topk", "identity"])
def test_where_nothing_overflows_nothing_changes(way, scale):
    gradients = dyadic(6, 2)
    strategy = make_strategy(2)
    plain = train(strategy, gradients, *WAYS[way])
    options = {"nonfinite": "skip"} if scale is None else {"loss_scale": scale}
    assert_equal(train(strategy, gradients, *WAYS[way], **options), plain)


def test_a_nan_that_no_scale_is_the_cause_of_ends_the_training():
    gradients = np.full([20, 1, 12], np.nan)
    way = (tem_tf.TopK(0.25),)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        train(make_strategy(1), gradients, *way, loss_scale="dynamic")
    assert tem_tf.nonfinite.is_nonfinite_error(caught.value)
    skipped = train(
        make_strategy(1), gradients, *way, loss_scale="dynamic", nonfinite="skip"
    )
    assert skipped["iterations"] == 0
    assert skipped["summary"]["skipped_steps"] == 20


def test_the_scale_follows_the_gradients():
    state = ReplicaState()
    scale = LossScale("dynamic", state, initial=8.0, growth_steps=3)
    assert scale.read().numpy() == 8.0  # Before there is a variable, too.
    scale.build()
    seen = []
    for overflow in [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1]:
        scale.update(tf.constant(bool(overflow)))
        seen.append(float(scale.read()))
    assert seen == [8, 8, 16, 16, 8, 4, 4, 4, 8, 8, 4, 2, 1, 1, 1]


def test_a_scale_grows_no_further_than_float32():
    scale = LossScale("dynamic", ReplicaState(), initial=2.0**125, growth_steps=1)
    scale.build()
    for _ in range(4):
        scale.update(tf.constant(False))
    assert float(scale.read()) == 2.0**126


# ------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize(
    ("way", "options"),
    [*((way, {}) for way in WAYS), ("topk", {"loss_scale": 8.0})],
)
def test_four_steps_are_one_of_their_mean(way, options):
    """Exactly, for dyadic values; what is left over waits."""
    gradients = dyadic(14, 2)
    strategy = make_strategy(2)
    found = train(strategy, gradients, *WAYS[way], accumulate_steps=4, **options)
    means = gradients[:12].reshape(3, 4, 2, 12).mean(axis=1)
    expected = train(strategy, means, *WAYS[way], **options)
    assert found["iterations"] == expected["iterations"] == 3
    assert found["summary"]["steps"] == 3
    before = 2 + 12 + 12  # Weights, SGD's variables.
    for replica, (one, other) in enumerate(
        zip(found["ends"], expected["ends"], strict=True)
    ):
        waiting = one[before : before + 13]  # Their number, and sums.
        np.testing.assert_array_equal(waiting, [2, *gradients[12:, replica].sum(0)])
        rest = np.delete(one, slice(before, before + 13))
        np.testing.assert_array_equal(rest, other)


def test_one_overflow_skips_all_that_was_added_to_it():
    gradients = dyadic(8, 1)
    strategy = make_strategy(1)
    way = (tem_tf.TopK(0.25),)
    expected = train(
        strategy, gradients[4:], *way, nonfinite="skip", accumulate_steps=4
    )
    gradients[1, 0, 2] = np.nan
    found = train(strategy, gradients, *way, nonfinite="skip", accumulate_steps=4)
    assert_equal(found, expected)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("per_execution", [1, 3])
def test_fit_accumulates(replicas, per_execution):
    """A batch in fours is the batch, to rounding."""
    strategy = make_strategy(replicas)
    # Replicas share other rows out than they would of one batch.
    compressor = tem_tf.TopK(0.5 if replicas == 1 else 1.0)

    def fit(batch, **options):
        def optimizer():
            inner = keras.optimizers.SGD(0.5)
            return tem_tf.SparsifiedOptimizer(inner, compressor, **options)

        model = make_model(optimizer, strategy, steps_per_execution=per_execution)
        model.fit(X, Y, batch_size=batch, epochs=3, shuffle=False, verbose=0)
        return model

    whole, parts = fit(8), fit(2, accumulate_steps=4)
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert whole.optimizer.iterations.numpy() == parts.optimizer.iterations.numpy() == 3


def test_sparse_gradients_accumulate():
    table = keras.Variable(tf.zeros([4, 2]))
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(1.0), tem_tf.TopK(k=8), accumulate_steps=2, loss_scale=2.0
    )
    for rows in ([0, 0], [1, 3]):
        gradient = tf.IndexedSlices(
            tf.ones([2, 2]), tf.constant(rows), tf.constant([4, 2])
        )
        optimizer.apply([gradient], [table])
    np.testing.assert_array_equal(table[:, 0], [-0.5, -0.25, 0.0, -0.25])


@pytest.mark.parametrize("compressor", [tem_tf.TopK(0.5), tem_tf.Identity()])
def test_a_nan_that_no_scale_spares_is_raised_after_steps_of_xla(compressor):
    """The scale falls from 2 ** 15 to 1 in 15 steps; two more are its own fault."""
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(0.5), compressor, loss_scale="dynamic"
    )
    weights = keras.Variable([1.0, 1.0])
    optimizer.build([weights])

    @tf.function(jit_compile=True)
    def step():
        optimizer.apply([tf.constant([np.nan, 1.0])], [weights])

    for _ in range(15):
        step()
    optimizer.finalize_variable_values([weights])
    assert optimizer.communication_summary()["skipped_steps"] == 15
    step()
    step()
    for ask in (
        optimizer.communication_summary,
        lambda: optimizer.finalize_variable_values([weights]),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`forget`: 2") as it:
            ask()
        assert is_nonfinite_error(it.value)
    np.testing.assert_array_equal(weights.numpy(), [1.0, 1.0])
    optimizer.forget()
    assert optimizer.communication_summary()["steps"] == 0


# --------------------------------------------------------------------- Keras's policies


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
@pytest.mark.parametrize("way", ["topk", "identity"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_scale_that_keras_puts_around_is_taken_over(policy, way, replicas):
    """Three lines stay three; a step that overflows is skipped."""

    def optimizer():
        return tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(0.1), WAYS[way][0])

    model = make_model(optimizer, make_strategy(replicas))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    ours = model.optimizer.inner_optimizer
    # 65,504 is as much as float16 holds, and the scale begins at 32,768.
    history = model.fit(X, 100 * Y, batch_size=8, epochs=STEPS, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    summary = ours.communication_summary()
    assert summary["skipped_steps"] > 0
    assert summary["steps"] == STEPS
    assert ours.iterations.numpy() == STEPS - summary["skipped_steps"]
    read = make_strategy(replicas).run(ours._conditional._scale.read)
    scale = make_strategy(replicas).experimental_local_results(read)[0]
    assert scale == 2.0 ** (15 - summary["skipped_steps"])


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_keras_saves_and_loads_what_it_has_put_around(policy, tmp_path):
    def optimizer():
        return tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(0.1), tem_tf.TopK(0.5))

    model = make_model(optimizer)
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="A saved model holds no residuals"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(X, Y, epochs=1, verbose=0)
    assert loaded.optimizer.inner_optimizer.iterations.numpy() == 3


@pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
def test_bfloat16_needs_no_scale(policy):
    def optimizer():
        return tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(0.1), tem_tf.TopK(0.5))

    model = make_model(optimizer)
    assert isinstance(model.optimizer, tem_tf.SparsifiedOptimizer)
    history = model.fit(X, Y, epochs=20, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


# ----------------------------------------------------------------------------- refusals


def wrapped(inner=None, **options):
    inner = inner or keras.optimizers.SGD(0.1)
    return tem_tf.SparsifiedOptimizer(inner, tem_tf.TopK(0.5), **options)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "2", None])
def test_accumulate_steps_must_be_a_positive_integer(steps):
    with pytest.raises(ValueError, match="`accumulate_steps` must be an integer >= 1"):
        wrapped(accumulate_steps=steps)


@pytest.mark.parametrize("scale", [0, -1.0, np.inf, np.nan, True, "Dynamic"])
def test_loss_scale_must_be_in_range(scale):
    with pytest.raises(ValueError, match='`loss_scale` must be "dynamic", a finite'):
        wrapped(loss_scale=scale)


def test_zero_and_a_scale_exclude_each_other():
    with pytest.raises(ValueError, match='`nonfinite` must be "raise" or "skip" with'):
        wrapped(loss_scale=2.0, nonfinite="zero")


@pytest.mark.parametrize("name", ["gradient_accumulation_steps", "loss_scale_factor"])
@pytest.mark.parametrize("options", [{"accumulate_steps": 2}, {"nonfinite": "skip"}])
def test_the_inner_optimizer_must_not_do_the_same(name, options):
    inner = keras.optimizers.SGD(0.1, **{name: 2})
    with pytest.raises(ValueError, match=f"`{name}` of the inner optimizer must be"):
        wrapped(inner, **options)


def test_a_wrapper_takes_no_scale_from_others():
    with pytest.raises(ValueError, match="`loss_scale_factor` must not be set on"):
        wrapped().loss_scale_factor = 2.0
    with pytest.raises(ValueError, match="must be directly inside"):
        wrapped(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))


def test_what_is_fixed_is_not_set_on_the_inner_optimizer():
    with pytest.raises(AttributeError, match="`loss_scale` must be given when a Spars"):
        wrapped().loss_scale = 2.0
    with pytest.raises(AttributeError):
        wrapped().nonfinite = "skip"


def test_apply_needs_a_gradient_for_each_variable():
    optimizer = wrapped(accumulate_steps=2)
    optimizer.build([keras.Variable([0.0]), keras.Variable([0.0])])
    with pytest.raises(ValueError, match="Received: 1 gradients for 2 variables"):
        optimizer.apply([tf.ones([1])])


@pytest.mark.parametrize("options", [{}, {"accumulate_steps": 2}])
def test_other_variables_than_it_was_built_for_are_refused_as_in_keras(options):
    optimizer = wrapped(**options)
    optimizer.build([keras.Variable([0.0])])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([tf.ones([1])], [keras.Variable([0.0])])


def test_aggregate_cannot_skip():
    aggregator = tem_tf.Aggregator(tem_tf.TopK(0.5), nonfinite="skip")
    aggregator.build([tf.Variable([0.0, 0.0])])
    with pytest.raises(ValueError, match="Call `aggregate_or_skip`"):
        aggregator.aggregate([tf.ones([2])], step=0)
    summed = aggregator.aggregate_or_skip([tf.constant([np.nan, 1.0])], step=0)
    assert summed.nonfinite == 1


def test_settings_are_saved():
    options = {"accumulate_steps": 3, "loss_scale": "dynamic", "nonfinite": "skip"}
    config = keras.saving.serialize_keras_object(wrapped(**options))
    again = keras.saving.deserialize_keras_object(config).get_config()
    assert {name: again[name] for name in options} == options
