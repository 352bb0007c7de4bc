"""One short training whose parts are made inside and outside a strategy's scope."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

import tem_tf

# What is made outside: where all works, and where it is refused.
WORKS = {
    "nothing": (),
    "compile": ("compile",),
    "wrapper": ("wrapper",),
    "wrapper and compile": ("wrapper", "compile"),
    "build": ("build",),
}
REFUSED = {
    "inner": ("inner",),
    "inner and wrapper": ("inner", "wrapper"),
    "all but the model": ("inner", "wrapper", "compile", "build"),
    "model": ("model",),
    "model and compile": ("model", "compile"),
}
REFUSAL = "`inner_optimizer` must be made under the strategy of the variables"
LOOPS = ("fit", "graph", "eager")
STEPS = 4


def train(strategy, outside, loop, inner=keras.optimizers.Adam, log_dir=None):
    """Trains for four steps, and asks for all that an optimizer has to tell.

    Args:
        strategy: `tf.distribute.Strategy`, of two replicas.
        outside: Which of "model", "inner", "wrapper", "compile", "build" are made
            outside its scope; "build": the optimizer is built before the loop, there.
        loop: One of LOOPS.
        inner: Class of the inner optimizer.
        log_dir: Of the callback, in `fit`.

    Returns:
        A dict; "refused" is in it if there was a ValueError: what it says, and whether
        the weights were still those of the start.
    """

    def place(name):
        return contextlib.nullcontext() if name in outside else strategy.scope()

    with place("inner"):
        optimizer = inner(0.5)
    with place("wrapper"):
        optimizer = tem_tf.SparsifiedOptimizer(optimizer, tem_tf.HardThreshold(0.5))
    with place("model"):
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((2,)), layer])
    try:
        if "build" in outside:
            optimizer.build(model.trainable_variables)
        if loop == "fit":
            with place("compile"):
                model.compile(optimizer, loss=lambda target, output: output)
            _fit(model, optimizer, log_dir)
        else:
            _loop(strategy, model, optimizer, graph=loop == "graph")
    except ValueError as error:
        return {"refused": str(error), "untouched": not np.any(layer.kernel.numpy())}
    results = {
        "weights": layer.kernel.numpy().ravel(),
        "iterations": int(optimizer.iterations.numpy()),
        "summary": optimizer.communication_summary(),
        "by_variable": optimizer.communication_by_variable(),
    }
    optimizer.forget()
    return {**results, "forgotten": optimizer.communication_summary()}


def assert_whole(results):
    """What `train` returns is right, of gradients 0.25 and 1.0, threshold 0.5.

    Of four steps two send one entry and two send both, on each of two replicas.
    """
    assert results["iterations"] == results["summary"]["steps"] == STEPS
    assert results["summary"]["replicas"] == 2
    assert results["summary"]["entries_sent"] == 12
    (row,) = results["by_variable"].values()
    assert (row["entries"], row["entries_sent"]) == (4, 12)
    forgotten = results["forgotten"]
    assert (forgotten["steps"], forgotten["residual_norm"]) == (0, 0)


def _fit(model, optimizer, log_dir):
    """Every replica has gradients of 0.25 and 1.0."""
    inputs = np.array([[0.25, 1.0]] * 2 * STEPS)
    data = tf.data.Dataset.from_tensor_slices((inputs, np.zeros((len(inputs), 1))))
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    callbacks = []
    if log_dir is not None:
        callbacks.append(tem_tf.TensorBoardSparsification(log_dir, every=2))
    data = data.batch(2).with_options(options)
    model.fit(data, shuffle=False, verbose=0, callbacks=callbacks)


def _loop(strategy, model, optimizer, graph):
    weights = model.trainable_variables
    if graph and strategy.num_replicas_in_sync > 1 and not optimizer.built:
        # As Keras asks of an optimizer with variables of its own.
        with strategy.scope():
            optimizer.build(weights)

    def step():
        optimizer.apply_gradients([(tf.constant([[0.125], [0.5]]), weights[0])])

    run = (
        tf.function(lambda: strategy.run(step)) if graph else lambda: strategy.run(step)
    )
    for _ in range(STEPS):
        run()
