"""No sum of the plugin's studies leaves the order of its terms to chance (addn.py)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tem_tf
from tem_studies.convex import methods, simulation
from tem_studies.data_parallelism.lipschitz import SplitGradient
from tem_studies.workloads import architectures, optimizers, pruning
from tem_studies.workloads.batches import DeviceSplit
from tem_studies.workloads.chunks import sum_over_chunks
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.data_sources import Split
from tem_studies.workloads.language_model import LanguageModel
from tem_studies.workloads.neumf import NeuMF
from tem_studies.workloads.training import Trainer
from tests.addn import added_chains
from tests.convex.problems import tiny
from tests.workloads.files import examples

SHAPE = (32, 32, 3)
SPLIT = DeviceSplit(Split(*examples(96, SHAPE)), np.zeros(3, "f"), np.ones(3, "f"))


# -------------------------------------------------------------------- the helper itself


def naive(a, b, c):
    return a + (b + 2.0 * c)


def left(a, b, c):
    return a + b + 2.0 * c


def tape_of_three(a, b, c):
    with tf.GradientTape() as tape:
        tape.watch(a)
        loss = tf.reduce_sum(a * b) + tf.reduce_sum(a**3) + tf.reduce_sum(tf.sin(a))
    return c * tape.gradient(loss, a)


def in_a_loop(a, b, c):
    for _ in tf.range(3):
        c = a + (b + 2.0 * c)
    return c


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("function", [naive, left, tape_of_three, in_a_loop])
def test_a_chain_is_found(function, dtype):
    def strange(found):
        return [line for line in found if not line.startswith(f"3 x {dtype.name}: ")]

    for _ in range(3):  # Once a graph of an earlier test was still running.
        found = added_chains(tf.function(function), *(tf.ones([4, 5], dtype),) * 3)
        if not strange(found):
            break
    assert found  # More than one where a graph is optimized twice.
    assert not strange(found)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, c: a + (b - -2.0 * c),
        lambda a, b, c: tf.add_n([a, b]) * c,
        lambda a, b, c: a + tf.ensure_shape(b + c, b.shape),
    ],
    ids=["subtracted", "two", "shape"],
)
def test_what_is_no_chain_is_not_found(function):
    assert not added_chains(tf.function(function), *(tf.ones([4, 5]),) * 3)


def test_integers_have_one_sum():
    assert not added_chains(tf.function(left), *(tf.ones([4]),) * 2, tf.ones([2, 1]))
    whole = tf.function(lambda a, b, c: tf.add_n([a, b, c]))
    assert not added_chains(whole, *(tf.ones([4], tf.int32),) * 3)


def test_a_graph_that_has_run_before_is_looked_at_too():
    function = tf.function(naive)
    arguments = (tf.ones([4, 5], tf.float64),) * 3  # No other test's graph has those.
    function(*arguments)
    found = added_chains(function, *arguments)  # Two where it is optimized twice.
    assert any(line.startswith("3 x float64: ") for line in found)


@pytest.mark.skipif(
    tf.__version__.startswith("2.16."),
    reason="TensorFlow 2.16 runs single operations as graphs",
)
def test_a_function_without_a_graph_is_refused():
    # No single operations: the first time TensorFlow makes graphs of these, too.
    with pytest.raises(AssertionError, match="No graph has run"):
        added_chains(lambda: None)


# -------------------------------------------------------------------------- the studies


@pytest.mark.parametrize("weight_decay", [0.0, 0.25])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_optimizers(name, momentum, weight_decay):
    if name == "adam" and weight_decay:
        return  # A configuration refuses it.
    settings = Configuration(optimizer=name, weight_decay=weight_decay)
    rate = optimizers.WarmUp(optimizers.make_learning_rate(0.1, "linear", 9, 0.1), 5, 2)
    optimizer = optimizers.OPTIMIZERS[name](rate, momentum, settings)
    variables = [keras.Variable(np.ones(s, "float32")) for s in ((3, 4), (5,))]
    optimizer.build(variables)

    @tf.function
    def steps(count):
        for _ in tf.range(count):
            optimizer.apply([tf.sin(v.value) for v in variables], variables)

    assert not added_chains(steps, tf.constant(3))


def test_weight_decay_has_the_bits_of_the_equations():
    decay, momentum, rate = 0.3, 0.9, 0.1
    optimizer = optimizers.Momentum(rate, momentum, coupled_weight_decay=decay)
    generator = np.random.default_rng(0)
    weights, gradient = generator.normal(size=(2, 1000)).astype(np.float32)
    variable = keras.Variable(weights)
    optimizer.build([variable])
    velocity = np.zeros_like(weights)
    for _ in range(3):
        optimizer.apply([tf.constant(gradient)], [variable])
        decayed = gradient + weights * np.float32(decay)
        velocity = velocity * np.float32(momentum) + decayed
        weights = weights - np.float32(rate) * velocity
        np.testing.assert_array_equal(variable.numpy(), weights)


def test_sums_over_chunks():
    values = tf.ones([20, 3])

    @tf.function
    def sums():
        return sum_over_chunks(
            lambda i, j: [tf.reduce_sum(values[i:j], axis=0)], [(3,)], 0, 20, 4
        )

    assert not added_chains(sums)


@pytest.mark.parametrize("batch_size", [8, 48], ids=["whole", "chunks"])
@pytest.mark.parametrize("arch", ["simple-cnn", "resnet-8"])
def test_training_steps(arch, batch_size):
    """Chunks, masks, the optimizer, meters and the running mean; two steps of them."""
    model = architectures.build(arch, SHAPE, seed=0)
    inner = optimizers.Momentum(0.1, nesterov=True, coupled_weight_decay=0.1)
    optimizer = tem_tf.SparsifiedOptimizer(inner, tem_tf.Identity())
    strategy = tf.distribute.get_strategy()
    trainer = Trainer(strategy, model, optimizer, SPLIT, batch_size, 2)
    trainer.prune(
        [
            np.eye(*w.shape[-2:]) * np.ones(w.shape, "f")
            if w.ndim > 1
            else np.ones(w.shape, "f")
            for w in model.get_weights()
        ]
    )
    rows = np.arange(2 * batch_size, dtype=np.int32).reshape(2, batch_size) % 96

    def train():
        trainer.compile()
        trainer.run(rows)
        trainer.evaluate_running_mean(SPLIT)
        trainer.read_meters()

    assert not added_chains(train)


@pytest.mark.parametrize("arch", ["resnet-18", "senet-18", "googlenet"])
def test_gradients_of_deep_networks(arch):
    model = architectures.build(arch, SHAPE, seed=0)

    @tf.function
    def gradients(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    assert not added_chains(gradients, tf.ones([2, *SHAPE]))


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_of_the_language_model(tied):
    model = LanguageModel(20, 8, 2, tied)
    states = model.start(3)

    @tf.function
    def gradients(words):
        with tf.GradientTape() as tape:
            logits, _ = model(words, states, tf.constant([1, 2]))
            loss = tf.reduce_sum(logits**2)
        found = tape.gradient(loss, [v.value for v in model.trainable_variables])
        return [tf.convert_to_tensor(g) for g in found]

    assert not added_chains(gradients, tf.ones([3, 5], tf.int32))


def test_gradients_of_the_recommender():
    model = NeuMF(9, 7)

    @tf.function
    def gradients(users):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(users, users, tf.constant([1, 2])) ** 2)
        found = tape.gradient(loss, [v.value for v in model.trainable_variables])
        return [tf.convert_to_tensor(g) for g in found]

    assert not added_chains(gradients, tf.range(5))


def test_pruning_and_smoothness():
    model = architectures.build("resnet-8", SHAPE, seed=0)
    assert not added_chains(pruning.sensitivities, model, SPLIT, np.arange(96))
    assert not added_chains(SplitGradient(model, SPLIT), model.get_weights())


@pytest.mark.parametrize("name", methods.METHODS)
def test_methods_of_the_laboratory(name):
    problem = tiny()
    start = np.zeros(problem.dimension)

    def run():
        method, compressor = methods.METHODS[name], tem_tf.TopK(0.3)
        simulation.run(
            problem, method, compressor, start=start, iterations=10, interval=5
        )

    assert not added_chains(run)
