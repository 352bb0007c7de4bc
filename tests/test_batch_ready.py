"""What of a step waits for its batch, and for no arithmetic."""

import pytest
import tensorflow as tf

from tem_tf.batch_ready import when_batch_is_ready


def waited_for(make_gradient, **iterators):
    """Kinds of operations that a note in a step waits for."""

    @tf.function(autograph=False)
    def step(**iterators):
        gradient = make_gradient(**iterators)
        with when_batch_is_ready([gradient, None]):
            noted = tf.constant(1) + 1
        return gradient, noted

    graph = step.get_concrete_function(**iterators).graph
    found, waiting = set(), [graph.structured_outputs[1].op]
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
    return {op.type for op in found}


@pytest.fixture
def weights():
    return tf.Variable([[1.0, 2.0]])


@pytest.fixture
def batches():
    return iter(tf.data.Dataset.from_tensors(tf.ones([2, 1])).repeat())


def gradient_of(weights, inputs):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.softmax(inputs @ weights)[:, 0])
    return tape.gradient(loss, weights)


def test_it_waits_for_the_batch_and_for_no_arithmetic(weights, batches):
    kinds = waited_for(lambda it: gradient_of(weights, next(it)), it=batches)
    assert "IteratorGetNext" in kinds
    assert not kinds & {"MatMul", "Softmax"}


def test_a_batch_that_stands_behind_a_variable_is_waited_for(weights, batches):
    count = tf.Variable(0)

    def gradient(it):
        with tf.control_dependencies([count.assign_add(1)]):
            inputs = next(it)
        return gradient_of(weights, inputs)

    kinds = waited_for(gradient, it=batches)
    assert "IteratorGetNext" in kinds
    assert not kinds & {"MatMul", "Softmax"}


def test_eagerly_nothing_waits():
    with when_batch_is_ready([tf.ones([2])]):
        assert int(tf.constant(1) + 1) == 2
