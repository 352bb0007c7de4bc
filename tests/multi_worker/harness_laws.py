"""What the workers do in the tests of the harness itself."""

import os
import time

import tensorflow as tf


def sum_over_workers(strategy, value):
    """The sum of `value` over all workers, through one collective."""

    @tf.function
    def step():
        def in_replica():
            return tf.constant(value, tf.float32)

        return strategy.reduce("SUM", strategy.run(in_replica), axis=None)

    return step()


def add_own(strategy, common, own):
    """This worker's index, and `common` + its own value."""
    return {
        "index": strategy.cluster_resolver.task_id,
        "sum": tf.constant(common) + tf.constant(own),
    }


def two_collectives_in_one_graph(strategy):
    """Two reductions that do not depend on one another."""

    @tf.function
    def step():
        def in_replica():
            context = tf.distribute.get_replica_context()
            first = context.all_reduce("SUM", tf.ones([1000]))
            second = context.all_gather(tf.ones([10]), axis=0)
            return tf.reduce_sum(first) + tf.reduce_sum(second)

        return strategy.experimental_local_results(strategy.run(in_replica))[0]

    return step()


def raise_on(strategy, index):
    """Raises on one worker, while the others wait for it in a collective."""
    if strategy.cluster_resolver.task_id == index:
        raise KeyError(f"worker {index} could not")
    return sum_over_workers(strategy, 1.0)


def exit_on(strategy, index):
    """Ends one worker's process without a word."""
    if strategy.cluster_resolver.task_id == index:
        os._exit(3)
    return sum_over_workers(strategy, 1.0)


def hang_on(strategy, index):
    """One worker sleeps; the others wait for it in a collective."""
    if strategy.cluster_resolver.task_id == index:
        time.sleep(1000)
    return sum_over_workers(strategy, 1.0)


def return_distributed(strategy):
    """Returns what only a strategy can hold."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(1.0)
    )


def layer_name(strategy):
    """The name that Keras gives to the first dense layer."""
    import keras

    return keras.layers.Dense(1).name


class NotPicklable:
    """A result that cannot be sent."""

    def __reduce__(self):
        raise TypeError("cannot be sent")


def return_not_picklable(strategy):
    """Returns a result that cannot be sent."""
    return NotPicklable()
