"""Custom loops, and gradients and variables that are not the plain case."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import apply_steps, linear_model, thresholded

graph_or_eager = pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])


@graph_or_eager
@pytest.mark.parametrize("build", [True, False], ids=["built", "unbuilt"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_custom_loop_sends_what_has_reached_the_threshold(replicas, build, graph):
    # Own gradients 0.25 and 1.0 against a threshold of 0.5; each replica hands over
    # its share of the mean.
    own = np.array([0.25, 1.0, -0.25, 0.0])
    gradients = np.broadcast_to(own / replicas, (2, replicas, 4))
    history, optimizer = apply_steps(thresholded, gradients, graph, build)
    np.testing.assert_array_equal(history, [[0, -1, 0, 0], [-0.5, -2, 0.5, 0]])
    assert optimizer.communication_summary()["entries_sent"] == 4 * replicas


def test_gradients_alone_are_applied_after_build():
    weights = keras.Variable([0.0, 0.0])
    optimizer = thresholded()
    with pytest.raises(ValueError, match="must already be built"):
        optimizer.apply([tf.ones([2])])
    optimizer.build([weights])
    optimizer.apply([tf.constant([0.25, 1.0])])
    np.testing.assert_array_equal(weights.numpy(), [0, -1])


def test_no_gradient_at_all_is_what_it_is_in_keras():
    weights = keras.Variable([0.0])
    optimizer = thresholded()
    optimizer.apply([], [])
    assert not optimizer.built
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        optimizer.apply([None], [weights])
    optimizer.apply([tf.ones([1])], [weights])
    assert weights.numpy() == [-1]


@graph_or_eager
def test_missing_gradients_are_skipped_with_keras_warning(graph):
    used, unused = keras.Variable([0.0], name="used"), keras.Variable([1.0], name="un")
    optimizer = thresholded()

    def step():
        optimizer.apply_gradients([(tf.ones([1]), used), (None, unused)])

    with pytest.warns(UserWarning, match=r"Gradients do not exist for .*\['un'\]"):
        (tf.function(step) if graph else step)()
    assert (used.numpy(), unused.numpy()) == ([-1], [1])


@graph_or_eager
def test_rows_of_an_embedding_are_summed_before_the_threshold(graph):
    rows = tf.IndexedSlices(
        values=tf.constant([[0.25, 1.0], [0.25, 0.125], [0.125, 0.0]]),
        indices=tf.constant([1, 1, 2]),
        dense_shape=tf.constant([3, 2]),
    )
    sparse, dense = (keras.Variable(np.zeros((3, 2), "float32")) for _ in range(2))
    one, other = thresholded(), thresholded()

    def step():
        one.apply([rows], [sparse])
        other.apply([tf.convert_to_tensor(rows)], [dense])

    step = tf.function(step) if graph else step
    step()
    # 0.25 + 0.25 has reached 0.5, though neither had.
    np.testing.assert_array_equal(sparse.numpy(), [[0, 0], [-0.5, -1.125], [0, 0]])
    step()
    np.testing.assert_array_equal(sparse.numpy(), dense.numpy())
    summaries = one.communication_summary(), other.communication_summary()
    assert summaries[0] == summaries[1]


def test_scalars_and_empty_variables_are_trained():
    scalar = keras.Variable(1.0)
    empty = keras.Variable(np.zeros((0, 3), "float32"))
    optimizer = thresholded()
    for _ in range(2):
        optimizer.apply([tf.zeros([0, 3]), tf.constant(0.25)], [empty, scalar])
    assert scalar.numpy() == 0.5
    alone = keras.Variable(np.zeros((0,), "float32"))
    optimizer = thresholded()
    optimizer.apply([tf.zeros([0])], [alone])
    assert optimizer.communication_summary()["entries_sent"] == 0


@pytest.mark.parametrize("mode", ["0", "built"])
def test_gradients_of_unknown_shape_get_their_variables(monkeypatch, mode):
    """As numpy code inside a custom gradient leaves them."""
    monkeypatch.setenv("TEM_TF_NATIVE", mode)
    optimizer = thresholded()
    weights, table = keras.Variable([0.0, 0.0]), keras.Variable(tf.zeros([3, 1]))

    @tf.function
    def step():
        gradient, rows, shape = tf.numpy_function(
            lambda: (np.float32([1.0, 0.1]), np.float32([[2.0]]), np.int64([3, 1])),
            [],
            [tf.float32, tf.float32, tf.int64],
        )
        slices = tf.IndexedSlices(rows, tf.constant([1]), shape)
        optimizer.apply([gradient, slices], [weights, table])

    step()
    np.testing.assert_array_equal(weights, [-1.0, 0.0])
    np.testing.assert_array_equal(table, [[0.0], [-2.0], [0.0]])


def test_two_optimizers_of_one_program_keep_apart():
    gradient = tf.constant([0.25, 1.0])

    def train(*optimizers):
        weights = [keras.Variable([0.0, 0.0], name="w") for _ in optimizers]

        @tf.function
        def step():
            for optimizer, variable in zip(optimizers, weights, strict=True):
                optimizer.apply_gradients([(gradient, variable)])

        for _ in range(3):
            step()
        return [variable.numpy().tolist() for variable in weights]

    fine, coarse = (lambda: thresholded(threshold=0.5)), (lambda: thresholded(0.5, 2.0))
    assert train(fine(), coarse()) == train(fine()) + train(coarse())
    assert train(fine(), coarse()) == [[-0.5, -3.0], [0.0, -1.0]]


def test_variables_of_one_name_keep_apart():
    variables = [tf.Variable([0.0] * size, name="same") for size in (1, 2, 3)]
    optimizer = thresholded()
    for _ in range(2):
        gradients = [tf.fill([size], 0.125 * size) for size in (1, 2, 3)]
        optimizer.apply(gradients, variables)
    # Held back 2 · 0.125; sent 2 · 0.25 and 2 · 0.375.
    for variable, expected in zip(variables, [0.0, -0.5, -0.75], strict=True):
        assert variable.numpy().tolist() == [expected] * variable.shape[0]


def train_linear(model, optimizer):
    """One step, with gradients 0.25 and 1.0 for each layer."""
    model.compile(optimizer, loss=lambda target, output: output, run_eagerly=True)
    model.fit(np.array([[0.25, 1.0]]), np.zeros((1, 1)), verbose=0)
    return [layer.kernel.numpy().ravel().tolist() for layer in model.layers[1:3]]


def test_a_layer_frozen_for_a_while_keeps_its_residual():
    model, optimizer = linear_model("one", "two"), thresholded()
    assert train_linear(model, optimizer) == [[0, -1], [0, -1]]
    model.get_layer("one").trainable = False
    assert train_linear(model, optimizer) == [[0, -1], [-0.5, -2]]
    model.get_layer("one").trainable = True
    # The second layer holds back anew; the first sends 0.25 from before and 0.25.
    assert train_linear(model, optimizer) == [[-0.5, -2], [-0.5, -3]]


# Keras before 3.15 shows the variables in its message, which NumPy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_a_layer_unfrozen_later_is_trained_by_a_new_wrapper():
    model = linear_model("one", "two")
    model.get_layer("one").trainable = False
    optimizer = thresholded()
    assert train_linear(model, optimizer) == [[0, 0], [0, -1]]
    model.get_layer("one").trainable = True
    with pytest.raises(ValueError, match="recreate a new optimizer instance"):
        train_linear(model, optimizer)  # As in Keras: built for other variables.
    assert train_linear(model, thresholded()) == [[0, -1], [0, -2]]
