"""What workers send one another before their first step."""

from unittest import mock

import keras
import numpy as np
from tensorflow.python.ops import collective_ops

import tem_tf


def sgd():
    return tem_tf.SparsifiedOptimizer(keras.optimizers.SGD(0.1, 0.9), tem_tf.TopK(0.1))


def accumulating():
    adam = keras.optimizers.Adam(0.1, use_ema=True)
    compressor = tem_tf.PowerSGD(2)
    return tem_tf.SparsifiedOptimizer(adam, compressor, accumulate_steps=2)


def local():
    return tem_tf.LocalUpdates(keras.optimizers.AdamW(0.1), local_steps=3)


def adamw():
    return tem_tf.CompressedAdamW(0.1, freeze_step=2)


class Drawn(tem_tf.ErrorFeedback):
    """A user's memory that begins with what each worker draws for itself."""

    def init(self, segments):
        draws = np.random.default_rng().normal
        residual = [draws(size=[s.size]).astype("f") for s in segments]
        return {"residual": residual}


class DrawnSGD(keras.optimizers.SGD):
    """A user's optimizer whose slots begin so."""

    def add_variable_from_reference(self, variable, name=None, initializer="zeros"):
        return super().add_variable_from_reference(variable, name, "normal")


def broadcasts_of_build(strategy, make, layers):
    """Broadcasts of building an optimizer, and all that each worker begins with."""
    with strategy.scope():
        keras.utils.set_random_seed(strategy.cluster_resolver.task_id)
        model = keras.Sequential(
            [keras.Input([3]), *(keras.layers.Dense(4) for _ in range(layers))]
        )
        optimizer = make()
    count = 0

    def counted(original):
        def collective(*arguments):
            nonlocal count
            count += 1
            return original(*arguments)

        return collective

    with mock.patch.multiple(
        collective_ops,
        broadcast_send=counted(collective_ops.broadcast_send),
        broadcast_recv=counted(collective_ops.broadcast_recv),
    ):
        optimizer.build(model.trainable_variables)
    ours = optimizer.aggregator.state.values()[0]
    found = [ours[name] for name in sorted(ours)]
    found += [v.numpy() for v in optimizer.variables]
    return count, [np.asarray(value).tobytes() for value in found]


def drawn_memory():
    return tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(0.1), tem_tf.TopK(0.1), Drawn()
    )


def drawn_slots():
    return tem_tf.SparsifiedOptimizer(DrawnSGD(0.1, 0.9), tem_tf.TopK(0.1))
