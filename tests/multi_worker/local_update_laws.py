"""What each of several real workers does in test_local_updates.py."""

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tests.checkpoint.training import fit, make_dataset, make_model
from tests.multi_worker.laws import collectives_of


def optimizer(local_steps=3, **options):
    return tem_tf.LocalUpdates(
        keras.optimizers.AdamW(0.01),
        local_steps=local_steps,
        **{
            "compressor": tem_tf.TopK(0.25),
            "value_dtype": "int4",
            "memory": tem_tf.DecayingErrorFeedback(0.95),
            **options,
        },
    )


def trained(strategy, directory, kill_at=None):
    """See `fit`: three epochs of eight steps, in exchanges of three and less."""
    return fit(strategy, optimizer, directory, kill_at=kill_at)


class Seen(keras.callbacks.Callback):
    """What weights and statistics are when an epoch ends."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        found = [
            np.array(v.numpy()) for v in self.model.variables if "float" in v.dtype
        ]
        self.weights.append([each.tobytes() for each in found])


def fitted(strategy, directory, validate):
    """What callbacks and a ModelCheckpoint see of a training, its end and its logs."""
    model = make_model(strategy, optimizer)
    seen, path = Seen(), f"{directory}/{{epoch}}.weights.h5"
    history = model.fit(
        make_dataset(0).repeat(),
        steps_per_epoch=8,
        epochs=2,
        validation_data=make_dataset(1) if validate else None,
        callbacks=[keras.callbacks.ModelCheckpoint(path, save_weights_only=True), seen],
        verbose=0,
    )
    weights = [np.array(v.numpy()).tobytes() for v in model.trainable_variables]
    loss = model.evaluate(make_dataset(1), verbose=0)
    model.fit(make_dataset(0).repeat(), steps_per_epoch=2, verbose=0)
    return {
        "seen": seen.weights,
        "weights": weights,
        "history": history.history,
        "loss": loss,
        "exchanges": int(model.optimizer.outer_optimizer.iterations.numpy()),
        "always": collectives_of_a_step(strategy, model),
    }


def collectives_of_a_step(strategy, model):
    """Those that every training step of `fit` has, on data without an end."""
    data = strategy.experimental_distribute_dataset(make_dataset(0).repeat())

    @tf.function
    def step(batch):
        return strategy.run(model.train_step, args=(batch,))

    return collectives_of(step.get_concrete_function(next(iter(data))))[0]


def executed(strategy, directory, steps):
    """How many collectives the profiler has seen in each of so many steps."""
    model = make_model(strategy, optimizer)
    data = iter(strategy.experimental_distribute_dataset(make_dataset(0).repeat()))

    @tf.function
    def step(batch):
        return strategy.run(model.train_step, args=(batch,))

    for _ in range(3):  # Tracing, and what workers agree on at their first exchange.
        step(next(data))
    return [
        _collectives_seen(lambda: step(next(data)), directory) for _ in range(steps)
    ]


def _collectives_seen(function, directory):
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory(dir=directory) as place:
        with tf.profiler.experimental.Profile(place):
            function()
        (path,) = pathlib.Path(place).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    seen = [
        plane.event_metadata[event.metadata_id].name
        for plane in space.planes
        for line in plane.lines
        for event in line.events
    ]
    assert any("MatMul" in name for name in seen)  # It has seen the step's operations.
    return sum(":Collective" in name for name in seen)


def refused(strategy, directory):
    """What all are told where one's ModelCheckpoint saves within an epoch."""
    model = make_model(strategy, optimizer)
    saving = keras.callbacks.ModelCheckpoint(f"{directory}/a.keras", save_freq=2)
    try:
        on_one = [saving] if strategy.cluster_resolver.task_id == 0 else []
        model.fit(make_dataset(0), callbacks=on_one, verbose=0)
    except ValueError as error:
        return str(error)
    return None


def differing(strategy):
    """What workers of other numbers of local steps are told at their first."""
    task = strategy.cluster_resolver.task_id
    model = make_model(strategy, lambda: optimizer(3 + task))
    try:
        model.fit(make_dataset(0), verbose=0)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        return str(error)
    return None


def diverging(strategy):
    """What all are told where one worker's weights are not finite at an exchange."""
    task = strategy.cluster_resolver.task_id
    model = make_model(strategy, optimizer)
    model.fit(make_dataset(0).take(1), verbose=0)
    if task == 1:
        model.trainable_variables[0].assign(
            np.full(model.trainable_variables[0].shape, np.nan, np.float32)
        )
    try:
        model.fit(make_dataset(0), verbose=0)
    except tf.errors.InvalidArgumentError as error:
        return str(error)
    return None


def heard_by_one(strategy):
    """What all are told where one worker alone has a callback at an epoch's end."""
    task = strategy.cluster_resolver.task_id
    model = make_model(strategy, optimizer)
    try:
        model.fit(make_dataset(0), callbacks=[Seen()] if task == 0 else [], verbose=0)
    except ValueError as error:
        return str(error)
    return None


def validated(strategy):
    """Local steps that no exchange followed, when validation has begun."""
    model = make_model(strategy, lambda: optimizer(nonfinite="zero"))
    pending = []
    hears = keras.callbacks.LambdaCallback(
        on_test_batch_end=lambda batch, logs: pending.append(model.optimizer.pending)
    )
    model.fit(
        make_dataset(0).repeat(),
        steps_per_epoch=4,
        validation_data=make_dataset(1),
        callbacks=[hears],
        verbose=0,
    )
    return pending


def streamed_optimizer(**options):
    return optimizer(fragments=3, **options)


def streamed(strategy, directory, kill_at=None):
    """As `trained`, in three fragments."""
    return fit(strategy, streamed_optimizer, directory, kill_at=kill_at)


def streamed_to_the_end(strategy):
    """What is left of `fit` on data of unknown length, less of it on one worker."""
    # Of no rows batch normalisation makes NaN.
    model = make_model(strategy, lambda: streamed_optimizer(nonfinite="zero"))
    data = make_dataset(0).unbatch().filter(lambda *_: True).batch(4)
    index = strategy.cluster_resolver.task_id

    def share(context):
        return data.take(5 if index else 7)

    with strategy.scope():
        shares = strategy.distribute_datasets_from_function(share)
    model.fit(shares, epochs=2, verbose=0)
    return [np.array(v.numpy()).tobytes() for v in model.trainable_variables]


def streamed_in_a_loop(strategy, steps):
    """What is left of `fit` with so many steps in one graph."""
    model = make_model(strategy, streamed_optimizer, steps_per_execution=steps)
    model.fit(make_dataset(0).repeat(), steps_per_epoch=6, verbose=0)
    return [np.array(v.numpy()).tobytes() for v in model.trainable_variables]


def before_exchanges(strategy):
    """Kinds of operations that a fragment's exchange waits for, in a training step."""
    model = make_model(strategy, streamed_optimizer)
    data = strategy.experimental_distribute_dataset(make_dataset(0).repeat())

    @tf.function
    def step(batch):
        return strategy.run(model.train_step, args=(batch,))

    graph = step.get_concrete_function(next(iter(data))).graph
    first = next(op for op in graph.get_operations() if op.type == "Case")
    found, waiting = set(), [first]
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
    return sorted({op.type for op in graph.get_operations()}), sorted(
        {op.type for op in found}
    )
