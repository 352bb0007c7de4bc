"""What Keras and users read, set and call on an optimizer is the inner optimizer's."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tests.training import (
    Y,
    apply_steps,
    fit,
    identity,
    make_model,
    make_strategy,
    thresholded,
    values,
)

SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam
# Keras 3.15 with NumPy 2: its conversion of variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def decaying():
    return keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)


def test_learning_rate_is_read_and_set():
    optimizer = thresholded(rate=0.5)
    weights = keras.Variable([0.0])
    assert optimizer.learning_rate is optimizer.inner_optimizer.learning_rate
    optimizer.apply([tf.constant([1.0])], [weights])
    optimizer.learning_rate = 0.25
    optimizer.apply([tf.constant([1.0])], [weights])
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    assert weights.numpy() == [-0.75]


def test_learning_rate_that_is_a_schedule_cannot_be_set_to_a_number():
    optimizer = identity(SGD(decaying()))
    weights = keras.Variable([0.0])
    for _ in range(2):
        optimizer.apply([tf.constant([1.0])], [weights])
    assert weights.numpy() == [-0.75]
    assert float(optimizer.learning_rate) == 0.125
    with pytest.raises(TypeError, match="its learning rate is not settable"):
        optimizer.learning_rate = 0.1


def test_learning_rate_may_become_a_schedule():
    optimizer = identity(SGD(0.1))
    optimizer.learning_rate = decaying()
    assert float(optimizer.learning_rate) == 0.5
    assert len(optimizer.variables) == 1  # Keras drops the rate's variable.


def test_callbacks_set_the_learning_rate():
    model = make_model(thresholded(rate=0.5))
    rates = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    history = model.fit(np.zeros((2, 3)), Y[:2], epochs=2, verbose=0, callbacks=[rates])
    assert history.history["learning_rate"] == [0.25, 0.125]
    # The loss can never fall by 1e9, so the rate does.
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.5, 1, min_delta=1e9)
    model.fit(np.zeros((2, 3)), Y[:2], epochs=3, verbose=0, callbacks=[plateau])
    assert float(model.optimizer.inner_optimizer.learning_rate) == 0.03125


def test_iterations_count_the_steps():
    optimizer = thresholded()
    weights = keras.Variable([0.0])
    assert optimizer.iterations == 0
    assert optimizer.apply_gradients([(tf.constant([1.0]), weights)]) == 1
    assert optimizer.iterations is optimizer.inner_optimizer.iterations
    assert optimizer.iterations == 1


def test_variables_are_the_very_variables_of_the_inner_optimizer():
    optimizer = tem_tf.SparsifiedOptimizer(Adam(), tem_tf.TopK(k=1))
    weights = keras.Variable([0.0, 0.0], name="weights")
    optimizer.build([weights])
    assert len(optimizer.variables) == 4  # No residual among them.
    for mine, inner in zip(
        optimizer.variables, optimizer.inner_optimizer.variables, strict=True
    ):
        assert mine is inner


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_variables_have_the_names_that_keras_gives_them(graph):
    def names(optimizer):
        weights = keras.Variable([0.0, 0.0], name="weights")

        def step():
            optimizer.apply_gradients([(tf.ones([2]), weights)])

        (tf.function(step) if graph else step)()
        return [(v.path, v.value.name) for v in optimizer.variables]

    assert names(identity(Adam(name="adam"))) == names(Adam(name="adam"))


def test_attributes_are_read():
    inner = Adam(0.5, beta_1=0.25, clipnorm=2.0, weight_decay=0.125, use_ema=True)
    optimizer = identity(inner)
    assert optimizer.beta_1 == 0.25
    assert optimizer.clipnorm == 2.0
    assert optimizer.weight_decay == 0.125
    assert optimizer.use_ema is True
    assert optimizer.name == inner.name
    assert not optimizer.built
    weights = keras.Variable([1.0, 2.0])
    optimizer.build([weights])
    assert optimizer.built
    assert optimizer._momentums is inner._momentums
    averages = inner._model_variables_moving_average
    assert optimizer._model_variables_moving_average is averages
    assert optimizer._get_variable_index(weights) == 0
    clipped = optimizer._clip_gradients([tf.constant([3.0, 4.0])])
    np.testing.assert_allclose(clipped[0], [1.2, 1.6], rtol=1e-6)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = optimizer.nothing


def test_attributes_are_set_on_the_inner_optimizer():
    optimizer = identity(SGD(1.0))
    optimizer.clipnorm = 1.0
    optimizer.momentum = 0.5
    optimizer._private = "kept"
    assert vars(optimizer.inner_optimizer)["clipnorm"] == 1.0
    assert vars(optimizer.inner_optimizer)["momentum"] == 0.5
    assert vars(optimizer.inner_optimizer)["_private"] == "kept"
    weights = keras.Variable([0.0, 0.0])
    optimizer.apply([tf.constant([3.0, 4.0])], [weights])
    np.testing.assert_allclose(weights.numpy(), [-0.6, -0.8], rtol=1e-6)


def test_name_is_the_inner_optimizers_or_the_given_one():
    assert identity(SGD(name="plain")).name == "plain"
    named = tem_tf.SparsifiedOptimizer(SGD(name="x"), tem_tf.Identity(), name="mine")
    assert named.name == named.inner_optimizer.name == "mine"


def test_inner_optimizer_may_be_a_name_or_a_configuration():
    for inner in ("sgd", keras.optimizers.serialize(SGD(0.01))):
        optimizer = tem_tf.SparsifiedOptimizer(inner, tem_tf.Identity())
        assert type(optimizer.inner_optimizer) is SGD
        assert float(optimizer.learning_rate) == pytest.approx(0.01)


def test_an_inner_optimizer_that_has_trained_goes_on():
    weights = keras.Variable([0.0, 0.0])
    inner = SGD(1.0)
    inner.apply([tf.constant([0.25, 1.0])], [weights])
    optimizer = tem_tf.SparsifiedOptimizer(inner, tem_tf.HardThreshold(0.5))
    assert optimizer.communication_summary()["steps"] == 0
    for _ in range(2):
        optimizer.apply([tf.constant([0.25, 1.0])])
    np.testing.assert_array_equal(weights.numpy(), [-0.75, -3.0])
    assert optimizer.iterations == 3


def test_set_weights_restores_the_variables():
    weights = keras.Variable([0.0, 0.0])
    trained, fresh = identity(Adam(0.1)), identity(Adam(0.2))
    trained.apply([tf.constant([1.0, 2.0])], [weights])
    with pytest.raises(ValueError, match="on an optimizer that has not yet been built"):
        fresh.set_weights(trained.variables)
    fresh.build([weights])
    fresh.set_weights(trained.variables)
    for value, other in zip(
        values(fresh.variables), values(trained.variables), strict=True
    ):
        np.testing.assert_array_equal(value, other)


def test_variables_are_excluded_from_weight_decay():
    optimizer = identity(SGD(1.0, weight_decay=0.5))
    kept, decayed = keras.Variable([2.0], name="kept"), keras.Variable([2.0], name="w")
    optimizer.exclude_from_weight_decay(var_names=["kept"])
    zero = tf.zeros([1])
    optimizer.apply([zero, zero], [kept, decayed])
    assert (kept.numpy(), decayed.numpy()) == ([2.0], [1.0])


def test_fit_ends_with_the_moving_average():
    inner = SGD(0.5, use_ema=True, ema_momentum=0.5)
    optimizer = tem_tf.SparsifiedOptimizer(inner, tem_tf.HardThreshold(0.1))
    model = fit(make_model(optimizer, run_eagerly=True))
    for weights, average in zip(
        values(model.trainable_variables),
        values(inner._model_variables_moving_average),
        strict=True,
    ):
        np.testing.assert_array_equal(weights, average)


def full_configuration():
    return tem_tf.SparsifiedOptimizer(
        Adam(decaying(), clipnorm=1.0),
        tem_tf.TopK(density=0.25, scope="model"),
        memory=tem_tf.ErrorFeedback(),
        dense_below=3,
        warmup_steps=2,
        nonfinite="zero",
        local_clipnorm=4.0,
        gradients_divided_by_replicas=False,
        name="mine",
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        full_configuration,
        thresholded,
        lambda: thresholded(memory=None),
        lambda: tem_tf.SparsifiedOptimizer("adam", tem_tf.RandomK(0.5, seed=3)),
    ],
    ids=["full", "auto", "no_memory", "by_name"],
)
def test_configuration_makes_an_equal_optimizer(optimizer):
    optimizer = optimizer()
    config = optimizer.get_config()
    # Keras's `from_config` changes what it is given.
    again = tem_tf.SparsifiedOptimizer.from_config(copy.deepcopy(config))
    assert again.get_config() == config
    assert again.aggregator.options == optimizer.aggregator.options
    serialized = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(copy.deepcopy(serialized))
    assert keras.optimizers.serialize(again) == serialized
    assert keras.optimizers.get(copy.deepcopy(serialized)).get_config() == config


def test_copies_are_equal_and_independent():
    optimizer = full_configuration()
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert again.get_config() == optimizer.get_config()
        assert again.inner_optimizer is not optimizer.inner_optimizer


def test_a_cloned_model_is_compiled_from_the_configuration():
    model = make_model(thresholded)
    clone = keras.models.clone_model(model)
    clone.compile_from_config(model.get_compile_config())
    assert clone.optimizer.get_config() == model.optimizer.get_config()
    assert clone.optimizer is not model.optimizer
    assert clone.optimizer.built


def test_memory_is_made_under_the_strategy_of_the_optimizer():
    """Also where `build` is called outside it, which Keras allows to plain SGD."""
    strategy = make_strategy(2)
    with strategy.scope():
        optimizer = thresholded()
        weights = keras.Variable([0.0], name="weights")
    optimizer.build([weights])

    def step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        optimizer.apply([tf.constant([[0.125], [0.25]])[replica]], [weights])

    strategy.run(step)
    assert weights.numpy() == [-0.25]  # The first replica's 0.125 is held back there,
    strategy.run(step)
    assert weights.numpy() == [-0.75]  # and is 0.25 now.


def test_gradient_accumulation_under_a_strategy_is_left_to_keras():
    """Without a sparsifier; Keras's own fails in graphs, not eagerly."""
    gradients = [[[1.0], [2.0]], [[4.0], [8.0]]]
    history, optimizer = apply_steps(
        lambda: identity(SGD(1.0, gradient_accumulation_steps=2)),
        gradients,
        graph=False,
    )
    np.testing.assert_array_equal(history, [[0.0], [-7.5]])
    assert optimizer.iterations == 1
