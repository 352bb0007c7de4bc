"""Optimizers around others, by which workers exchange what a run asks for."""

from __future__ import annotations

import warnings

import keras
import tensorflow as tf

import tem_tf
from tem_studies.refusal import refusing
from tem_studies.workloads.compression import make_compressor, make_memory
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.exchange_settings import OUTER_LEARNING_RATE, OUTER_MOMENTUM


@keras.saving.register_keras_serializable(package="tem_tf")
class CompressedMatrixAdamW(tem_tf.CompressedAdamW):
    """`tem_tf.CompressedAdamW` whose weight decay is that of `MatrixAdamW`."""

    def build(self, variables) -> None:
        """As in Keras."""
        if not self.inner_optimizer.built:
            vectors = [v for v in variables if len(v.shape) < 2]
            self.inner_optimizer.exclude_from_weight_decay(vectors)
        super().build(variables)


def _outer(configuration: Configuration) -> keras.optimizers.Optimizer:
    """The optimizer that takes what workers have moved for a gradient."""
    rate, momentum = configuration.outer_learning_rate, configuration.outer_momentum
    rate = OUTER_LEARNING_RATE if rate is None else rate
    momentum = OUTER_MOMENTUM if momentum is None else momentum
    return keras.optimizers.SGD(rate, momentum, nesterov=momentum > 0)


def sparsified(
    inner: keras.optimizers.Optimizer,
    configuration: Configuration,
    steps_per_epoch: int | None = None,
) -> tem_tf.SparsifiedOptimizer | tem_tf.LocalUpdates:
    """Wraps an optimizer with the compressor that a configuration asks for.

    "none" is wrapped as well, so that its bytes are counted.

    Args:
        inner: The optimizer.
        configuration: The run's settings.
        steps_per_epoch: Steps of one pass over the training data, if that is known.
    """
    common = {
        "compressor": make_compressor(configuration, steps_per_epoch),
        "memory": make_memory(configuration),
        "dense_below": configuration.dense_below,
        "value_dtype": configuration.value_dtype,
        "nonfinite": configuration.nonfinite or "raise",
    }
    # Each worker's own gradient is clipped, where it is that which the optimizer gets.
    if configuration.local_steps is not None:
        inner.global_clipnorm = configuration.local_clipnorm
        with refusing(ValueError):
            return tem_tf.LocalUpdates(
                inner, _outer(configuration), configuration.local_steps, **common
            )
    steps = {
        "accumulate_steps": configuration.accumulate_steps or 1,
        "loss_scale": configuration.scale,
    }
    if configuration.freeze_step is not None:
        # Keras clips the gradient that it has divided by their number.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        limit = configuration.local_clipnorm
        arguments = {
            **inner.get_config(),
            "global_clipnorm": None if limit is None else limit / replicas,
            "freeze_step": configuration.freeze_step,
        }
        with refusing(ValueError):
            return CompressedMatrixAdamW.from_config(arguments | common | steps)
    with refusing(ValueError), warnings.catch_warnings():
        # Gradients before Adam are what the TEM study compresses of NCF.
        warnings.filterwarnings("ignore", "Adam's variance is wrong")
        return tem_tf.SparsifiedOptimizer(
            inner,
            warmup_steps=configuration.warmup_steps,
            local_clipnorm=configuration.local_clipnorm,
            **common,
            **steps,
        )
