"""SparsifiedOptimizer: a Keras optimizer whose gradients travel compressed."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _internals
from tem_tf.aggregation import Aggregator
from tem_tf.compressors import Compressor
from tem_tf.inner_optimizer import LOSS_SCALING, check_accumulation, check_inner
from tem_tf.layout import when_ready
from tem_tf.memory import Memory
from tem_tf.places import check_between_steps, check_in_replica, check_made_together
from tem_tf.replica_state import unique_names
from tem_tf.settings import settings_of


@keras.saving.register_keras_serializable(package="tem_tf")
class SparsifiedOptimizer(keras.optimizers.Optimizer):
    """Wraps a Keras optimizer; sums gradients over workers in compressed form.

    Keras's own all-reduce is replaced, and nothing else: clipping comes before it, the
    inner optimizer's update after it. With `compressor=Identity()` and no memory
    nothing is replaced at all. Learning rate, schedules, clipping, weight decay, EMA
    and every other attribute are the inner optimizer's and can be read and set here.

    Under N replicas Keras divides the loss by N. Thresholds, `local_clipnorm` and all
    metrics are in units of one worker's own, undivided gradient all the same; clipping
    set on the inner optimizer keeps Keras's meaning, that of the divided gradient.

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
            share. What rounding takes away stays in the memory; without memory it is
            lost. Small variables and warm-up are float32 always.
        nonfinite: What a NaN or Inf in a worker's gradient does: "raise" (default)
            ends all workers at that step; "zero" counts that worker's gradient as
            zero. Without compression and memory nothing is checked, as in Keras. Under
            XLA, where a step cannot raise, "raise" counts it as zero and raises at the
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
        name: String. Default: the inner optimizer's.

    Raises:
        ValueError: an argument is out of range; `inner_optimizer` is in another
            wrapper already, scales losses, or is made of several optimizers; at the
            first step, it was made under another strategy than what it trains.

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
        name: str | None = None,
    ):
        # The base class's __init__ is left out: it would make variables, and all of
        # this object's are the inner's.
        inner_optimizer = keras.optimizers.get(inner_optimizer)
        check_inner(inner_optimizer, SparsifiedOptimizer)
        self._aggregator = Aggregator(
            compressor,
            memory,
            dense_below=dense_below,
            warmup_steps=warmup_steps,
            value_dtype=value_dtype,
            nonfinite=nonfinite,
            local_clipnorm=local_clipnorm,
            gradients_divided_by_replicas=gradients_divided_by_replicas,
            exact_payload=exact_payload,
        )
        check_accumulation(inner_optimizer, self._aggregator.options)
        self._paths: dict[Any, str] = {}
        self.inner_optimizer = inner_optimizer
        if name is not None:
            inner_optimizer.name = name
        self._inner_all_reduce = _internals.replace_all_reduce(
            inner_optimizer, self._all_reduce
        )
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
            self.inner_optimizer.build(variables)

    def apply(self, grads, trainable_variables=None):
        """Updates the variables; replica context. As in Keras."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            self._build_once(trainable_variables)
        with self._step_of(grads):
            self.inner_optimizer.apply(grads, trainable_variables)

    def apply_gradients(self, grads_and_vars):
        """As in Keras, for custom training loops."""
        grads_and_vars = list(grads_and_vars)
        self._build_once([variable for _, variable in grads_and_vars])
        with self._step_of([gradient for gradient, _ in grads_and_vars]):
            return self.inner_optimizer.apply_gradients(grads_and_vars)

    def finalize_variable_values(self, var_list):
        """As in Keras, which calls it at the end of `fit`.

        Raises:
            tf.errors.InvalidArgumentError: a gradient was not finite at a step that XLA
                has compiled, where nothing can be raised.
        """
        self._aggregator.raise_what_xla_could_not()
        self.inner_optimizer.finalize_variable_values(var_list)

    def communication_summary(self) -> dict[str, float]:
        """What was sent and held back so far, summed over workers.

        Collective: under several workers call it on all of them, outside
        `strategy.run`.

        Returns:
            See `tem_tf.metrics.summarise`.
        """
        return self._summaries("communication_summary")[0]

    def communication_by_variable(self) -> dict[str, dict[str, float]]:
        """The same for each variable, by its path. Collective, as the above.

        Returns:
            See `tem_tf.metrics.summarise_variables`.
        """
        return self._summaries("communication_by_variable")[1]

    def communication_summaries(self) -> tuple[dict, dict]:
        """Both of the above, from one collective."""
        return self._summaries("communication_summaries")

    @property
    def path(self) -> str:
        """By what this process's gradients are compressed, and why, in words.

        "native kernels", or "TensorFlow's operations", which are slower and give the
        same bits, with what has switched the kernels off, such as XLA for the step
        that was traced last; and which variables are summed whole, since their dtype is
        none that is compressed.
        """
        if self._aggregator.options.leave_gradients_alone:
            return "Keras's own all-reduce: nothing is compressed"
        if not self.built:
            raise ValueError("`path` needs an optimizer that has been built.")
        return self._aggregator.path_in_words()

    def running_totals(self) -> tf.Tensor:
        """What this replica sent and held back so far; replica context.

        Cheap, not collective: call it after each `apply` and take differences to have
        every step's own values. Before the first step they are zero.

        Returns:
            float64 (3,): entries sent, payload bytes without padding, sum of ‖e‖².

        Raises:
            ValueError: called outside `strategy.run`, under a strategy.
        """
        check_in_replica("running_totals")
        # A graph that is traced before `build` shall read what later steps count.
        with tf.init_scope(), self._scope():
            self._aggregator.build_totals()
        return self._aggregator.running_totals()

    def forget(self) -> None:
        """Empties what workers hold back, and sets the totals to zero.

        For another training with the same optimizer; the inner optimizer is left as it
        is. Outside `strategy.run`, on all workers.
        """
        check_between_steps("forget")
        if self.built:
            self._aggregator.reset()

    def get_config(self):
        options = self._aggregator.options
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
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("inner_optimizer", "compressor", "memory"):
            if isinstance(config[key], dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        return cls(**config)

    def save_own_variables(self, store):
        """Saves the number of steps: `inner_optimizer` is saved beside this object."""
        store["steps"] = _internals.raw_iterations(self.inner_optimizer).numpy()

    def load_own_variables(self, store):
        """Loads nothing, and says so if something was kept between steps."""
        trained = "steps" in store and int(store["steps"][()]) > 0
        if trained and self._aggregator.options.kept is not None:
            warnings.warn(
                "A saved model holds no residuals: what workers had not sent yet when "
                "it was saved is lost, and error feedback starts from zero.",
                stacklevel=2,
            )

    def _summaries(self, method: str) -> tuple[dict, dict]:
        check_between_steps(method)
        if not self.built:
            raise ValueError(
                f"`{method}` needs an optimizer that has been built: call it after "
                "the first step."
            )
        return self._aggregator.summaries()

    def _step_of(self, gradients):
        alone = self._aggregator.options.leave_gradients_alone
        return contextlib.nullcontext() if alone else when_ready(gradients)

    def _build_once(self, variables) -> None:
        inner = self.inner_optimizer
        if variables and not inner.built:
            with keras.name_scope(inner.name, caller=inner):
                self.build(variables)

    def _build_memory(self, variables) -> None:
        names = unique_names(variables)
        for variable, name in zip(variables, names, strict=True):
            key = _internals.variable_key(self.inner_optimizer, variable)
            self._paths[key] = name
        with tf.init_scope(), self._scope():
            self._aggregator.facts = settings_of(self.inner_optimizer)
            self._aggregator.build(variables, names)

    def _scope(self):
        """The strategy's scope, which may be left by now.

        Outside it all replicas would get one residual together.
        """
        if tf.distribute.has_strategy():
            return contextlib.nullcontext()
        return _internals.strategy_of(self.inner_optimizer).scope()

    def _all_reduce(self, grads_and_vars):
        """Stands in the inner optimizer, in the place of its own all-reduce."""
        options = self._aggregator.options
        if tf.distribute.in_cross_replica_context():  # Keras sums nothing there.
            return self._inner_all_reduce(grads_and_vars)
        variables = [variable for _, variable in grads_and_vars]
        inner = self.inner_optimizer
        keys = [_internals.variable_key(inner, v) for v in variables]
        if not all(key in self._paths for key in keys):
            raise ValueError(
                "An optimizer that is wrapped belongs to its SparsifiedOptimizer. It "
                f"cannot be used by itself. Received: {inner.name!r} with variables "
                "that the wrapper was not built for."
            )
        names = [self._paths[key] for key in keys]
        step = tf.convert_to_tensor(_internals.raw_iterations(inner))
        if options.leave_gradients_alone:
            with when_ready([gradient for gradient, _ in grads_and_vars]):
                self._aggregator.add_dense_step(step, names)
            return self._inner_all_reduce(grads_and_vars)
        gradients = [gradient for gradient, _ in grads_and_vars]
        aggregated = self._aggregator.aggregate(gradients, step, names)
        return list(zip(aggregated, variables, strict=True))

    # What is the inner optimizer's: every other attribute, read and set. Methods and
    # properties of the base class are replaced by forwarding properties, below.

    def __getattr__(self, name):
        if name in _OWN or name.startswith("_self_"):
            raise AttributeError(name)
        return getattr(self.inner_optimizer, name)

    def __setattr__(self, name, value):
        # A name of the class is one of the forwarding properties, or what checkpoints
        # note about this very object.
        if name in _OWN or name.startswith("_self_") or hasattr(type(self), name):
            if name == "inner_optimizer":  # Tracked, so that checkpoints find it.
                self._track_trackable(value, name, overwrite=True)
            object.__setattr__(self, name, value)
        elif name == "loss_scale_factor":
            raise ValueError(LOSS_SCALING)
        else:
            setattr(self.inner_optimizer, name, value)


_OWN = frozenset(
    {
        "inner_optimizer",
        "_aggregator",
        "_inner_all_reduce",
        "_paths",
    }
)


def _forward(name: str) -> property:
    return property(
        lambda self: getattr(self.inner_optimizer, name),
        lambda self, value: setattr(self.inner_optimizer, name, value),
    )


for _name in _internals.optimizer_attributes() - set(vars(SparsifiedOptimizer)):
    if _name not in ("_obj_type",):
        setattr(SparsifiedOptimizer, _name, _forward(_name))
