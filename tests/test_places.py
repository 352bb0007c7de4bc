"""Where an optimizer is made and asked: it works wholly, or is refused at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.places import LOOPS, REFUSAL, REFUSED, WORKS, assert_whole, train
from tests.training import identity, make_strategy, thresholded

SGD = keras.optimizers.SGD


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("outside", WORKS.values(), ids=WORKS)
def test_what_works_outside_the_scope_works_wholly(outside, loop, tmp_path):
    results = train(make_strategy(2), outside, loop, log_dir=tmp_path)
    assert_whole(results)
    assert bool(list(tmp_path.rglob("*tfevents*"))) == (loop == "fit")


@pytest.mark.parametrize("inner", [SGD, keras.optimizers.Adam])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("outside", REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_outside_the_scope_is_refused_at_once(outside, loop, inner):
    results = train(make_strategy(2), outside, loop, inner)
    assert REFUSAL in results["refused"]
    assert (
        "Make the model and its optimizer in one `with strategy.scope():`"
        in (results["refused"])
    )
    assert results["untouched"]


def test_an_optimizer_that_was_built_elsewhere_is_refused_when_wrapped():
    inner = SGD()
    with make_strategy(2).scope():
        weights = keras.Variable([0.0], name="w")
        inner.build([weights])
        with pytest.raises(ValueError, match=REFUSAL):
            identity(inner)


@pytest.mark.parametrize("make", [thresholded, lambda: identity(SGD())])
@pytest.mark.parametrize("replicas", [1, 2])
def test_what_is_told_before_the_first_step_and_after_forget(make, replicas):
    strategy = make_strategy(replicas)
    with strategy.scope():
        optimizer = make()
        weights = keras.Variable([0.0, 0.0], name="w")
    told = ("communication_summary", "communication_by_variable")
    for method in (*told, "communication_summaries"):
        with pytest.raises(ValueError, match=f"`{method}` needs an optimizer that has"):
            getattr(optimizer, method)()
    optimizer.forget()
    totals = strategy.experimental_local_results(strategy.run(optimizer.running_totals))
    assert [total.dtype for total in totals] == [tf.float64] * replicas
    np.testing.assert_array_equal(totals, np.zeros((replicas, 3)))
    with strategy.scope():
        optimizer.build([weights])
    built = optimizer.communication_summaries()
    assert built[0] == optimizer.communication_summary()
    assert built[1] == optimizer.communication_by_variable()
    assert (built[0]["steps"], built[0]["density"]) == (0, 0)
    (row,) = built[1].values()
    assert (row["entries"], row["entries_sent"]) == (2 * replicas, 0)
    strategy.run(lambda: optimizer.apply([tf.constant([1.0, 0.125])], [weights]))
    assert optimizer.communication_summary()["steps"] == 1
    optimizer.forget()
    assert optimizer.communication_summaries() == built


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_graph_traced_before_build_reads_the_totals_of_later_steps(replicas):
    strategy = make_strategy(replicas)
    with strategy.scope():
        optimizer = thresholded()
        weights = keras.Variable([0.0, 0.0], name="w")

    def step():
        before = optimizer.running_totals()
        optimizer.apply([tf.constant([1.0, 1.0])], [weights])
        with tf.control_dependencies([before]):
            return before[0], optimizer.running_totals()[0]

    run = tf.function(lambda: strategy.run(step))
    for taken in range(3):
        before, after = run()
        for values, entries in ((before, 2 * taken), (after, 2 * taken + 2)):
            assert all(
                value == entries
                for value in strategy.experimental_local_results(values)
            )


@pytest.mark.parametrize(
    "method",
    [
        "communication_summary",
        "communication_by_variable",
        "communication_summaries",
        "forget",
    ],
)
def test_what_asks_all_replicas_is_refused_within_a_step(method):
    strategy = make_strategy(2)
    with strategy.scope():
        optimizer = thresholded()
        optimizer.build([keras.Variable([0.0], name="w")])
    message = f"`{method}` must be called between steps, outside `strategy.run`"
    ask = getattr(optimizer, method)
    for call in (lambda: strategy.run(ask), tf.function(ask)):
        with pytest.raises(ValueError, match=message):
            call()


def test_what_is_a_replicas_own_is_refused_outside_all():
    with make_strategy(2).scope():
        optimizer = thresholded()
        message = "`running_totals` must be called in replica context, inside"
        with pytest.raises(ValueError, match=message):
            optimizer.running_totals()


@pytest.mark.parametrize("wrap", [identity, lambda inner: thresholded()])
def test_the_end_of_data_of_unknown_length_counts_no_step(wrap):
    """Keras's `fit` sees it by a step without a batch, which Keras's counter counts."""
    data = tf.data.Dataset.range(7).filter(lambda i: i >= 0)
    data = data.map(lambda i: (tf.ones([2, 2]), tf.ones([2, 1])))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(wrap(SGD(0.1)), "mse")
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(data, epochs=2, shuffle=False, verbose=0)
    assert model.optimizer.communication_summary()["steps"] == 14
    if wrap is not identity:  # With it the counter is Keras's, as it is.
        assert model.optimizer.iterations == 14
