"""SparsifiedOptimizer: a Keras optimizer whose gradients travel compressed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.aggregating_optimizer import AggregatingOptimizer
from tem_tf.aggregation import Aggregator
from tem_tf.compressors import Compressor
from tem_tf.conditional_steps import ConditionalSteps
from tem_tf.gradient_sums import GradientSums
from tem_tf.inner_optimizer import (
    LOSES_UNDER_ADAM,
    LOSS_SCALING,
    LOST_BY_SAVING,
    build_slots,
    check_accumulation,
    check_inner,
    check_steps,
    loses_quality,
)
from tem_tf.layout import when_ready
from tem_tf.memory import Memory
from tem_tf.places import check_made_together
from tem_tf.settings import settings_of


@keras.saving.register_keras_serializable(package="tem_tf")
class SparsifiedOptimizer(AggregatingOptimizer):
    """Wraps a Keras optimizer; sums gradients over workers in compressed form.

    Keras's own all-reduce is replaced, and nothing else: clipping comes before it, the
    inner optimizer's update after it. With `compressor=Identity()` and no memory
    nothing is replaced at all. Learning rate, schedules, clipping, weight decay, EMA
    and every other attribute are the inner optimizer's and can be read and set here.

    Under N replicas Keras divides the loss by N. Thresholds, `local_clipnorm` and all
    metrics are in units of one worker's own, undivided gradient all the same; clipping
    set on the inner optimizer keeps Keras's meaning, that of the divided gradient.

    Around Adam or AdamW a lossy compressor loses quality, and a warning says so:
    `CompressedAdamW` and `LocalUpdates` do not (docs/adamw.md).

    The first one with a lossy compressor on a machine may take a minute, for the native
    kernels: see `tem_tf.native.prepare`.

    Args:
        inner_optimizer: `keras.optimizers.Optimizer`, or a name or configuration of
            one. It belongs to this wrapper from now on.
        compressor: `tem_tf.Compressor`. What each worker sends.
        memory: What is kept of the rest: "auto" (default) is `ErrorFeedback()` for a
            lossy compressor and nothing for a lossless one; None; or a memory.
        dense_below: Int >= 0, default 0. Variables with fewer entries are sent whole,
            without indices. Higher => more is sent.
        warmup_steps: Int >= 0, default 0. Before that step everything is sent, by one
            dense all-reduce.
        value_dtype: How values travel: "float32" (default), "bfloat16" with 8, or
            "float16" with 11 significant bits and a scale that a message's values
            share; "int8", "int4", "int2" or "sign" in so many bits or one, with a scale
            for 64 values. What rounding takes away stays in the memory; without memory
            it is lost. Small variables and warm-up are float32 always.
        nonfinite: What a NaN or Inf in a worker's gradient does: "raise" (default)
            ends all workers at that step; "zero" counts that worker's gradient as
            zero; "skip" leaves weights, the inner optimizer's variables, `iterations`
            and what is held back as they are, on all workers; moving statistics, seeds
            and metrics have moved. Without compression and memory nothing is checked
            but for "skip", as in Keras. Under XLA, where a step cannot raise, "raise"
            counts it as zero (with a `loss_scale`: skips the step) and raises at the
            end of `fit`, or where a communication summary is asked for before.
        local_clipnorm: Float > 0 or None (default). Bound of the global norm of a
            worker's own gradient, before compression.
        gradients_divided_by_replicas: Bool, default True. Set to False if the loss is
            not a mean-reduced Keras loss (reduction "sum", "none", or your own), so
            that Keras has not divided it.
        exact_payload: Bool, default False. How the workers of several processes agree
            on the size of a step's collective; what they receive is the same, bit for
            bit. False: the size is learnt, so that a step has one collective, and a
            second one only where a payload is longer than that. True: lengths go
            first, in a collective of their own, for the least padding.
        rounding_seed: Int >= 0 or None (default). With `value_dtype` "int8", "int4" or
            "int2": values are rounded to one of the two nearest levels by chance, so
            that their mean is kept; by this seed, the step and the worker. None: to
            the nearest, with the least error, and in the native kernels.
        masks: From paths of trained variables to arrays of their shapes, of zeros and
            ones, or None (default): all ones. For a pruned network: entries with a zero
            are not exchanged, are in no count (k, densities, bytes), and their gradient
            is 0. Clipping that is set on the inner optimizer comes before and sees
            them; `local_clipnorm` does not. The same on all workers. A path may lack
            its beginning, or have one more, where only one variable can be meant.
        accumulate_steps: Int >= 1, default 1. Of so many steps each worker adds up its
            gradients, in float32, and every so many-th step alone exchanges their mean
            and updates: as one batch so many times as large. `iterations` counts
            updates.
        loss_scale: By what losses are multiplied, and gradients divided, so that
            gradients of float16 do not vanish: None (default), a number, or "dynamic",
            which halves it after a step that overflows, down to 1, and doubles it after
            2000 that do not. A step that overflows on any worker is skipped on all of
            them, as by `nonfinite="skip"`; at a dynamic scale of 1 `nonfinite` decides.
            Under the policy mixed_float16 Keras puts a LossScaleOptimizer around every
            optimizer: this one takes its scaling over, so that nothing need be said
            here. In a training loop of your own, `scale_loss` multiplies.
        name: String. Default: the inner optimizer's.

    Attributes:
        aggregator: `tem_tf.Aggregator`. Sums gradients, keeps what is held back.

    Raises:
        ValueError: an argument is out of range; `inner_optimizer` is in another
            wrapper already, scales losses, is made of several optimizers, or
            accumulates gradients itself under a strategy; at the first step, it was
            made under another strategy than what it trains.

    Example:

    >>> import tem_tf
    >>> optimizer = tem_tf.SparsifiedOptimizer(
    ...     keras.optimizers.SGD(1.0), compressor=tem_tf.HardThreshold(0.5)
    ... )
    >>> weights = keras.Variable([0.0, 0.0])
    >>> optimizer.apply([tf.constant([0.4, 1.0])], [weights])
    >>> weights.numpy()  # The first entry is held back, below the threshold,
    array([ 0., -1.], dtype=float32)
    >>> optimizer.apply([tf.constant([0.4, 0.0])], [weights])
    >>> weights.numpy()  # and sent once it has grown to 0.8.
    array([-0.8, -1. ], dtype=float32)

    References:
        Sahu et al., NeurIPS 2021, arXiv 2108.00951, algorithm 1.
    """

    OWN = frozenset({"inner_optimizer", "aggregator", "_conditional", "_sums"})
    FIXED = frozenset(
        {"compressor", "memory", "masks", "accumulate_steps", "loss_scale"}
    )
    SUMS = GradientSums  # What stands in the place of Keras's all-reduce.

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        compressor: Compressor,
        memory: Memory | str | None = "auto",
        dense_below: int = 0,
        warmup_steps: int = 0,
        value_dtype: str = "float32",
        nonfinite: str = "raise",
        local_clipnorm: float | None = None,
        gradients_divided_by_replicas: bool = True,
        exact_payload: bool = False,
        rounding_seed: int | None = None,
        masks: Mapping[str, Any] | None = None,
        accumulate_steps: int = 1,
        loss_scale: str | float | None = None,
        name: str | None = None,
    ):
        # The base class's __init__ is left out: it would make variables, and all of
        # this object's are the inner's.
        inner_optimizer = keras.optimizers.get(inner_optimizer)
        check_inner(inner_optimizer, AggregatingOptimizer)
        self.aggregator = Aggregator(
            compressor,
            memory,
            dense_below=dense_below,
            warmup_steps=warmup_steps,
            value_dtype=value_dtype,
            nonfinite=nonfinite,
            local_clipnorm=local_clipnorm,
            gradients_divided_by_replicas=gradients_divided_by_replicas,
            exact_payload=exact_payload,
            rounding_seed=rounding_seed,
            masks=masks,
        )
        check_accumulation(inner_optimizer, self.aggregator.options)
        check_steps(inner_optimizer, accumulate_steps, loss_scale, nonfinite)
        gradients_go = self.SUMS is GradientSums
        if gradients_go and loses_quality(inner_optimizer, self.aggregator.options):
            warnings.warn(LOSES_UNDER_ADAM, stacklevel=2)
        self.inner_optimizer = inner_optimizer
        self._sums = self.SUMS(inner_optimizer, self.aggregator)
        self._conditional = ConditionalSteps(
            self._sums, accumulate_steps, loss_scale, nonfinite
        )
        if name is not None:
            inner_optimizer.name = name
        if inner_optimizer.built:
            variables = _internals.trained_variables(inner_optimizer)
            check_made_together(inner_optimizer, variables)
            self._build_memory(variables)

    # What is ours.

    def build(self, variables):
        """Makes the inner optimizer's variables and this replica's memory."""
        check_made_together(self.inner_optimizer, variables)
        # Ours first: workers that differ are told so before they make variables, which
        # they do together.
        self._build_memory(variables)
        with self._scope():
            build_slots(self.inner_optimizer, variables)

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        """Updates the variables; replica context. As in Keras."""
        if _internals.loss_scale_optimizer_around() is not None:
            raise ValueError(LOSS_SCALING)
        self._apply(grads, trainable_variables)

    @tf.autograph.experimental.do_not_convert
    def scale_loss(self, loss):
        """Multiplies a loss, as Keras's trainer asks; `apply` divides its gradients."""
        return self._conditional.scale_loss(self.inner_optimizer.scale_loss(loss))

    @property
    def nonfinite(self) -> str:
        """What a NaN or Inf in a worker's gradient does, as given."""
        return self.aggregator.options.nonfinite

    @property
    def loss_scale_factor(self):
        """The inner optimizer's own, a constant."""
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value):
        """Is set to None by what Keras puts around optimizers: see `loss_scale`."""
        around = _internals.loss_scale_optimizer_around()
        if around is not None:
            self._take_over(around)
        elif value is not None:
            raise ValueError(
                "`loss_scale_factor` must not be set on a SparsifiedOptimizer. "
                f"Received: loss_scale_factor={value!r}. Pass loss_scale={value!r} to "
                "it."
            )

    def finalize_variable_values(self, var_list):
        """As in Keras, which calls it at the end of `fit`.

        Raises:
            tf.errors.InvalidArgumentError: a gradient was not finite at a step that XLA
                has compiled, where nothing can be raised.
        """
        self._raise_what_xla_could_not()
        self.aggregator.raise_what_xla_could_not()
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        options = self.aggregator.options
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "compressor": serialize(options.compressor),
            "memory": serialize(options.memory),
            "dense_below": options.dense_below,
            "warmup_steps": options.warmup_steps,
            "value_dtype": options.value_dtype,
            "nonfinite": options.nonfinite,
            "local_clipnorm": options.local_clipnorm,
            "gradients_divided_by_replicas": options.gradients_divided_by_replicas,
            "exact_payload": options.exact_payload,
            "rounding_seed": options.rounding_seed,
            "masks": options.masks.to_config(),
            **self._conditional.get_config(),
        }

    def save_own_variables(self, store):
        """Saves the number of steps: `inner_optimizer` is saved beside this object."""
        store["steps"] = _internals.raw_iterations(self.inner_optimizer).numpy()

    def load_own_variables(self, store):
        """Loads nothing, and says so if something was kept between steps."""
        trained = "steps" in store and int(store["steps"][()]) > 0
        keeps = self.aggregator.options.kept is not None
        if trained and (keeps or not self._conditional.all_update):
            warnings.warn(LOST_BY_SAVING, stacklevel=2)

    def _raise_what_xla_could_not(self) -> None:
        self._conditional.raise_what_xla_could_not()

    def _apply(self, grads, trainable_variables) -> None:
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            self._build_once(trainable_variables)
        inner = self.inner_optimizer
        alone = self.aggregator.options.leave_gradients_alone
        with contextlib.nullcontext() if alone else when_ready(grads):
            if self._conditional.all_update or tf.distribute.in_cross_replica_context():
                inner.apply(grads, trainable_variables)
            else:
                pairs = _internals.with_gradients(inner, grads, trainable_variables)
                self._conditional.apply(*map(list, zip(*pairs, strict=True)))

    def _build_memory(self, variables) -> None:
        names = self._sums.name(variables)
        with tf.init_scope(), self._scope():
            inner, steps = settings_of(self.inner_optimizer), self._conditional.facts()
            self.aggregator.facts = inner | steps
            self.aggregator.build(variables, names)
            self._conditional.build(variables, names)

    def _take_over(self, outer: keras.optimizers.LossScaleOptimizer) -> None:
        """Scales in the place of what Keras has put around this.

        That one looks at a worker's own gradient, and those of others would wait for it
        for ever.
        """
        if outer.inner_optimizer is not self:
            raise ValueError(LOSS_SCALING)
        self._conditional.scale_as(outer)
        if self.built:
            self._build_memory(_internals.trained_variables(self.inner_optimizer))

        @tf.autograph.experimental.do_not_convert
        def apply(grads, trainable_variables=None):
            if not outer.built and trainable_variables is not None:
                outer.build(trainable_variables)
            self._apply(grads, trainable_variables)

        object.__setattr__(outer, "apply", apply)
        for name in ("scale_loss", "communication_summary", "communication_summaries"):
            object.__setattr__(outer, name, getattr(self, name))
