"""What is noted of empty batches, and what the error of their gradients says."""

import numpy as np
import pytest
import tensorflow as tf

from tem_tf.empty_batches import (
    EmptyBatches,
    batch_is_empty,
)
from tem_tf.nonfinite import EMPTY_BATCH, NOT_FINITE, not_finite_error
from tests.training import make_strategy


class Noting(tf.distribute.MirroredStrategy):
    """Two replicas in this process, noted as by MultiWorkerMirroredStrategy."""

    def __init__(self):
        super().__init__(["CPU:0", "CPU:1"])
        self.empty_batches = EmptyBatches(2)

    def run(self, fn, args=(), kwargs=None, options=None):
        self.empty_batches.note(self, (args, kwargs))
        return super().run(fn, args, kwargs, options)


@pytest.fixture(scope="module")
def noting():
    return Noting()


def per_replica(strategy, *values):
    """One value for each replica."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group]
    )


def seen(strategy, result):
    return [bool(value) for value in strategy.experimental_local_results(result)]


def directly(strategy, data):
    return strategy.run(lambda _: batch_is_empty(), args=(data,))


def in_a_function(strategy, data):
    return tf.function(directly)(strategy, data)


def of_a_function(strategy, data):
    return strategy.run(tf.function(lambda _: batch_is_empty()), args=(data,))


def by_name(strategy, data):
    return strategy.run(lambda batch: batch_is_empty(), kwargs={"batch": data})


@tf.function
def _within(_):
    return batch_is_empty()


def in_a_nested_function(strategy, data):
    """A function that is traced once, and called from a graph of each strategy.run."""
    run = tf.function(lambda d: strategy.run(lambda _: _within(0), args=(d,)))
    return run(data)


def in_a_branch_of_a_loop(strategy, data):
    """As Keras's fit with `steps_per_execution`: run itself is in a graph's loop."""

    @tf.function
    def loop(data):
        found = tf.constant([False, False])
        for step in tf.range(3):
            if step < 2:
                each = strategy.run(lambda _: batch_is_empty(), args=(data,))
                found = tf.stack(strategy.experimental_local_results(each))
        return found

    return tuple(tf.unstack(loop(data)))


def beneath_a_branch(strategy, data):
    def step(_):
        return tf.cond(tf.constant(True), batch_is_empty, lambda: tf.constant(False))

    return tf.function(lambda d: strategy.run(step, args=(d,)))(data)


@pytest.mark.parametrize(
    "call",
    [
        directly,
        in_a_function,
        of_a_function,
        by_name,
        in_a_nested_function,
        in_a_branch_of_a_loop,
        beneath_a_branch,
    ],
)
def test_each_replica_knows_at_each_step_whether_its_batch_is_empty(noting, call):
    for rows in ([2, 0], [0, 2], [1, 3], [0, 0]):
        data = per_replica(noting, *(tf.zeros([count, 3]) for count in rows))
        result = call(noting, data)
        values = result if isinstance(result, tuple) else seen(noting, result)
        assert [bool(v) for v in values] == [count == 0 for count in rows]


@pytest.mark.parametrize(
    ("batch", "empty"),
    [
        ({"a": tf.zeros([0, 2]), "b": tf.zeros([0])}, True),
        ((tf.zeros([0, 2]), None, tf.zeros([0])), True),
        ((tf.constant(0.5), tf.zeros([3]), {"x": tf.zeros([0, 2])}), True),
        ((tf.constant(0.5), tf.zeros([3, 0])), False),
        (tf.constant(0.5), False),
        (np.zeros([0, 2]), True),
        (tf.constant([], tf.string), True),
        (tf.ragged.constant([[], []], tf.float32), False),
        (tf.ragged.constant([], tf.float32, ragged_rank=1), True),
        (tf.sparse.from_dense(tf.zeros([2, 3])), False),
        (tf.sparse.from_dense(tf.zeros([0, 3])), True),
        ("no tensor", False),
        ((), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("graph", [False, True])
def test_a_batch_of_any_form_is_empty_if_a_tensor_of_it_has_no_rows(
    noting, batch, empty, graph
):
    directly(noting, tf.zeros([int(empty)]))  # The opposite, to be overwritten.
    run = in_a_function if graph else directly
    assert seen(noting, run(noting, batch)) == [empty, empty]


def test_rows_of_a_dataset_are_counted_when_the_step_runs(noting):
    """Traced once, for batches of any length."""
    batches = tf.data.Dataset.range(5).batch(4)
    iterator = iter(noting.experimental_distribute_dataset(batches))
    step = tf.function(lambda iterator: directly(noting, next(iterator)))
    found = [seen(noting, step(iterator)) for _ in range(2)]
    assert found == [[False, False], [False, True]]
    assert step.experimental_get_tracing_count() == 1


def test_a_step_without_arguments_is_not_taken_for_an_empty_one(noting):
    directly(noting, tf.zeros([0]))
    assert seen(noting, noting.run(batch_is_empty)) == [False, False]


def test_autograph_still_converts_what_is_run(noting):
    def step(x):
        if tf.size(x) > 2:
            return tf.constant(False)
        return batch_is_empty()

    run = tf.function(lambda x: noting.run(step, args=(x,)))
    assert seen(noting, run(tf.zeros([0]))) == [True, True]


def test_nobody_knows_under_other_strategies():
    assert batch_is_empty() is None
    found = []
    mirrored = make_strategy(2)
    mirrored.run(lambda _: found.append(batch_is_empty()), args=(tf.zeros([0]),))
    with mirrored.scope():
        found.append(batch_is_empty())
    assert found == [None, None, None]


def raised(nonfinite, empty, graph):
    def check(nonfinite, empty):
        data = not_finite_error(nonfinite, empty)
        tf.debugging.Assert(tf.equal(nonfinite, 0), data)

    check = tf.function(check) if graph else check
    empty = None if empty is None else tf.constant(empty)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        check(tf.constant(nonfinite), empty)
    return str(error.value)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("nonfinite", "empty", "begins", "says", "says_not"),
    [
        (3, 0, NOT_FINITE, "Lower the learning rate", "drop_remainder"),
        (3, 1, EMPTY_BATCH, "drop_remainder=True", "learning rate"),
        (3, None, NOT_FINITE, "Else: Lower the learning rate", "Of these with"),
        (3, None, NOT_FINITE, "may have been empty", "Of these with"),
    ],
)
def test_the_error_names_the_cause_and_the_counts(
    nonfinite, empty, begins, says, says_not, graph
):
    message = raised(nonfinite, empty, graph)
    (other,) = {NOT_FINITE, EMPTY_BATCH} - {begins}
    assert begins in message
    assert other not in message
    assert says in message
    assert says_not not in message
    assert f"{nonfinite}" in message
    if empty is not None:
        assert message.index(begins) < message.index("Of these with an empty batch:")
